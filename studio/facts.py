"""What a file says of itself, label by label: short values side by side, long ones each on lines of their own."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import streamlit as st

from studio.sentences import said
from studio.text import escape
from trainer.kohya import TOOLS
from trainer.pnginfo import CARRIED, HIRES, SOURCES

SHORT = 24  # letters
EMPTY = "(empty)"
LABELS = (
    *("Made for", "Kind", "Modules", "Rank", "Alpha", "Hash", "Trigger words", "Frequent tags", "Base model", "Epoch"),
    *("Steps", "Learning rate", "Optimizer", "Resolution", "Loads in {tool}", "Careful", "Source", "Prompt"),
    *("Negative prompt", "Model", "Model hash", *CARRIED, *HIRES),
)
ANSWERS = tuple(
    dict.fromkeys(
        (
            *SOURCES.values(),
            *(answer for answers in TOOLS.values() for answer in answers.values()),
            "yes, but without its magnitudes: another picture",
            "not known",
            EMPTY,
        )
    )
)


def show(pairs: Iterable[tuple[str, str]]) -> None:
    """(label, value) pairs in their order."""
    for short, group in groupby(pairs, lambda pair: len(pair[1]) <= SHORT):
        with st.container(horizontal=short, gap="medium" if short else "small"):
            for label, value in group:
                ours = label == "Source" or label.startswith("Loads in ") or value == EMPTY
                with st.container(width="content" if short else "stretch", gap=None):
                    st.caption(escape(said(label)))
                    st.text(said(value) if ours else value)
