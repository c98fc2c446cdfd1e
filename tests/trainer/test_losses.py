"""Losses, their weights and the noise against independent computations in float64."""

import math

import pytest
import torch

from trainer import losses, noise
from trainer.config import LossConfig
from trainer.families.schedule import zero_terminal_snr

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
STEPS = torch.tensor([0, 10, 500, 999])


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_is_the_papers(gamma, kind):
    snr = losses.snr(ALPHAS, STEPS)
    wanted = [min(s, gamma) / (s if kind == "epsilon" else s + 1) for s in snr.tolist()]
    assert losses.min_snr_weight(snr, gamma, kind).tolist() == pytest.approx(wanted)


def test_gamma_zero_is_off():
    assert losses.min_snr_weight(losses.snr(ALPHAS, STEPS), 0, "epsilon").tolist() == [1, 1, 1, 1]


def test_noise_and_targets_agree_with_one_another():
    """x0 and ε can be told from x_t and v: x0 = √ᾱ·x_t − √(1−ᾱ)·v."""
    latents, noise = torch.randn(2, 4, 4, 8, 8, dtype=torch.float64)
    noisy = losses.add_noise(latents, noise, ALPHAS, STEPS)
    v = losses.target(latents, noise, ALPHAS, STEPS, "v_prediction")
    alpha = ALPHAS[STEPS].view(-1, 1, 1, 1)
    assert torch.allclose(alpha.sqrt() * noisy - (1 - alpha).sqrt() * v, latents)
    assert losses.target(latents, noise, ALPHAS, STEPS, "epsilon") is noise


# ── the size of an error ────────────────────────────────────────────────────────────────────────────────


def error_by_hand(kind: str, c: float, a, b) -> float:
    """Mean over one picture, in Python's own numbers."""
    forms = {
        "l2": lambda d: d * d,
        "l1": abs,
        "huber": lambda d: 2 * c * (math.sqrt(d * d + c * c) - c),
        "smooth_l1": lambda d: 2 * (math.sqrt(d * d + c * c) - c),
    }
    return sum(forms[kind](x - y) for x, y in zip(a.flatten().tolist(), b.flatten().tolist())) / a.numel()


def threshold_by_hand(schedule: str, c: float, step: int) -> float:
    alpha = ALPHAS[step].item()
    sigma = math.sqrt((1 - alpha) / alpha)
    return {
        "constant": c,
        "exponential": math.exp(math.log(c) * step / 1000),
        "snr": (1 - c) / (1 + sigma) ** 2 + c,
    }[schedule]


@pytest.mark.parametrize("kind", losses.KINDS)
@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
@pytest.mark.parametrize("c", [0.1, 0.7])
def test_each_loss_is_its_closed_form(kind, schedule, c):
    settings = LossConfig(kind=kind, huber_schedule=schedule, huber_c=c)
    predicted, wanted = torch.randn(2, 4, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    found = losses.threshold(settings, losses.snr(ALPHAS, STEPS), STEPS, 1000)
    by_hand = [threshold_by_hand(schedule, c, step) for step in STEPS.tolist()]
    assert found.tolist() == pytest.approx(by_hand)
    errors = losses.error(settings, predicted, wanted, found)
    assert errors.tolist() == pytest.approx(
        [error_by_hand(kind, c, a, b) for c, a, b in zip(by_hand, predicted, wanted)], rel=1e-5
    )


@pytest.mark.parametrize("kind", losses.KINDS)
def test_gradients_are_those_of_the_closed_form(kind):
    predicted, wanted = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    predicted.requires_grad_()
    c, d = 0.3, (predicted - wanted).detach().double()
    losses.error(LossConfig(kind=kind), predicted, wanted, torch.tensor([c])).sum().backward()
    slopes = {
        "l2": 2 * d,
        "l1": d.sign(),
        "huber": 2 * c * d / (d**2 + c**2).sqrt(),
        "smooth_l1": 2 * d / (d**2 + c**2).sqrt(),
    }
    assert torch.allclose(predicted.grad.double(), slopes[kind] / d.numel(), atol=1e-6)


# ── what an error counts ────────────────────────────────────────────────────────────────────────────────


def weight_by_hand(settings: dict, snr: float, kind: str) -> float:
    v = kind == "v_prediction"
    gamma, found = settings.get("min_snr_gamma", 5.0), 1.0
    if gamma:
        found *= min(snr, gamma) / (snr + v)
    if settings.get("debiased"):
        found *= 1 / (min(snr, 1000) + 1) if v else 1 / math.sqrt(min(snr, 1000))
    if settings.get("p2_gamma"):
        found /= (settings.get("p2_k", 1.0) + snr) ** settings["p2_gamma"]
    if settings.get("noise_prediction_like"):
        found *= min(snr, 1000) / (min(snr, 1000) + 1)
    share = settings.get("v_prediction_like", 0)
    return found * (1 + share * (min(snr, 1000) + 1) / min(snr, 1000))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_snr_gamma": 0},
        {"min_snr_gamma": 1},
        {"min_snr_gamma": 0, "debiased": True},
        {"min_snr_gamma": 0, "p2_gamma": 1},
        {"min_snr_gamma": 0, "p2_gamma": 0.5, "p2_k": 2},
        {"min_snr_gamma": 0, "v_prediction_like": 0.3},
        {"min_snr_gamma": 0, "noise_prediction_like": True},
        {"min_snr_gamma": 5, "debiased": True, "p2_gamma": 1, "v_prediction_like": 0.1},
    ],
)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_each_weight_is_its_closed_form(settings, kind):
    snr = losses.snr(ALPHAS, STEPS)
    found = losses.weight(LossConfig(**settings), snr, kind)
    assert found.tolist() == pytest.approx([weight_by_hand(settings, value, kind) for value in snr.tolist()])


def test_pure_noise_reaches_the_weights():
    """With zero terminal SNR the last step's SNR is (next to) nothing in min-SNR and debiased weighting too."""
    shifted = zero_terminal_snr(ALPHAS)
    snr = losses.snr(shifted, torch.tensor([999]))
    assert snr.item() < 1e-7 < losses.snr(ALPHAS, torch.tensor([999])).item()
    assert losses.weight(LossConfig(min_snr_gamma=5), snr, "v_prediction").item() == pytest.approx(snr.item())
    settings = LossConfig(min_snr_gamma=0, debiased=True)
    assert losses.weight(settings, snr, "v_prediction").item() == pytest.approx(1)


# ── noise ───────────────────────────────────────────────────────────────────────────────────────────────

WHITE = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(3))


def generators(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(name))


def test_noise_is_left_alone_when_nothing_is_asked_for():
    assert noise.shaped(WHITE, LossConfig(), generators) is WHITE
    assert noise.perturbed(WHITE, LossConfig(), generators) is WHITE


def test_an_offset_moves_whole_channels():
    moved = noise.shaped(WHITE, LossConfig(noise_offset=0.5), generators) - WHITE
    steps = 0.5 * torch.randn(4, 1, 1, generator=generators("noise offset"))
    assert torch.allclose(moved, steps.expand_as(moved), atol=1e-6)


def test_pyramid_noise_is_the_normed_sum_of_its_sizes():
    """Against numpy-like sums in float64: nearest cells cannot serve, so the enlargement is done by hand."""
    found = noise.shaped(WHITE, LossConfig(multires_iterations=3, multires_discount=0.5), generators).double()
    generator, total = generators("pyramid noise"), WHITE.double()
    for level in range(3):
        ratio = 2 + 2 * torch.rand((), generator=generator).item()
        size = max(1, int(32 / ratio**level))
        coarse = torch.randn(1, 4, size, size, generator=generator)[0].double()
        total = total + 0.5**level * enlarge(enlarge(coarse, 32).transpose(1, 2), 32).transpose(1, 2)
    assert torch.allclose(found, total / total.std(), atol=1e-5)
    assert found.std().item() == pytest.approx(1)


def enlarge(values: torch.Tensor, width: int) -> torch.Tensor:
    """Linear interpolation along the last axis between cell centres."""
    size = values.shape[-1]
    at = ((torch.arange(width, dtype=torch.float64) + 0.5) * size / width - 0.5).clamp(0, size - 1)
    left = at.floor().long()
    right = (left + 1).clamp(max=size - 1)
    return values[..., left] + (at - left) * (values[..., right] - values[..., left])


@pytest.mark.parametrize("change", [{"multires_iterations": 4}, {"multires_discount": 0.6}])
def test_each_pyramid_setting_counts(change):
    settings = {"multires_iterations": 2, "multires_discount": 0.3}
    one = noise.shaped(WHITE, LossConfig(**settings), generators)
    assert not torch.equal(one, noise.shaped(WHITE, LossConfig(**{**settings, **change}), generators))


def test_a_pyramid_ends_at_a_single_cell():
    few, many = (LossConfig(multires_iterations=count) for count in (20, 64))
    assert torch.equal(noise.shaped(WHITE, few, generators), noise.shaped(WHITE, many, generators))


def test_a_perturbation_is_added_and_not_asked_for():
    added = noise.perturbed(WHITE, LossConfig(input_perturbation=0.1), generators)
    assert torch.allclose(added, WHITE + 0.1 * torch.randn(WHITE.shape, generator=generators("perturbation")))
