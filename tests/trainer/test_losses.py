"""Losses against their closed forms in float64."""

import pytest
import torch

from trainer import losses

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


def test_l2_is_the_mean_of_each_picture():
    a, b = torch.randn(2, 3, 4, 8, 8)
    assert torch.allclose(losses.l2(a, b), ((a - b) ** 2).flatten(1).mean(1))
