"""Tensors of a checkpoint file, read one at a time: .safetensors through its memory map, .ckpt weights-only.

Modules are built without memory of their own, and each tensor goes straight from the file into its place.
"""

from __future__ import annotations

import pickle
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from trainer.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Shape = tuple[int, ...]
Reader = Callable[[str], "Tensor"]  # name of one of our modules' tensors -> the tensor
# Bytes read through one memory map. What was read stays in memory as long as its map, so that of a file whose numbers
# are turned into another precision no more than this is there twice.
MAP = 2**24
LONGEST_HEADER = 100_000_000  # bytes, of a safetensors file; the format allows no more
ARCHIVE = "an archive: unpack it, and give the file inside"
# How files begin that bear a checkpoint's name and are none, in the order in which they are asked.
STRANGERS = {
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull` in its folder, or download the file itself",
    b"<": "a web page: download the file itself, logged in where the site asks for it",
    b"{": "a server's message instead of the download: get the file again, logged in where the site asks for it",
    b"GGUF": "a GGUF file, packed for rendering: get the model as .safetensors in fp16 or fp32",
    b"7z\xbc\xaf": ARCHIVE,
    b"Rar!": ARCHIVE,
}
# What a factor is called that stands beside a weight of one byte a number (ComfyUI's "scaled fp8", older and newer).
FACTORS = ("scale_weight", "weight_scale")
# What training left beside the weights in the .ckpt files of 2022. It is not wanted, and nothing of it is run.
LEFTOVERS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


class Checkpoint(ABC):
    """A file of named tensors. `shapes` is known at once; the tensors are read when asked for."""

    path: Path
    shapes: dict[str, Shape]
    metadata: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def read(self, key: str) -> Tensor:
        """The tensor as stored, on the CPU. Raises KeyError when there is none of that name."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a .safetensors or .ckpt file. Raises UserError when it is damaged or would run code."""
    with open(path, "rb") as file:
        start = file.read(512)
    # By content and not by ending: a renamed pickle must not be taken for anything else. Safetensors begins with
    # the length of its header, whose eight bytes may look like anything, and then a brace.
    if start[8:9] != b"{" or int.from_bytes(start[:8], "little") > LONGEST_HEADER:
        if what := next((what for sign, what in STRANGERS.items() if start.lstrip().startswith(sign)), ""):
            raise UserError(f"{path} is no checkpoint but {what}.")
        if start.startswith((b"PK", b"\x80")):
            return _Pickle(path)
    if len(start) < 512:
        raise UserError(f"{path} is only {len(start)} bytes: the download is broken; get the file again.")
    return _Safetensors(path)


class _Safetensors(Checkpoint):
    def __init__(self, path: Path):
        from safetensors import SafetensorError

        self.path, self._read = path, 0
        try:
            self._map()
            self.metadata = self._file.metadata() or {}
            self.shapes = {key: tuple(self._file.get_slice(key).get_shape()) for key in self._file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is not a whole safetensors file ({error}): the download was probably cut off; get it again."
            ) from None

    def read(self, key: str) -> Tensor:
        if key not in self.shapes:
            raise KeyError(key)
        if self._read > MAP:
            self._map()
        tensor = self._file.get_tensor(key)
        self._read += tensor.nbytes
        beside = (key.removesuffix("weight") + name for name in FACTORS)
        factor = next((name for name in beside if name in self.shapes), "") if tensor.itemsize == 1 else ""
        if not factor:
            return tensor
        # One for the whole, or one for each row.
        return tensor.float() * self._file.get_tensor(factor).float().reshape(-1, *[1] * (tensor.ndim - 1))

    def _map(self) -> None:
        """Map the file anew; tensors that are in use keep the map that they came from."""
        from safetensors import safe_open

        self._file, self._read = safe_open(self.path, framework="pt"), 0


class Shards(Checkpoint):
    """Several files that hold one module together, as one."""

    def __init__(self, path: Path, files: Sequence[Path]):
        self.path = path
        self._home = {key: file for file in map(open_checkpoint, files) for key in file.shapes}
        self.shapes = {key: file.shapes[key] for key, file in self._home.items()}

    def read(self, key: str) -> Tensor:
        return self._home[key].read(key)


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
            if zipfile.is_zipfile(path) and not any(
                name.endswith("data.pkl") for name in zipfile.ZipFile(path).namelist()
            ):
                raise UserError(f"{path} is no checkpoint but {ARCHIVE}.") from None
            raise UserError(f"{path} cannot be read as a checkpoint ({type(error).__name__}): get it again.") from None
        state = content.get("state_dict", content) if isinstance(content, dict) else {}
        self._tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors.items()}

    def read(self, key: str) -> Tensor:
        return self._tensors[key]


class _Leftover:
    """In the place of a class or function that is not wanted: takes whatever it is given, and does nothing."""

    def __new__(cls, *_: object):
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


def _load_weights(path: Path) -> object:
    import torch

    with torch.serialization.safe_globals([(_Leftover, name) for name in LEFTOVERS]), open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
        if zipped and path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # Files from before torch 1.6 are bare pickles, which cannot be memory-mapped; and of a renamed one torch
        # must not see the name, which it would believe.
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def empty(build: Callable[[], nn.Module]) -> nn.Module:
    """A module whose weights take no memory yet; buffers that no file holds are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return build()


def fill(module: nn.Module, read: Reader, dtype: torch.dtype, file: Checkpoint) -> nn.Module:
    """Give every weight of `module` its tensor. Raises UserError naming the first that is missing or misshapen."""
    import torch

    state = {}
    for path, weight in module.state_dict().items():
        try:
            tensor = read(path)
        except KeyError as error:
            raise UserError(
                f"{file.path} lacks the tensor {error}: it is damaged or of an unknown layout; get it again or another."
            ) from None
        # 1×1 convolutions and linears are written either way.
        if [size for size in tensor.shape if size > 1] != [size for size in weight.shape if size > 1]:
            raise UserError(
                f"{file.path}: {path} is {list(tensor.shape)} where {list(weight.shape)} belongs: the file is damaged "
                "or of an unknown layout; get it again or another."
            )
        state[path] = tensor.reshape(weight.shape).to(dtype, memory_format=torch.contiguous_format)
    module.load_state_dict(state, assign=True)
    return module
