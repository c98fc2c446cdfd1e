"""ΔW of scaled, merged and reduced LoRAs, against float64 matrices."""

import pytest
import torch

from trainer.errors import UserError
from trainer.kohya import changed

SHAPES = {  # module -> (down without its rank, up's outputs, up's tail)
    "lora_unet_a": ((24,), 40, ()),
    "lora_unet_conv": ((6, 3, 3), 20, (1, 1)),
    "lora_te_b": ((16,), 16, ()),
}


def lora(seed: int, rank: int = 4, alpha: float | None = 2.0, dtype=torch.float32, only=None) -> dict:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (inner, outer, tail) in SHAPES.items():
        if only is None or name in only:
            tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *inner, generator=generator).to(dtype)
            tensors[f"{name}.lora_up.weight"] = torch.randn(outer, rank, *tail, generator=generator).to(dtype)
            if alpha is not None:
                tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return tensors


def delta(tensors: dict, name: str) -> torch.Tensor:
    """ΔW by the definition: up · down · alpha / rank, in float64."""
    down, up = (tensors[f"{name}.lora_{side}.weight"].double().flatten(1) for side in ("down", "up"))
    return up @ down * float(tensors.get(f"{name}.alpha", down.shape[0])) / down.shape[0]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("strength", [0.8, 2.0, -0.5])
@pytest.mark.parametrize("alpha", [2.0, None])
def test_a_strength_is_baked_into_alpha_alone(strength, alpha):
    old = lora(0, alpha=alpha)
    change = changed([(old, 1.0)], strength=strength)
    for name in SHAPES:
        assert apart(delta(change.tensors, name), strength * delta(old, name)) < 1e-7
        for side in ("down", "up"):
            key = f"{name}.lora_{side}.weight"
            assert torch.equal(change.tensors[key], old[key])
    assert change.error < 2e-7 and change.kept == 1


def test_a_merge_is_the_weighted_sum_also_of_other_ranks_alphas_and_modules():
    parts = [(lora(0, 4, 2.0), 0.5), (lora(1, 6, 6.0), 0.7), (lora(2, 3, None, only=["lora_te_b"]), -1.2)]
    change = changed(parts, strength=0.9, dtype="fp32")
    for name in SHAPES:
        present = [(tensors, weight) for tensors, weight in parts if f"{name}.lora_up.weight" in tensors]
        wanted = sum(0.9 * weight * delta(tensors, name) for tensors, weight in present)
        assert apart(delta(change.tensors, name), wanted) < 1e-6  # float32 stores 7 digits
    assert change.tensors["lora_te_b.lora_down.weight"].shape[0] == 4 + 6 + 3
    assert change.error < 1e-6
    assert change.tensors["lora_unet_conv.lora_down.weight"].shape == (10, 6, 3, 3)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_reduced_rank_is_the_best_there_is(rank):
    old = lora(0, 8, 4.0)
    change = changed([(old, 1.0)], rank=rank, strength=0.5)
    lost = total = 0.0
    for name in SHAPES:
        wanted = 0.5 * delta(old, name)
        values = torch.linalg.svdvals(wanted)
        got = delta(change.tensors, name)
        assert torch.linalg.matrix_rank(got, rtol=1e-5) == rank
        # Eckart and Young: no matrix of this rank is nearer than the singular values that were left out.
        assert float((got - wanted).norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-5)
        lost, total = lost + float((values[rank:] ** 2).sum()), total + float((values**2).sum())
    assert change.kept == pytest.approx(1 - lost / total, rel=1e-9)
    assert change.error == pytest.approx((lost / total) ** 0.5, rel=1e-5)


def test_a_rank_that_is_there_already_changes_nothing():
    old = lora(0)
    change = changed([(old, 1.0)], rank=4)
    assert all(torch.equal(change.tensors[key], old[key]) for key in old) and change.error < 1e-7


@pytest.mark.parametrize(("dtype", "rounding"), [("fp32", 1e-7), ("fp16", 1e-3), ("bf16", 8e-3)])
def test_another_precision_is_rounded_once_and_its_error_told(dtype, rounding):
    old = lora(0)
    change = changed([(old, 1.0)], dtype=dtype)
    kinds = {tensor.dtype for key, tensor in change.tensors.items() if not key.endswith("alpha")}
    assert kinds == {{"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]}
    assert change.error <= rounding
    assert dtype == "fp32" or change.error > 1e-5


def test_what_is_no_plain_lora_is_refused():
    with pytest.raises(UserError, match="this one is a LoHa: export one epoch as it is"):
        changed([({"lora_unet_a.hada_w1_a": torch.zeros(1)}, 1.0)])
    with pytest.raises(UserError, match="fp16"):
        changed([(lora(0), 1.0)], dtype="fp61")
