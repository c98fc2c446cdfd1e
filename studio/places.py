"""Which files a page may touch: only what lies in the working folder's datasets/, runs/, models/ and presets/.

Folders of other tools that Settings link in are read beside models/, and never written.

Names arrive from widgets and addresses, so every one is looked up among what is there; none is joined to a
path on trust.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from studio import preferences
from trainer.errors import UserError
from trainer.kohya.file import read_header
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
    """The files of the library, newest first; those of linked folders come after one's own."""
    own = [MODELS / entry.name for entry in _entries(MODELS) if _is_lora(entry)]
    others = [path for folder in preferences.load().model_folders for path in linked(Path(folder)).loras]
    return [*_newest(own), *_newest(others)]


def is_own(path: Path) -> bool:
    """Whether a file of the library lies in models/ itself, where it may be renamed and described."""
    return path.parent == MODELS


@dataclass(frozen=True)
class Base:
    """A base model that was found: what to write into the settings, and how to show it."""

    path: str
    label: str


SMALLEST_BASE = 300_000_000  # bytes; below it a .safetensors file is a LoRA, an embedding or a VAE
# Where the tools that people come from keep their models, seen from the folder of each installation.
BASE_FOLDERS = ("models/Stable-diffusion", "models/checkpoints", "models/diffusers", "checkpoints", "Stable-diffusion")
LORA_FOLDERS = ("models/Lora", "models/loras", "loras", "Lora")


def bases() -> list[Base]:
    """Checkpoints and diffusers folders in models/ (one level of folders deep) and in linked folders."""
    others = [base for folder in preferences.load().model_folders for base in linked(Path(folder)).bases]
    return [*_bases_in(MODELS), *others]


# Of the extension a1111-sd-webui-tagcomplete, seen from an installation of A1111 or Forge.
TAG_LIST = Path("extensions/a1111-sd-webui-tagcomplete/tags/danbooru.csv")


def tag_list() -> Path | None:
    """The list of known tags: what Settings name, else Danbooru's of a linked installation."""
    chosen = preferences.load()
    if chosen.tag_list:
        return Path(chosen.tag_list)
    found = (Path(folder) / TAG_LIST for folder in chosen.model_folders)
    return next((path for path in found if path.is_file()), None)


@dataclass(frozen=True)
class Linked:
    """What lies in a folder of another tool."""

    bases: list[Base]
    loras: list[Path]


def linked(folder: Path) -> Linked:
    """Models in an installation of A1111, Forge or ComfyUI, else in the folder itself."""
    base_folders = [folder / name for name in BASE_FOLDERS if (folder / name).is_dir()]
    lora_folders = [folder / name for name in LORA_FOLDERS if (folder / name).is_dir()]
    plain = [folder] if not base_folders and not lora_folders else []
    return Linked(
        [base for one in base_folders or plain for base in _bases_in(one)],
        [Path(entry.path) for one in lora_folders or plain for entry in _deep(one) if _is_lora(entry)],
    )


def _bases_in(folder: Path) -> list[Base]:
    found = []
    for entry in _deep(folder):
        path = Path(entry.path)
        whole = entry.is_dir() and (path / "model_index.json").is_file()
        if whole or (entry.name.endswith((".safetensors", ".ckpt")) and entry.stat().st_size >= SMALLEST_BASE):
            found.append(Base(path.as_posix(), f"{entry.name} · {family(path)}"))
    return found


def family(path: Path) -> str:
    """What a base model is by the names of its tensors or its index, without reading its weights."""
    if path.is_dir():
        try:
            kind = json.loads((path / "model_index.json").read_text(encoding="utf-8")).get("_class_name", "")
        except (OSError, ValueError, AttributeError):
            return "?"
        return "SDXL" if "XL" in str(kind) else "SD 1.5"
    if path.suffix != ".safetensors":
        return "?"
    try:
        names = _tensor_names(path.as_posix(), path.stat().st_mtime_ns)
    except (OSError, UserError):
        return "?"
    if any(name.startswith("conditioner.embedders.1.") for name in names):
        return "SDXL"
    return "SD 1.5" if any(name.startswith("cond_stage_model.transformer.") for name in names) else "?"


@lru_cache(maxsize=200)
def _tensor_names(path: str, modified: int) -> tuple[str, ...]:
    return tuple(read_header(Path(path)).shapes)


def _is_lora(entry: os.DirEntry) -> bool:
    return entry.name.endswith(".safetensors") and entry.is_file() and entry.stat().st_size < SMALLEST_BASE * 4


def _newest(files: list[Path]) -> list[Path]:
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


def _deep(folder: Path) -> list[os.DirEntry]:
    """What is in a folder and in the folders in it."""
    first = _entries(folder)
    return [*first, *(inner for entry in first if entry.is_dir() for inner in _entries(entry))]


def _entries(folder: Path | os.DirEntry) -> list[os.DirEntry]:
    """What is in a folder, hidden entries and links that lead nowhere left out; nothing where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".") and Path(entry.path).exists()]
    except OSError:
        return []
    return sorted(found, key=lambda entry: entry.name)
