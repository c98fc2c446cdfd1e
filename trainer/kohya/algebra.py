"""LoRAs as what they add to a model, ΔW: scaled, summed, cut to fewer ranks and stored in other numbers.

Everything is computed in float64, module by module; the result is exact up to its rounding to the stored
precision, which `Change.error` measures. What each kind adds stands in deltas.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import UserError, nearest
from trainer.kohya.deltas import Factors, Own, divisor, factors, is_dora, is_plain, joined, known, modules_of, truncated

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Tensors = dict[str, "Tensor"]
Base = Callable[[str], "Tensor"]  # a module's name -> the base model's own weight
DTYPES = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Change:
    """The new tensors, and how far they are from what was asked for, over all modules.

    `kept`: share of ‖ΔW‖² that a rank reduction keeps. `error`: ‖stored − wanted‖ / ‖wanted‖, rounding and
    reduction together.
    """

    tensors: Tensors
    kept: float
    error: float


def changed(
    parts: Sequence[tuple[Tensors, float]],
    *,
    strength: float = 1.0,
    rank: int = 0,
    dtype: str = "",
    base: Base | None = None,
) -> Change:
    """The LoRA whose ΔW is strength · Σ weight · ΔW of the parts, at most `rank` in each module (0: as it comes).

    One part keeps its kind and its matrices, and only its alpha is scaled. Several are put side by side, their ranks
    adding up. Reduction is the truncated singular value decomposition, the nearest matrix of that rank in the Frobenius
    norm (Eckart and Young 1936); with it a DoRA, LoHa or LoKr becomes a plain LoRA. `dtype`: fp32, fp16, bf16, or
    empty for the parts' own; alphas are float32 where that is more. `base` is asked where a file of such a kind does
    not say enough by itself. Raises UserError for a kind that is not known, a weight for a DoRA that stays one, and a
    sum with one of these kinds that names no rank.
    """
    import torch

    if dtype and dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: {nearest(dtype, DTYPES)}")
    wanted = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype)
    files = [(modules_of(tensors), weight * strength) for tensors, weight in parts]
    tensors: Tensors = {}
    total = kept = missed = 0.0
    for name in dict.fromkeys(name for modules, _ in files for name in modules):
        own = [(modules[name], factor) for modules, factor in files if name in modules]
        _require_possible(name, own, rank)
        weight = base(name) if base and not all(is_plain(one) for one, _ in own) else None
        whole = joined([(factors(one, weight), factor) for one, factor in own])
        (first, factor), alone = own[0], len(own) == 1
        if alone and (not rank or (is_plain(first) and rank >= whole.rank)):
            reduced, stored = whole, _scaled(first, factor, wanted)
        else:
            reduced = truncated(whole, rank) if rank and rank < whole.rank else whole
            stored = _stored(reduced, first, weight, wanted)
        tensors |= {f"{name}.{ending}": tensor for ending, tensor in stored.items()}
        total, kept = total + whole.norm2(), kept + reduced.norm2()
        missed += distance2(whole, factors(stored, weight))
    return Change(tensors, kept / total if total else 1.0, (missed / total) ** 0.5 if total else 0.0)


def _require_possible(name: str, own: Sequence[tuple[Own, float]], rank: int) -> None:
    for one, factor in own:
        if not known(one):
            raise UserError(
                f"Only LoRA, LoCon, DoRA, LoHa and LoKr can be scaled, merged, reduced or stored in other numbers, and "
                f"{name} is none of them ({', '.join(one)}): export one epoch as it is."
            )
        if not rank and len(own) == 1 and is_dora(one) and factor != 1:
            raise UserError(
                "A DoRA does not grow in proportion to its weight, so none can be baked into it: set it in the prompt, "
                "<lora:name:0.8>, or add --rank 32, which makes a plain LoRA of it."
            )
        if not rank and len(own) > 1 and not is_plain(one):
            raise UserError(
                "Epochs of a DoRA, LoHa or LoKr can only be mixed as a plain LoRA: say of which dim, with --rank 32."
            )


def distance2(one: Factors, other: Factors) -> float:
    """‖ΔW − ΔW'‖², never below 0."""
    return max(0.0, joined([(one, 1.0), (other, -1.0)]).norm2())


def _scaled(own: Own, factor: float, dtype: torch.dtype | None) -> Own:
    """The matrices as they are, the factor in alpha: every tool multiplies ΔW with alpha / rank."""
    import torch

    # Magnitudes scale whole weights of the base: a rounding of theirs would show, and they are few.
    stored = {
        ending: tensor if ending in ("alpha", "dora_scale") else tensor.to(dtype or tensor.dtype)
        for ending, tensor in own.items()
    }
    rank, alpha = divisor(own), own.get("alpha")
    if rank is None:
        # Two whole factors have no rank and their alpha does not count; the smaller one takes it, in all its digits.
        return stored if factor == 1 else {**stored, "lokr_w1": (own["lokr_w1"].double() * factor).float()}
    if alpha is not None and factor == 1:
        return stored
    return {**stored, "alpha": torch.tensor((rank if alpha is None else float(alpha)) * factor, dtype=torch.float32)}


def _stored(new: Factors, like: Own, weight: Tensor | None, dtype: torch.dtype | None) -> Own:
    """A plain LoRA's matrices, shaped as the old ones or the base's weight ask, with alpha = rank so that the scale
    is 1."""
    import torch

    if "lora_down.weight" in like:
        inner, outer = like["lora_down.weight"].shape[1:], like["lora_up.weight"].shape[2:]
    else:
        inner, outer = weight.shape[1:], (1,) * (weight.ndim - 2)
    kind = dtype or next(tensor.dtype for ending, tensor in like.items() if ending != "alpha")
    return {
        "lora_down.weight": new.down.reshape(new.rank, *inner).to(kind).contiguous(),
        "lora_up.weight": new.up.reshape(-1, new.rank, *outer).to(kind).contiguous(),
        "alpha": torch.tensor(float(new.rank)),
    }
