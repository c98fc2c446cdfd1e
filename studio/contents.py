"""What is in a dataset folder, read once and kept until a file of it changes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import streamlit as st

from studio.counting import Counting
from studio.language import _
from trainer.dataset import captions, duplicates, health, images, index, tags
from trainer.dataset.findings import OF_CAPTIONS, QUESTIONS, Folder
from trainer.dataset.query import Item
from trainer.errors import UserError

Texts = dict[str, str | None]


RESOLUTION, STEP = 512, 64  # px: what the findings reckon with


@dataclass(frozen=True)
class Contents:
    pictures: list[Path]
    texts: Texts  # picture -> its caption; unreadable ones are left out, the findings name them
    counts: dict[str, int]  # tag -> in how many captions, most frequent first
    trigger: str  # what every caption begins with
    unreadable: dict[Path, str]  # picture -> what is wrong with its caption


# Resources and not data: nobody changes what these answer, and copying it for 10,000 pictures takes long.
# `stamp` is that of panels.stamp: (pictures, captions), each another one when such a file has changed.


@st.cache_resource(max_entries=20, show_spinner=False)
def of(folder: str, stamp: tuple[str, str]) -> Contents:
    pictures = found(folder, stamp[0])
    changes = images.stamps(Path(folder), (captions.EXTENSION,))
    texts: Texts = {}
    unreadable: dict[Path, str] = {}
    for path in pictures:
        file = captions.sidecar(path)
        try:
            texts[path.as_posix()] = read(file, changes[str(file)]) if str(file) in changes else None
        except UserError as error:
            unreadable[path] = str(error)
    firsts = {captions.split(text)[0] for text in texts.values() if text and captions.split(text)}
    trigger = firsts.pop() if len(firsts) == 1 else ""
    return Contents(pictures, texts, tags.frequencies(texts.values()), trigger, unreadable)


@st.cache_resource(max_entries=20, show_spinner=False)
def found(folder: str, pictures: str) -> list[Path]:
    return images.find(Path(folder))


@lru_cache(maxsize=200_000)
def read(file: Path, change: tuple[int, int]) -> str:
    """A caption, read again only when its file has changed: after an edit the other ten thousand have not."""
    return captions.read(file)


@st.cache_resource(max_entries=20, show_spinner=False)
def health_of(folder: str, trigger: str, stamp: tuple[str, str]) -> health.Health:
    """After an edit only the questions about captions are asked again."""
    seen, known = pictures_of(folder, stamp[0])
    content = of(folder, stamp)
    texts = {one.path: content.texts.get(one.path.as_posix()) for one in seen.pictures}
    for path in content.unreadable:
        texts.pop(path, None)
    seen = replace(seen, texts=texts, unreadable=content.unreadable, trigger=trigger)
    answers = (ask(seen, RESOLUTION) if ask in OF_CAPTIONS else known[ask] for ask in QUESTIONS)
    return health.judged(seen, [finding for answer in answers for finding in answer])


@st.cache_resource(max_entries=20, show_spinner=False)
def pictures_of(folder: str, pictures: str) -> tuple[Folder, dict]:
    """The folder without its captions, and what was found about its pictures."""
    seen = health.look(Path(folder), "", RESOLUTION, STEP, "txt", texts=False)
    return seen, {ask: ask(seen, RESOLUTION) for ask in QUESTIONS if ask not in OF_CAPTIONS}


@st.cache_resource(max_entries=20, show_spinner=False)
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


@st.cache_resource(max_entries=20, show_spinner=False)
def survey(folder: str, pictures: str) -> dict[Path, images.Picture]:
    """What is known about the pictures, from the folder's index where they have not changed."""
    try:
        return {picture.path: picture for picture in pictures_of(folder, pictures)[0].pictures}
    except UserError:
        return {}


@st.cache_resource(max_entries=1, show_spinner=False)
def _looked_at() -> set[tuple[str, str]]:
    return set()


def look(folder: str, pictures: str) -> None:
    """Fill the folder's index, with a bar while that takes time; whoever turns away loses nothing of it."""
    bar = st.empty()  # also where there is nothing to do: what follows keeps its place, or an open popover would shut
    if (folder, pictures) in _looked_at():
        return

    def progress(done: int, total: int) -> None:
        text = _("Looking at every picture …") + " " + _("{n} of {total}").format(n=done, total=total)
        if done < total:
            bar.progress(done / total, text)

    with suppress(UserError):  # no picture at all, which the page says
        index.survey(Path(folder), progress=progress)
    bar.empty()
    _looked_at().add((folder, pictures))


@st.cache_resource(max_entries=20, show_spinner=False)
def alike(folder: str, pictures: str) -> list[list[Path]]:
    """Groups of pictures that show the same, the one to keep first."""
    groups = duplicates.grouped(list(survey(folder, pictures).values()))
    kept = [(duplicates.best(group), group) for group in groups]
    return [[best.path, *(one.path for one in group if one is not best)] for best, group in kept]
