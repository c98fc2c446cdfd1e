"""What a module of a LoRA file adds to the base's weight, ΔW, for every kind: as two factors, in float64.

The formulas are kohya's for LoRA and LyCORIS' for LoHa and LoKr, with the axis of a DoRA's magnitudes along the input,
where A1111 and ComfyUI read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Own = dict[str, "Tensor"]  # a module's tensors by what stands behind its name in the file
PLAIN = ("lora_down.weight", "lora_up.weight", "alpha")
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "alpha")
KNOWN = (PLAIN, (*PLAIN, "dora_scale"), LOHA, LOKR)


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


def modules_of(tensors: dict[str, Tensor]) -> dict[str, Own]:
    """A file's tensors by the names of their modules."""
    found: dict[str, Own] = {}
    for key, tensor in tensors.items():
        name, _, ending = key.partition(".")
        found.setdefault(name, {})[ending] = tensor
    return found


def known(own: Own) -> bool:
    """Whether the tensors are those of one kind, all of them and nothing more."""
    found = own.keys()
    lokr = all({f"lokr_{one}"} <= found or {f"lokr_{one}_a", f"lokr_{one}_b"} <= found for one in ("w1", "w2"))
    whole = found >= set(PLAIN[:2]) or found >= set(LOHA[:4]) or lokr
    return whole and any(found <= set(endings) for endings in KNOWN)


def is_plain(own: Own) -> bool:
    return own.keys() <= set(PLAIN)


def is_dora(own: Own) -> bool:
    return "dora_scale" in own


def divisor(own: Own) -> int | None:
    """The rank that every tool divides alpha by; None for two whole factors of a LoKr, whose scale is 1."""
    if "lora_down.weight" in own:
        return own["lora_down.weight"].shape[0]
    thin = next((own[ending] for ending in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b") if ending in own), None)
    return None if thin is None else thin.shape[0]


def factors(own: Own, weight: Tensor | None = None) -> Factors:
    """A module's ΔW as stored, alpha / rank multiplied in; without an alpha the scale is 1.

    `weight` is the base's own, which a DoRA turns and scales: (W + ΔW) · m / ‖W + ΔW‖ − W, one m for each input.
    """
    own = {ending: tensor.double() for ending, tensor in own.items()}
    rank = divisor(own)
    scale = float(own["alpha"]) / rank if rank and "alpha" in own else 1.0
    make = _lora if "lora_down.weight" in own else _loha if "hada_w1_a" in own else _lokr
    made = make(own)
    made = Factors(made.up * scale, made.down)
    if is_dora(own):
        return _whole(_turned(made.up @ made.down, own["dora_scale"], weight.double()))
    return made if made.rank <= min(len(made.up), made.down.shape[1]) else _whole(made.up @ made.down)


def _lora(own: Own) -> Factors:
    return Factors(own["lora_up.weight"].flatten(1), own["lora_down.weight"].flatten(1))


def _turned(change: Tensor, magnitude: Tensor, weight: Tensor) -> Tensor:
    import torch

    new = weight + change.view(weight.shape)
    axes = tuple(axis for axis in range(weight.ndim) if axis != 1)
    norm = torch.linalg.vector_norm(new, dim=axes, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (new * (magnitude.view(norm.shape) / norm) - weight).flatten(1)


def _loha(own: Own) -> Factors:
    """The element-wise product of two LoRAs of rank r is one of rank r²: all products of their rows and columns."""
    import torch

    first, second = (tuple(own[f"hada_w{number}_{side}"] for side in "ab") for number in (1, 2))
    if "hada_t1" in own:
        return _whole((_core(own["hada_t1"], *first) * _core(own["hada_t2"], *second)).flatten(1))
    up = torch.einsum("or,os->ors", first[0], second[0]).flatten(1)
    return Factors(up, torch.einsum("ri,si->rsi", first[1], second[1]).flatten(0, 1))


def _lokr(own: Own) -> Factors:
    """kron(a · b, c · d) = kron(a, c) · kron(b, d)."""
    import torch

    first, second = _pair(own, "lokr_w1"), _pair(own, "lokr_w2")
    return Factors(torch.kron(first.up, second.up), torch.kron(first.down, second.down))


def _pair(own: Own, name: str) -> Factors:
    if name in own:
        return _whole(own[name].flatten(1))
    if name == "lokr_w2" and "lokr_t2" in own:
        return _whole(_core(own["lokr_t2"], own[f"{name}_a"], own[f"{name}_b"]).flatten(1))
    return Factors(own[f"{name}_a"], own[f"{name}_b"].flatten(1))


def _core(core: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """A Tucker decomposition: core [r, s, kh, kw], outer [r, out], inner [s, in] -> [out, in, kh, kw]."""
    import torch

    return torch.einsum("rskl,ro,si->oikl", core, outer, inner)


def _whole(change: Tensor) -> Factors:
    """A ΔW that is not thin: itself, and the unit matrix on its shorter side."""
    import torch

    outer, inner = change.shape
    if outer < inner:
        return Factors(torch.eye(outer, dtype=change.dtype), change)
    return Factors(change, torch.eye(inner, dtype=change.dtype))


def joined(parts: Sequence[tuple[Factors, float]]) -> Factors:
    """Σ weight · ΔW: up matrices side by side, down matrices on top of each other; added where that is no longer."""
    import torch

    rank = sum(one.rank for one, _ in parts)
    if len(parts) > 1 and rank > min(len(parts[0][0].up), parts[0][0].down.shape[1]):
        return _whole(sum(one.up @ one.down * weight for one, weight in parts))
    up = torch.cat([one.up * weight for one, weight in parts], dim=1)
    return Factors(up, torch.cat([one.down for one, _ in parts], dim=0))


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
