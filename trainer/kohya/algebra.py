"""LoRAs as what they add to a model, ΔW = up · down · alpha / rank: scaled, summed and cut to fewer ranks.

Everything is computed in float64, module by module; the result is exact up to its rounding to the stored
precision, which `Change.error` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import UserError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Tensors = dict[str, "Tensor"]
DTYPES = ("fp32", "fp16", "bf16")
ENDINGS = (".lora_down.weight", ".lora_up.weight", ".alpha")
_OTHERS = {"dora_scale": "a DoRA", "hada_": "a LoHa", "lokr_": "a LoKr"}  # what tells them, in their keys


@dataclass(frozen=True)
class Change:
    """The new tensors, and how far they are from what was asked for, over all modules.

    `kept`: share of ‖ΔW‖² that a rank reduction keeps. `error`: ‖stored − wanted‖ / ‖wanted‖, rounding and
    reduction together.
    """

    tensors: Tensors
    kept: float
    error: float


@dataclass(frozen=True)
class Factors:
    """One module's ΔW [out, in] = up [out, r] · down [r, in] in float64; a convolution's `in` is in·kh·kw."""

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def norm2(self) -> float:
        """‖ΔW‖², from the two r × r Gram matrices: ΔW itself need not be made."""
        return float(((self.up.T @ self.up) * (self.down @ self.down.T)).sum())


def changed(parts: Sequence[tuple[Tensors, float]], *, strength: float = 1.0, rank: int = 0, dtype: str = "") -> Change:
    """The LoRA whose ΔW is strength · Σ weight · ΔW of the parts, at most `rank` in each module (0: as it comes).

    One part keeps its matrices and only its alpha is scaled; several are put side by side, their ranks adding
    up. Reduction is the truncated singular value decomposition, the nearest matrix of that rank in the Frobenius
    norm (Eckart and Young 1936). `dtype`: fp32, fp16, bf16, or empty for the first part's own; alphas are
    float32 where that is more. Raises UserError for a file that is no plain LoRA.
    """
    import torch

    _require_plain([tensors for tensors, _ in parts])
    if dtype and dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: {nearest(dtype, DTYPES)}")
    wanted = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype)
    tensors: Tensors = {}
    total = kept = missed = 0.0
    for name in _names(parts):
        own = [(one, weight) for one, weight in parts if f"{name}{ENDINGS[0]}" in one]
        whole = joined([(factors(one, name), weight * strength) for one, weight in own])
        reduced = truncated(whole, rank) if rank and rank < whole.rank else whole
        kind = wanted or own[0][0][f"{name}{ENDINGS[0]}"].dtype
        # Untouched matrices keep their values; what the sum or the reduction made is new in any case.
        same = len(own) == 1 and reduced is whole
        stored = _scaled(own[0], name, strength, kind) if same else _stored(reduced, own[0][0], name, kind)
        tensors |= stored
        total, kept = total + whole.norm2(), kept + reduced.norm2()
        missed += distance2(whole, factors(stored, name))
    return Change(tensors, kept / total if total else 1.0, (missed / total) ** 0.5 if total else 0.0)


def _require_plain(files: list[Tensors]) -> None:
    for tensors in files:
        for key in tensors:
            if not key.endswith(ENDINGS):
                kind = next((name for sign, name in _OTHERS.items() if sign in key), f"no LoRA known here ({key})")
                raise UserError(
                    f"Only plain LoRAs can be scaled, merged, reduced or stored in other numbers, and this one is "
                    f"{kind}: export one epoch as it is, and set its weight in the prompt, <lora:name:0.8>."
                )


def _names(parts: Sequence[tuple[Tensors, float]]) -> list[str]:
    keys = dict.fromkeys(key for tensors, _ in parts for key in tensors if key.endswith(ENDINGS[0]))
    return [key.removesuffix(ENDINGS[0]) for key in keys]


def factors(tensors: Tensors, name: str) -> Factors:
    """A module's ΔW as stored, alpha / rank multiplied into up; without an alpha the scale is 1."""
    down, up = (tensors[name + ending].double().flatten(1) for ending in ENDINGS[:2])
    alpha = tensors.get(f"{name}.alpha")
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    return Factors(up * scale, down)


def joined(parts: Sequence[tuple[Factors, float]]) -> Factors:
    """Σ weight · ΔW: up matrices side by side, down matrices on top of each other."""
    import torch

    up = torch.cat([factors.up * weight for factors, weight in parts], dim=1)
    return Factors(up, torch.cat([factors.down for factors, _ in parts], dim=0))


def truncated(whole: Factors, rank: int) -> Factors:
    """The nearest ΔW of `rank`, by QR of both sides and the SVD of the small matrix between them.

    Each side gets the square roots of the singular values, so that both stay in the range of fp16.
    """
    import torch

    q_up, r_up = torch.linalg.qr(whole.up)
    q_down, r_down = torch.linalg.qr(whole.down.T)
    u, s, v = torch.linalg.svd(r_up @ r_down.T)
    root = s[:rank].sqrt()
    return Factors(q_up @ u[:, :rank] * root, root[:, None] * (v[:rank] @ q_down.T))


def distance2(one: Factors, other: Factors) -> float:
    """‖ΔW − ΔW'‖², never below 0."""
    return max(0.0, joined([(one, 1.0), (other, -1.0)]).norm2())


def _scaled(part: tuple[Tensors, float], name: str, strength: float, dtype: torch.dtype) -> Tensors:
    """The matrices as they are, the factor in alpha."""
    import torch

    tensors, weight = part
    down, up = (tensors[name + ending] for ending in ENDINGS[:2])
    alpha = tensors.get(f"{name}.alpha")
    value = (down.shape[0] if alpha is None else float(alpha)) * weight * strength
    untouched = alpha is not None and value == float(alpha)
    stored = alpha if untouched else torch.tensor(value, dtype=torch.float32)
    values = (down.to(dtype), up.to(dtype), stored)
    return {name + ending: tensor for ending, tensor in zip(ENDINGS, values)}


def _stored(new: Factors, like: Tensors, name: str, dtype: torch.dtype) -> Tensors:
    """New matrices in the shapes of the old ones, with alpha = rank, so that the scale is 1."""
    import torch

    down, up = (like[name + ending].shape for ending in ENDINGS[:2])
    shaped = new.down.reshape(new.rank, *down[1:]), new.up.reshape(up[0], new.rank, *up[2:])
    values = (*(matrix.to(dtype) for matrix in shaped), torch.tensor(float(new.rank)))
    return {name + ending: tensor.contiguous() for ending, tensor in zip(ENDINGS, values)}
