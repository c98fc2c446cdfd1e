"""Tensors of a checkpoint file, read one at a time: .safetensors through its memory map, .ckpt weights-only."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


class Checkpoint(ABC):
    """A file of named tensors. `shapes` is known at once; the tensors are read when asked for."""

    path: Path
    shapes: dict[str, Shape]

    @abstractmethod
    def read(self, key: str) -> Tensor:
        """The tensor as stored, on the CPU. Raises KeyError when there is none of that name."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a .safetensors or .ckpt file. Raises UserError when it is damaged or would run code."""
    with open(path, "rb") as file:
        start = file.read(512)
    if len(start) < 512:
        raise UserError(f"{path} is only {len(start)} bytes: the download is broken; get the file again.")
    # By content and not by ending: a renamed pickle must not be taken for anything else. Safetensors begins with
    # the length of its header, whose eight bytes may look like anything, and then a brace.
    if start[8:9] != b"{":
        if start.lstrip()[:1] == b"<" or start.startswith(b"version https://git-lfs"):
            raise UserError(f"{path} is a web page or a Git LFS pointer, not a checkpoint: download the file itself.")
        if start.startswith((b"PK", b"\x80")):
            return _Pickle(path)
    return _Safetensors(path)


class _Safetensors(Checkpoint):
    def __init__(self, path: Path):
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            self._file = safe_open(path, framework="pt")
            self.shapes = {key: tuple(self._file.get_slice(key).get_shape()) for key in self._file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is not a whole safetensors file ({error}): the download was probably cut off; get it again."
            ) from None

    def read(self, key: str) -> Tensor:
        if key not in self.shapes:
            raise KeyError(key)
        return self._file.get_tensor(key)


class _Pickle(Checkpoint):
    """torch.load's weights-only unpickler builds tensors and plain containers and refuses everything else."""

    def __init__(self, path: Path):
        import torch

        self.path = path
        try:
            content = _load_weights(path)
        except pickle.UnpicklingError:
            raise UserError(
                f"{path} contains more than weights (Python code that loading would run), so it is not opened: "
                "get the model as .safetensors."
            ) from None
        except Exception as error:  # a damaged archive surfaces as any of a dozen kinds
            raise UserError(f"{path} cannot be read as a checkpoint ({type(error).__name__}): get it again.") from None
        state = content.get("state_dict", content) if isinstance(content, dict) else {}
        self._tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def read(self, key: str) -> Tensor:
        return self._tensors[key]


def _load_weights(path: Path) -> object:
    import torch

    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
        if zipped and path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # Files from before torch 1.6 are bare pickles, which cannot be memory-mapped; and of a renamed one torch
        # must not see the name, which it would believe.
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
