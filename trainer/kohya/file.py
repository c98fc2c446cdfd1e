"""Write and read LoRA files, and look into any safetensors file's header without torch."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import UserError
from trainer.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

Metadata = dict[str, str]
CORE = "lora_mid.weight"  # of a Tucker decomposition


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file's content: tensors on the CPU under their stored names and in their stored precision."""

    tensors: dict[str, Tensor]
    metadata: Metadata


def write(path: Path, tensors: dict[str, Tensor], metadata: Metadata) -> Path:
    """Write a LoRA file whole or not at all, with the two hashes that sd-scripts puts beside its metadata.

    Raises UserError when the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save

    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    # sd-scripts hashes the file as it is with the ss_ entries alone; only the legacy hash depends on it.
    plain = save(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    hashes = {"sshs_model_hash": model_hash(plain), "sshs_legacy_hash": legacy_hash(plain)}
    if "modelspec.sai_model_spec" in metadata:
        hashes["modelspec.hash_sha256"] = "0x" + hashes["sshs_model_hash"]
    return write_bytes(path, save(tensors, {**metadata, **hashes}))


def read(path: Path) -> LoraFile:
    """Read a LoRA file. A Tucker-decomposed convolution (LyCORIS' `use_tucker`) comes as the LoCon that it is.

    Raises UserError when the file is missing or broken.
    """
    from safetensors import SafetensorError, safe_open

    metadata = read_header(path).metadata
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): get the file again.") from None
    return LoraFile(_without_cores(tensors, path), metadata)


def _without_cores(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Each core [r, r, kh, kw] multiplied into its down matrix [r, in, 1, 1]: the same ΔW from two matrices.

    ΔW = Σ up[o, n] · core[n, m, k, l] · down[m, i], as A1111, ComfyUI and LyCORIS rebuild it.
    """
    import torch

    found = dict(tensors)
    for key in [key for key in tensors if key.endswith(f".{CORE}")]:
        lower = key.replace(CORE, "lora_down.weight")
        core, down = tensors[key], tensors.get(lower)
        if down is None or core.ndim != 4 or core.shape[0] != core.shape[1] or core.shape[1] != len(down):
            raise UserError(f"{path}: {key} does not fit the matrices beside it: the file is damaged; get it again.")
        found[lower] = torch.einsum("nmkl,mi->nikl", core.float(), down.flatten(1).float())
        del found[key]
    return found


def tensor_hash(path: Path) -> str:
    """`sshs_model_hash` of a file: as stored, else computed. The same tensors have the same hash, whatever else
    the file says."""
    stored = read_header(path).metadata.get("sshs_model_hash")
    return stored or model_hash(Path(path).read_bytes())


def renamed(metadata: Metadata, name: str) -> Metadata:
    """The metadata for a file called `name`: A1111 and Forge put `ss_output_name` into <lora:…>."""
    return {**metadata, "ss_output_name": name, "modelspec.title": name}


def model_hash(content: bytes) -> str:
    """`sshs_model_hash`: SHA-256 of everything behind the safetensors header, so of the tensors alone."""
    (length,) = struct.unpack("<Q", content[:8])
    return hashlib.sha256(memoryview(content)[8 + length :]).hexdigest()


def legacy_hash(content: bytes) -> str:
    """`sshs_legacy_hash`: the first 8 digits of the SHA-256 of 64 KiB at 1 MiB, A1111's first way to name a model."""
    return hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]


# ── headers ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Header:
    """What stands at the front of a safetensors file."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]  # as the format spells them: F16, BF16, F32 …
    offsets: dict[str, tuple[int, int]]  # from the start of the file
    metadata: Metadata
    start: int  # where the tensors begin


def read_header(path: Path) -> Header:
    """The header of a safetensors file, checked against the file's size. Raises UserError when it is broken."""
    try:
        size = Path(path).stat().st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError("the header is cut off or it is no safetensors file")
            entries = json.loads(file.read(length))
            metadata = {str(key): str(value) for key, value in entries.pop("__metadata__", {}).items()}
            header = Header(
                shapes={key: tuple(entry["shape"]) for key, entry in entries.items()},
                dtypes={key: entry["dtype"] for key, entry in entries.items()},
                offsets={key: tuple(8 + length + at for at in entry["data_offsets"]) for key, entry in entries.items()},
                metadata=metadata,
                start=8 + length,
            )
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a safetensors file or is damaged ({error}): get it again.") from None
    if max((end for _, end in header.offsets.values()), default=header.start) != size:
        raise UserError(f"{path} is not whole: its tensors do not fill the file. Get it again.")
    return header


def module_shapes(tensors) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Module name -> shapes of its down and up matrix, from tensors or from a header's shapes."""
    shapes = {key: tuple(getattr(value, "shape", value)) for key, value in tensors.items()}
    names = [key.removesuffix(".lora_down.weight") for key in shapes if key.endswith(".lora_down.weight")]
    return {name: (shapes[f"{name}.lora_down.weight"], shapes.get(f"{name}.lora_up.weight", ())) for name in names}
