"""Files that a prompt or a setting names: LoRAs, embeddings (textual inversions) and upscalers, found by name.

A1111's rule: the name is the file's name without its ending, in any case, anywhere below the folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import kohya
from trainer.errors import UserError
from trainer.webui import prompt

if TYPE_CHECKING:
    from torch import Tensor

Folders = Path | str | Iterable[Path | str]
EMBEDDING_FILES = (".safetensors", ".pt", ".bin")
UPSCALER_FILES = (".pth", ".pt", ".safetensors")
# What A1111 calls the models that it fetches itself -> their file names.
UPSCALER_NAMES = {
    "R-ESRGAN 4x+": "RealESRGAN_x4plus",
    "R-ESRGAN 4x+ Anime6B": "RealESRGAN_x4plus_anime_6B",
    "R-ESRGAN 2x+": "RealESRGAN_x2plus",
    "ESRGAN_4x": "ESRGAN",
}
_NAMED = re.compile(r"\bembedding:([\w.-]+)")  # ComfyUI's way to name one


@dataclass(frozen=True)
class Shelf:
    """Where the files that prompts name are looked for."""

    models: tuple[str, ...] = ("models",)
    embeddings: tuple[str, ...] = ("embeddings",)

    def loras(self, text: str) -> list[tuple[prompt.Network, Path]]:
        """The LoRAs of a prompt's <lora:…> tags with their files. Raises UserError when one is missing."""
        networks = [network for network in prompt.parse(text).networks if network.is_lora]
        return [(network, self._lora(network.name)) for network in networks]

    def _lora(self, name: str) -> Path:
        path = find_network(name, self.models)
        if path is None:
            raise UserError(
                f"There is no LoRA file for <lora:{name}>: looked for {name}.safetensors in {_listed(self.models)}. "
                "Put it there, name its folder with evaluation.model_folders, or take it out of the prompt."
            )
        return path

    def named(
        self, prompts: Sequence[str], negatives: Sequence[str] = (), upscaler: Path | None = None
    ) -> tuple[tuple[str, str, str], ...]:
        """(kind, name, hash) of every file that these texts bring in: another file is another picture.

        Kinds are lora, embedding and upscaler; hashes are cut to the 12 digits that A1111 shows.
        """
        networks = [pair for text in prompts for pair in self.loras(text)]
        found = [("lora", network.name, kohya.tensor_hash(path)[:12]) for network, path in networks]
        texts = "\n".join([*prompts, *negatives])
        known = find_embeddings(self.embeddings)
        found += [("embedding", name, digest(known[name])) for name in named_in(texts, known)]
        found += [("upscaler", upscaler.stem, digest(upscaler))] if upscaler else []
        return tuple(dict.fromkeys(found))

    def upscaler(self, name: str) -> Path:
        """The model file of an upscaler, by A1111's name or its own. Raises UserError when there is none."""
        stem = UPSCALER_NAMES.get(name, name).lower()
        files = [path for path in _files(self.models) if path.suffix.lower() in UPSCALER_FILES]
        path = next((path for path in files if stem in (path.stem.lower(), path.name.lower())), None)
        if path is None:
            raise UserError(
                f"There is no upscaler {name!r}: looked for {UPSCALER_NAMES.get(name, name)}.pth in "
                f"{_listed(self.models)}. Put it there, or use Latent, Lanczos or Nearest."
            )
        return path


def _listed(folders: Sequence[str]) -> str:
    return " and ".join(f"{str(folder).rstrip('/')}/" for folder in folders)


def _files(folders: Folders) -> list[Path]:
    roots = [folders] if isinstance(folders, (str, Path)) else folders
    return [path for root in roots if Path(root).is_dir() for path in sorted(Path(root).rglob("*")) if path.is_file()]


def find_network(name: str, folders: Folders) -> Path | None:
    """The LoRA file that `<lora:name>` means: by its file name without ending, anywhere below the folders."""
    wanted = Path(name).name.lower()
    files = (path for path in _files(folders) if path.suffix.lower() == ".safetensors")
    return next((path for path in files if path.stem.lower() == wanted), None)


def find_embeddings(folders: Folders) -> dict[str, Path]:
    """Name -> file of every textual inversion below the folders; a prompt names it by the file's name."""
    return {path.stem: path for path in _files(folders) if path.suffix.lower() in EMBEDDING_FILES}


def named_in(text: str, known: Iterable[str]) -> list[str]:
    """Those of the known names that stand in a text as words of their own, in either case."""
    return [name for name in known if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)]


def missing_in(text: str, known: Iterable[str]) -> list[str]:
    """Names called with `embedding:name` that no file has. They are read as words, as A1111 does."""
    lower = {name.lower() for name in known}
    return [name for name in dict.fromkeys(_NAMED.findall(text)) if name.lower() not in lower]


def digest(path: Path) -> str:
    """The first 12 digits of a file's SHA-256."""
    return _digest(Path(path), Path(path).stat().st_mtime_ns)


@cache
def _digest(path: Path, _: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


# ── embeddings ──────────────────────────────────────────────────────────────────────────────────────────


def count_vectors(path: Path) -> int:
    """How many token places an embedding takes. Raises UserError when the file is none.

    .safetensors holds a tensor [n, width] (`emb_params`, or `clip_l` and `clip_g` for SDXL); A1111's .pt holds
    `string_to_param`. Read weights-only, so that a file cannot run code.
    """
    if path.suffix.lower() == ".safetensors":
        shapes = list(kohya.read_header(path).shapes.values())
    else:
        shapes = [tuple(value.shape) for value in _unpickled(path).values()]
    sizes = [shape[0] if len(shape) == 2 else 1 for shape in shapes if len(shape) in (1, 2)]
    if not sizes:
        raise UserError(f"{path} is not a textual inversion: it holds no vectors. Take it out of the folder.")
    return max(sizes)


def read_embedding(path: Path, widths: Sequence[int]) -> list[Tensor] | None:
    """The vectors [n, width] for each text encoder of a base; None when it was made for another kind of base.

    `widths` are the encoders' widths: one for SD 1.5, two for SDXL, whose files hold `clip_l` and `clip_g`.
    Raises UserError when the file is no textual inversion.
    """
    count_vectors(path)
    tensors = kohya.read(path).tensors if path.suffix.lower() == ".safetensors" else _unpickled(path)
    if {"clip_l", "clip_g"} <= tensors.keys():
        found = [tensors["clip_l"], tensors["clip_g"]]
    else:
        found = [next(iter(tensors.values()))]
    found = [vectors.detach().float().reshape(-1, vectors.shape[-1]) for vectors in found]
    fits = [vectors.shape[-1] for vectors in found] == list(widths) and len({len(vectors) for vectors in found}) == 1
    return found if fits else None


def _unpickled(path: Path) -> dict[str, Any]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds; each of them means the same to the owner
        raise UserError(f"{path} cannot be read as an embedding ({type(error).__name__}): get it again.") from error
    values = content.get("string_to_param", content) if isinstance(content, dict) else {}
    return {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
