"""What is worked on: a folder of pictures, the runs on it, their comparisons, and what was exported of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

from studio import contents, loras, panels, places
from trainer.cells import BASE_EPOCH, Evaluation
from trainer.errors import UserError
from trainer.run import Run

DEMO = "demo-moss"  # the folder that the demo makes, and how its run is called


@dataclass(frozen=True)
class Project:
    """How far a folder of pictures has come; `run` is the newest on it."""

    name: str = ""
    pictures: int = 0
    captioned: int = 0
    run: Run | None = None
    epochs: int = 0
    compared: int = 0  # of these epochs
    best: int | None = None  # the recommended one
    exported: list[str] = field(default_factory=list)

    @property
    def tagged(self) -> bool:
        return 0 < self.pictures == self.captioned


def names() -> list[str]:
    """The folders in datasets/, the one that was trained last first."""
    there = places.datasets()
    recent = [Path(folder_of(run)).name for run in places.runs()[:1]]
    return [*(name for name in recent if name in there), *(name for name in there if name not in recent)]


def look(name: str | None) -> Project:
    """Where things stand with this folder; without one, with the newest run."""
    runs = [run for run in places.runs() if not name or Path(folder_of(run)) == places.DATASETS / name]
    pictures, captioned = counted(name) if name else (0, 0)
    if not runs:
        return Project(name or "", pictures, captioned)
    run = runs[0]
    compared, best = comparison_of(run)
    made = {loras.session_of(run.name) for run in runs}
    exported = [path.stem for path in places.loras() if places.is_own(path) and session(path) in made]
    return Project(name or "", pictures, captioned, run, len(run.epochs()), compared, best, exported)


def counted(name: str) -> tuple[int, int]:
    """(pictures, those of them with a caption)."""
    folder = places.dataset(name)
    try:
        texts = contents.of(folder.as_posix(), panels.stamp(folder)).texts
    except UserError:
        return 0, 0
    return len(texts), sum(1 for text in texts.values() if text)


def comparison_of(run: Run) -> tuple[int, int | None]:
    """(epochs that the newest comparison shows, the one it recommends)."""
    for folder in run.comparisons():
        try:
            evaluation = Evaluation.load(folder)
        except UserError:
            continue
        own = [number for number in evaluation.epochs if number != BASE_EPOCH and number not in evaluation.labels]
        return len(own), (evaluation.recommended or {}).get("epoch")
    return 0, None


def session(path: Path) -> str:
    try:
        return loras.read(path).metadata.get("ss_session_id", "")
    except UserError:
        return ""


def folder_of(run: Run) -> str:
    """Where its pictures lie; nothing where its settings cannot be read."""
    return _folder(run.path.as_posix())


@st.cache_data(max_entries=500, show_spinner=False)
def _folder(path: str) -> str:
    """Kept: a run's settings never change."""
    try:
        return Run(path).config.data.folder
    except UserError:
        return ""
