"""The noise that pictures are covered with: white, with an offset, or of several sizes.

Each kind draws from a generator of its own, so that turning one on leaves all other draws as they were.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from trainer.config import LossConfig

Generators = Callable[[str], Generator]  # a name -> its generator


def shaped(noise: Tensor, settings: LossConfig, generators: Generators) -> Tensor:
    """White noise [4, h, w] as the settings want it."""
    if settings.noise_offset > 0:
        noise = offset(noise, settings.noise_offset, generators("noise offset"))
    if settings.multires_iterations > 0:
        noise = pyramid(noise, settings.multires_iterations, settings.multires_discount, generators("pyramid noise"))
    return noise


def offset(noise: Tensor, strength: float, generator: Generator) -> Tensor:
    """The same random step up or down for a whole channel (Guttenberg, Diffusion With Offset Noise, 2023)."""
    return noise + strength * torch.randn(noise.shape[0], 1, 1, generator=generator)


def pyramid(noise: Tensor, iterations: int, discount: float, generator: Generator) -> Tensor:
    """Noise of ever coarser sizes added, each weaker, and the sum brought back to a deviation of 1 (Whitaker,
    Multi-Resolution Noise, 2023). Each size is 2 to 4 times as coarse as the one before."""
    channels, height, width = noise.shape
    for level in range(iterations):
        ratio = 2 + 2 * torch.rand((), generator=generator).item()
        size = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        coarse = torch.randn(1, channels, *size, generator=generator)
        enlarged = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
        noise = noise + enlarged * discount**level
        if 1 in size:
            break
    return noise / noise.std()


def perturbed(noise: Tensor, settings: LossConfig, generators: Generators) -> Tensor:
    """What is really added to the picture: the noise to be found, and some that nobody asks for (Ning et al.,
    Input Perturbation Reduces Exposure Bias, 2023)."""
    if settings.input_perturbation == 0:
        return noise
    return noise + settings.input_perturbation * torch.randn(noise.shape, generator=generators("perturbation"))
