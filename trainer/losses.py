"""What the UNet is asked for, and how its error is weighted over noise levels."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config import LossConfig


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """x_t = sqrt(ᾱ_t)·x_0 + sqrt(1 − ᾱ_t)·ε (Ho et al., DDPM, 2020, eq. 4). All [B, 4, h, w]; timesteps [B]."""
    alpha = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def target(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor, prediction_type: str) -> Tensor:
    """What the UNet should say: ε, or v = sqrt(ᾱ)·ε − sqrt(1 − ᾱ)·x_0 (Salimans & Ho, 2022)."""
    if prediction_type == "epsilon":
        return noise
    alpha = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def snr(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """Signal-to-noise ratio ᾱ / (1 − ᾱ), [B]."""
    alpha = alphas_cumprod[timesteps]
    return alpha / (1 - alpha)


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """min(SNR, γ)/SNR for ε and min(SNR, γ)/(SNR + 1) for v (Hang et al., Min-SNR, 2023). γ = 0 is off. [B]."""
    if gamma == 0:
        return torch.ones_like(snr)
    capped = snr.clamp(max=gamma)
    return capped / (snr if prediction_type == "epsilon" else snr + 1)


def debiased_weight(snr: Tensor, prediction_type: str) -> Tensor:
    """1/√SNR for ε (Yu et al., Debias the Training of Diffusion Models, 2023) and 1/(SNR + 1) for v, with SNR at
    most 1000 as sd-scripts has it. [B]"""
    capped = snr.clamp(max=1000)
    return capped.rsqrt() if prediction_type == "epsilon" else 1 / (capped + 1)


def p2_weight(snr: Tensor, gamma: float, k: float) -> Tensor:
    """(k + SNR)^−γ (Choi et al., Perception Prioritized Training, 2022). γ = 0 is off. [B]"""
    return (k + snr) ** -gamma


def v_like_weight(snr: Tensor, share: float) -> Tensor:
    """1 + share·(SNR + 1)/SNR: the error of v is that of ε times (SNR + 1)/SNR; SNR at most 1000. [B]"""
    capped = snr.clamp(max=1000)
    return 1 + share * (capped + 1) / capped


def noise_like_weight(snr: Tensor) -> Tensor:
    """SNR/(SNR + 1), the other way round: the error of ε is that of v times this. SNR at most 1000. [B]"""
    capped = snr.clamp(max=1000)
    return capped / (capped + 1)


def weight(settings: LossConfig, snr: Tensor, prediction_type: str) -> Tensor:
    """How much each picture's error counts at its noise level, all settings together. [B]"""
    found = min_snr_weight(snr, settings.min_snr_gamma, prediction_type)
    if settings.debiased:
        found = found * debiased_weight(snr, prediction_type)
    if settings.p2_gamma > 0:
        found = found * p2_weight(snr, settings.p2_gamma, settings.p2_k)
    if settings.v_prediction_like > 0:
        found = found * v_like_weight(snr, settings.v_prediction_like)
    if settings.noise_prediction_like:
        found = found * noise_like_weight(snr)
    return found


def threshold(settings: LossConfig, snr: Tensor, timesteps: Tensor, steps: int) -> Tensor:
    """The c of the Huber losses at each time step, as sd-scripts has it. [B]

    constant: c. exponential: c^(t/T), from 1 down to c. snr: (1 − c)/(1 + σ)² + c with σ = 1/√SNR, the same ends.
    """
    c = settings.huber_c
    if settings.huber_schedule == "exponential":
        return c ** (timesteps.to(snr.dtype) / steps)
    if settings.huber_schedule == "snr":
        return (1 - c) / (1 + snr.rsqrt()) ** 2 + c
    return torch.full_like(snr, c)


def error(settings: LossConfig, predicted: Tensor, wanted: Tensor, c: Tensor, mask: Tensor | None = None) -> Tensor:
    """Error of each picture, in float32. [B, 4, h, w] → [B]; `c` [B] is the `threshold` of the Huber losses.

    `mask` [B, 1, h, w] in [0, 1] says how much each place counts. The mean is still over the whole picture, as
    sd-scripts has it, or with `mask_normalised` over the mask's area.
    """
    found = KINDS[settings.kind](predicted.float(), wanted.float(), c.float().view(-1, 1, 1, 1))
    if mask is None:
        return found.mean(dim=(1, 2, 3))
    found = (found * mask).mean(dim=(1, 2, 3))
    # An empty mask has no error either.
    return found / mask.mean(dim=(1, 2, 3)).clamp(min=1e-6) if settings.mask_normalised else found


def l2(predicted: Tensor, wanted: Tensor, c: Tensor) -> Tensor:
    """Squared error."""
    return (predicted - wanted).square()


def huber(predicted: Tensor, wanted: Tensor, c: Tensor) -> Tensor:
    """2c·(√(d² + c²) − c): like d² for small errors, like 2c·|d| for large ones (pseudo-Huber, Charbonnier 1994)."""
    return 2 * c * (((predicted - wanted).square() + c**2).sqrt() - c)


def smooth_l1(predicted: Tensor, wanted: Tensor, c: Tensor) -> Tensor:
    """2·(√(d² + c²) − c): the same curve, with the slope 2 for large errors whatever c is."""
    return 2 * (((predicted - wanted).square() + c**2).sqrt() - c)


def l1(predicted: Tensor, wanted: Tensor, c: Tensor) -> Tensor:
    """Absolute error."""
    return (predicted - wanted).abs()


KINDS = {"l2": l2, "l1": l1, "huber": huber, "smooth_l1": smooth_l1}
