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


# ── other kinds ─────────────────────────────────────────────────────────────────────────────────────────

LINEAR, CONV = (8, 12), (8, 6, 3, 3)  # the base's weights
SIZES = {  # kind -> module's weight -> its tensors in a file, as LyCORIS divides them
    "loha": (LINEAR, {"hada_w1_a": (8, 3), "hada_w1_b": (3, 12), "hada_w2_a": (8, 3), "hada_w2_b": (3, 12)}),
    "loha, flat": (CONV, {"hada_w1_a": (8, 3), "hada_w1_b": (3, 54), "hada_w2_a": (8, 3), "hada_w2_b": (3, 54)}),
    "loha, tucker": (CONV, {"hada_w1_a": (3, 8), "hada_w1_b": (3, 6), "hada_w2_a": (3, 8), "hada_w2_b": (3, 6),
                            "hada_t1": (3, 3, 3, 3), "hada_t2": (3, 3, 3, 3)}),
    "lokr, two whole": (LINEAR, {"lokr_w1": (2, 3), "lokr_w2": (4, 4)}),
    "lokr, one thin": (LINEAR, {"lokr_w1": (2, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 4)}),
    "lokr, both thin": (LINEAR, {"lokr_w1_a": (2, 2), "lokr_w1_b": (2, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 4)}),
    "lokr, first thin": (LINEAR, {"lokr_w1_a": (2, 2), "lokr_w1_b": (2, 3), "lokr_w2": (4, 4)}),
    "lokr, wide": (CONV, {"lokr_w1": (2, 2), "lokr_w2": (4, 3, 3, 3)}),
    "lokr, tucker": (CONV, {"lokr_w1": (2, 2), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 3), "lokr_t2": (2, 2, 3, 3)}),
    "dora": (LINEAR, {"lora_down.weight": (3, 12), "lora_up.weight": (8, 3), "dora_scale": (1, 12)}),
    "dora, wide": (CONV, {"lora_down.weight": (3, 6, 3, 3), "lora_up.weight": (8, 3, 1, 1),
                          "dora_scale": (1, 6, 1, 1)}),
}  # fmt: skip


def other_kind(kind: str, seed: int = 0, dtype=torch.float32) -> dict:
    generator = torch.Generator().manual_seed(seed)
    shapes = SIZES[kind][1]
    made = {f"lora_unet_a.{end}": torch.randn(shape, generator=generator).to(dtype) for end, shape in shapes.items()}
    return {**made, "lora_unet_a.alpha": torch.tensor(1.5, dtype=dtype)}


def base_of(kind: str):
    weight = torch.randn(SIZES[kind][0], generator=torch.Generator().manual_seed(99))
    return lambda name: weight


def effective(tensors: dict, kind: str) -> torch.Tensor:
    """What LyCORIS, A1111 and ComfyUI add to the weight, in their formulas and in float64."""
    own = {key.partition(".")[2]: tensor.double() for key, tensor in tensors.items()}
    weight = base_of(kind)("").double()

    def tucker(core, outer, inner):
        return torch.einsum("ijkl,jr,ip->prkl", core, inner, outer)

    def product(name):
        return own[name] if name in own else own[f"{name}_a"] @ own[f"{name}_b"]

    if "lora_down.weight" in own:
        dim = own["lora_down.weight"].shape[0]
        change = own["lora_up.weight"].flatten(1) @ own["lora_down.weight"].flatten(1)
    elif "hada_t1" in own:
        dim = 3
        first, second = (tucker(own[f"hada_t{n}"], own[f"hada_w{n}_a"], own[f"hada_w{n}_b"]) for n in (1, 2))
        change = first * second
    elif "hada_w1_a" in own:
        dim, change = 3, product("hada_w1") * product("hada_w2")
    else:
        core = "lokr_t2" in own
        second = tucker(own["lokr_t2"], own["lokr_w2_a"], own["lokr_w2_b"]) if core else product("lokr_w2")
        first = product("lokr_w1")
        change = torch.kron(first[..., None, None] if second.ndim == 4 else first, second.contiguous())
        dim = 2 if "lokr_w2_b" in own or "lokr_w1_b" in own else None
    change = change.reshape(weight.shape) * (float(own["alpha"]) / dim if dim else 1)
    if "dora_scale" not in own:
        return change
    new = weight + change
    return new * (own["dora_scale"] / new.transpose(0, 1).flatten(1).norm(dim=1).view(own["dora_scale"].shape)) - weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", [kind for kind in SIZES if "dora" not in kind])
def test_a_strength_is_baked_into_any_kind_that_is_linear_in_it(kind, dtype):
    old = other_kind(kind, dtype=dtype)
    change = changed([(old, 1.0)], strength=0.7, base=base_of(kind))
    assert apart(effective(change.tensors, kind), 0.7 * effective(old, kind)) < 1e-6
    assert change.error < 1e-6
    touched = {key.partition(".")[2] for key in old if not torch.equal(change.tensors[key], old[key])}
    assert touched == ({"lokr_w1"} if kind in ("lokr, two whole", "lokr, wide") else {"alpha"})


@pytest.mark.parametrize("kind", SIZES)
def test_any_kind_is_cut_to_a_plain_lora(kind):
    old = other_kind(kind)
    change = changed([(old, 1.0)], rank=2, strength=0.7, base=base_of(kind))
    assert {key.partition(".")[2] for key in change.tensors} == {"lora_down.weight", "lora_up.weight", "alpha"}
    wanted = 0.7 * effective(old, kind).flatten(1)
    found = delta(change.tensors, "lora_unet_a")
    values = torch.linalg.svdvals(wanted)
    assert float((found - wanted).norm()) == pytest.approx(float(values[2:].norm()), rel=1e-5)
    assert change.error == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-5)
    weight = base_of(kind)("")
    assert change.tensors["lora_unet_a.lora_down.weight"].shape == (2, *weight.shape[1:])
    assert change.tensors["lora_unet_a.lora_up.weight"].shape == (8, 2, *(1,) * (weight.ndim - 2))


def test_unlike_kinds_are_mixed_as_a_plain_lora():
    plain = {key: value for key, value in other_kind("dora", 7).items() if not key.endswith("dora_scale")}
    parts = [("dora", other_kind("dora", 1), 0.5), ("loha", other_kind("loha", 2), -0.3)]
    parts += [("lokr, one thin", other_kind("lokr, one thin", 3), 1.5), ("loha", plain, 1.0)]
    wanted = sum(weight * effective(tensors, kind) for kind, tensors, weight in parts)
    files = [(tensors, weight) for _, tensors, weight in parts]
    change = changed(files, rank=8, base=base_of("dora"))
    assert apart(delta(change.tensors, "lora_unet_a"), wanted) < 1e-6 and change.kept == pytest.approx(1)
    with pytest.raises(UserError, match="only be mixed as a plain LoRA: say of which dim, with --rank"):
        changed(files, base=base_of("dora"))


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr, two whole"])
def test_any_kind_is_stored_in_other_numbers(kind):
    old = other_kind(kind)
    change = changed([(old, 1.0)], dtype="fp16", base=base_of(kind))
    kept = {"alpha", "dora_scale"}  # a magnitude that is rounded would show in the whole weight
    kinds = {tensor.dtype for key, tensor in change.tensors.items() if key.partition(".")[2] not in kept}
    assert kinds == {torch.float16}
    assert change.error == pytest.approx(apart(effective(change.tensors, kind), effective(old, kind)), rel=1e-3)
    assert 1e-6 < change.error < 2e-3


def test_a_dora_takes_no_weight():
    with pytest.raises(UserError, match="does not grow in proportion to its weight.*--rank"):
        changed([(other_kind("dora"), 0.8)], base=base_of("dora"))


def test_what_is_not_known_is_refused():
    for ending in ("oft_blocks", "hada_w1_a"):
        with pytest.raises(UserError, match=f"lora_unet_a is none of them .{ending}.: export one epoch as it is"):
            changed([({f"lora_unet_a.{ending}": torch.zeros(1)}, 1.0)])
    with pytest.raises(UserError, match="fp16"):
        changed([(lora(0), 1.0)], dtype="fp61")
