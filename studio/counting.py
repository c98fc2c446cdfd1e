"""Tokens of captions: exactly, with the tokenizer of the base that is chosen, where that is at hand; else estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from studio import places, preferences, state
from trainer.config import TrainConfig
from trainer.dataset import tags, tokens
from trainer.errors import UserError

WINDOW = 75  # tokens of CLIP's window; longer captions take two or three of them
WINDOWS = 3  # which the text encoders of the usual tools read


@dataclass(frozen=True)
class Counting:
    """How captions are counted."""

    base: str  # the base whose tokenizer counts
    folder: str = ""  # where that lies; empty: estimated

    @property
    def name(self) -> str:
        """The base as people call it."""
        return self.base if self.base.startswith("toybox/") else Path(self.base).name

    def count(self, texts: Sequence[str]) -> list[int]:
        if self.folder:
            try:
                return _counter(self.folder).count(texts)
            except UserError:
                pass  # `chosen` has tried it; the files went since
        return [tags.count_tokens(text) for text in texts]


def chosen() -> Counting:
    """By the base in the train form, else by the one that would be offered there."""
    base = state.draft().get("model.base") or _offered()
    folder = tokens.find(base, [Path(tool) for tool in preferences.load().model_folders])
    if folder is not None:
        try:
            _counter(folder.as_posix()).count([""])
            return Counting(base, folder.as_posix())
        except UserError:
            pass
    return Counting(base)


def limit(number: int) -> int:
    """The end of the window that so many tokens reach: 75, 150 or 225."""
    return WINDOW * max(1, min(WINDOWS, -(-number // WINDOW)))


@st.cache_data(ttl=30, show_spinner=False)
def _offered() -> str:
    found = places.bases()
    return found[0].path if found else TrainConfig().model.base


@st.cache_resource(max_entries=4, show_spinner=False)
def _counter(folder: str) -> tokens.Counter:
    return tokens.Counter(Path(folder))
