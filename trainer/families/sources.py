"""Where a base model lies: the toybox, a folder, a file, or the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.errors import UserError, nearest

FILE_SUFFIXES = (".safetensors", ".ckpt")
INSTEAD = (
    "give an SD 1.5, SD 2.x or SDXL checkpoint (.safetensors), a diffusers folder, a hub id such as "
    "stabilityai/stable-diffusion-xl-base-1.0, toybox/sd15 or toybox/sdxl"
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """A base model on disk."""

    path: Path
    kind: Literal["single_file", "folder"]
    name: str  # what the user calls it, for metadata and infotext: file or folder name without its ending


def resolve(base: str) -> Source:
    """Find `base`; a hub id is downloaded, or taken from the cache. Raises UserError when there is nothing."""
    if not base.strip():
        raise UserError(f"model.base is empty: {INSTEAD}.")
    if base.startswith("toybox/"):
        return _toybox(base)
    path = Path(base).expanduser()
    if path.is_dir():
        return Source(path, "folder", path.resolve().name)
    if path.is_file():
        return _file(path)
    if path.suffix in FILE_SUFFIXES or path.is_absolute() or not _HUB_ID.fullmatch(base):
        raise UserError(f"There is no base model at {base}: {INSTEAD}.")
    return Source(_download(base), "folder", base.rsplit("/", 1)[1])


def _toybox(base: str) -> Source:
    from trainer.toybox import PARTS

    name = base.removeprefix("toybox/")
    folders = {part for part, path in PARTS.items() if part.startswith("sd") and Path(path).is_dir()}
    if name not in folders:
        raise UserError(f"There is no base model {base!r} in the toybox; {nearest(name, folders or {'sd15', 'sdxl'})}")
    return Source(Path(PARTS[name]), "folder", f"toybox-{name}")


def _file(path: Path) -> Source:
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise UserError(f"{path} is not a base model: {INSTEAD}.")
    return Source(path, "single_file", path.stem)


def _download(hub_id: str) -> Path:
    """The snapshot folder of a hub repository in diffusers' layout; works from the cache when offline."""
    from huggingface_hub import errors, snapshot_download

    # A root-level .safetensors repeats all weights in one file; fp16 twins and the safety checker are not used.
    wanted = ["model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors"]
    unwanted = ["*.fp16.safetensors", "*non_ema*", "safety_checker/*", "feature_extractor/*"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted, ignore_patterns=unwanted))
    except errors.GatedRepoError:
        raise UserError(
            f"{hub_id} asks you to accept its licence: do so at https://huggingface.co/{hub_id}, "
            "then run `hf auth login`."
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"There is no file, folder or hub repository called {hub_id}: {INSTEAD}.") from None
    except Exception as error:  # no network, a proxy, a full disk: the client passes on whatever its transport raises
        raise UserError(
            f"{hub_id} is neither a file or folder here nor in the Hugging Face cache, and the hub cannot be "
            f"reached ({type(error).__name__}): check the path or the connection, or {INSTEAD}."
        ) from None
