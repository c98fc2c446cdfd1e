"""What the UNet is asked for, and how its error is weighted over noise levels."""

from __future__ import annotations

import torch
from torch import Tensor


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


def l2(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of each picture, in float32. [B, 4, h, w] → [B]."""
    return (predicted.float() - wanted.float()).square().mean(dim=(1, 2, 3))
