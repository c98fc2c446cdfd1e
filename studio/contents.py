"""What is in a dataset folder, read once and kept until a file of it changes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from studio.counting import Counting
from studio.language import _
from trainer.dataset import captions, duplicates, health, images, index, tags
from trainer.dataset.query import Item
from trainer.errors import UserError

Texts = dict[str, str | None]


@dataclass(frozen=True)
class Contents:
    pictures: list[Path]
    texts: Texts  # picture -> its caption; unreadable ones are left out, the findings name them
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
    firsts = {captions.split(text)[0] for text in texts.values() if text and captions.split(text)}
    trigger = firsts.pop() if len(firsts) == 1 else ""
    return Contents(pictures, texts, tags.frequencies(texts.values()), trigger)


@st.cache_data(max_entries=20, show_spinner=False)
def health_of(folder: str, trigger: str, stamp: tuple[str, str]) -> health.Health:
    return health.check(Path(folder), trigger=trigger)


@st.cache_resource(max_entries=20, show_spinner=False)  # nobody changes them, and copies of 10,000 take long
def items(folder: str, stamp: tuple[str, str], counting: Counting) -> list[Item]:
    """The pictures as filters see them, those with an unreadable caption as ones without."""
    found = of(folder, stamp)
    sizes = survey(folder, stamp[0])
    issues: dict[Path, set[str]] = {}
    for finding in health_of(folder, found.trigger, stamp).findings:
        if finding.file is not None:
            issues.setdefault(finding.file, set()).add(finding.kind)
    texts = [found.texts.get(path.as_posix()) for path in found.pictures]
    numbers = counting.count([text or "" for text in texts])
    return [
        item(path, text, sizes.get(path), issues.get(path), number)
        for path, text, number in zip(found.pictures, texts, numbers)
    ]


def item(path: Path, text: str | None, picture: images.Picture | None, issues: set[str] | None, tokens: int) -> Item:
    measured = (picture.width, picture.height, picture.bytes) if picture else ()  # a broken file has no size
    return Item(path, text, *measured, issues=frozenset(issues or ()), tokens=tokens)


@st.cache_data(max_entries=20, show_spinner=False)
def survey(folder: str, pictures: str) -> dict[Path, images.Picture]:
    """What is known about the pictures, from the folder's index where they have not changed."""
    try:
        return {picture.path: picture for picture in index.survey(Path(folder))[0]}
    except UserError:
        return {}


@st.cache_resource(max_entries=1, show_spinner=False)
def _looked_at() -> set[tuple[str, str]]:
    return set()


def look(folder: str, pictures: str) -> None:
    """Fill the folder's index, with a bar while that takes time; whoever turns away loses nothing of it."""
    if (folder, pictures) in _looked_at():
        return
    bar = st.empty()

    def progress(done: int, total: int) -> None:
        text = _("Looking at every picture …") + " " + _("{n} of {total}").format(n=done, total=total)
        if done < total:
            bar.progress(done / total, text)

    with suppress(UserError):  # no picture at all, which the page says
        index.survey(Path(folder), progress=progress)
    bar.empty()
    _looked_at().add((folder, pictures))


@st.cache_data(max_entries=20, show_spinner=False)
def alike(folder: str, pictures: str) -> list[list[Path]]:
    """Groups of pictures that show the same, the one to keep first."""
    groups = duplicates.grouped(list(survey(folder, pictures).values()))
    kept = [(duplicates.best(group), group) for group in groups]
    return [[best.path, *(one.path for one in group if one is not best)] for best, group in kept]
