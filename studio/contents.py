"""What is in a dataset folder, read once and kept until a file of it changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from studio import sieve
from trainer.dataset import captions, health, images
from trainer.errors import UserError

Texts = dict[str, str | None]


@dataclass(frozen=True)
class Contents:
    pictures: list[Path]
    texts: Texts  # picture -> its caption; unreadable ones are left out, the findings name them
    tags: dict[str, frozenset[str]]  # picture -> its tags as they are compared
    counts: dict[str, int]  # tag -> in how many captions, most frequent first
    trigger: str  # what every caption begins with


@st.cache_data(max_entries=20, show_spinner=False)
def of(folder: str, stamp: tuple[str, str]) -> Contents:
    """`stamp` makes the answer old when a file changes."""
    pictures = images.find(Path(folder))
    texts: Texts = {}
    for path in pictures:
        try:
            texts[path.as_posix()] = captions.caption_of(path)
        except UserError:
            continue
    tags = {path: frozenset(map(captions.same, captions.split(text or ""))) for path, text in texts.items()}
    firsts = {(captions.split(text or "") or [""])[0] for text in texts.values()}
    return Contents(pictures, texts, tags, sieve.tag_counts(texts), firsts.pop() if len(firsts) == 1 else "")


@st.cache_data(max_entries=20, show_spinner=False)
def health_of(folder: str, trigger: str, stamp: tuple[str, str]) -> health.Health:
    return health.check(Path(folder), trigger=trigger, known=survey(folder, stamp[0]))


@st.cache_data(max_entries=20, show_spinner=False)
def survey(folder: str, pictures: str) -> dict[Path, images.Picture]:
    """Decoding the pictures takes long, so an edited caption must not cause it."""
    try:
        return {picture.path: picture for picture in images.survey(Path(folder))[0]}
    except UserError:
        return {}
