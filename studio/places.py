"""Which files a page may touch: only what lies in the working folder's datasets/, runs/, models/ and presets/.

Names arrive from widgets and addresses, so every one is looked up among what is there; none is joined to a
path on trust.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError
from trainer.run import Run, find_runs

DATASETS, RUNS, MODELS, PRESETS = Path("datasets"), Path("runs"), Path("models"), Path("presets")


def datasets() -> list[str]:
    """Names of the folders in datasets/, in alphabetical order."""
    return sorted(entry.name for entry in _entries(DATASETS) if entry.is_dir())


def dataset(name: str) -> Path:
    """The folder in datasets/ of this name. Raises UserError when there is none."""
    if name not in datasets():
        raise UserError(f"There is no folder {name!r} in datasets/.")
    return DATASETS / name


def runs() -> list[Run]:
    """Every run of the working folder, newest first."""
    return find_runs(RUNS)


def loras() -> list[Path]:
    """The files of the library, newest first."""
    files = [MODELS / entry.name for entry in _entries(MODELS) if entry.name.endswith(".safetensors")]
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


@dataclass(frozen=True)
class Base:
    """A base model that was found: what to write into the settings, and how to show it."""

    path: str
    label: str


SMALLEST_BASE = 300_000_000  # bytes; below it a .safetensors file is a LoRA, an embedding or a VAE


def bases() -> list[Base]:
    """Checkpoints and diffusers folders in models/ (one level of folders deep)."""
    found = []
    nested = [inner for folder in _entries(MODELS) if folder.is_dir() for inner in _entries(folder)]
    for entry in [*_entries(MODELS), *nested]:
        path = Path(entry.path)
        whole = entry.is_dir() and (path / "model_index.json").is_file()
        if whole or (entry.name.endswith(".safetensors") and entry.stat().st_size >= SMALLEST_BASE):
            found.append(Base(path.as_posix(), entry.name))
    return found


def _entries(folder: Path | os.DirEntry) -> list[os.DirEntry]:
    """What is in a folder, hidden entries and links that lead nowhere left out; nothing where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".") and Path(entry.path).exists()]
    except OSError:
        return []
    return sorted(found, key=lambda entry: entry.name)
