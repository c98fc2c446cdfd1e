"""The hires fix between its two passes: what the first one made, at the size of the second. As A1111 does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer import upscalers
from trainer.cells import Hires
from trainer.webui import samplers

if TYPE_CHECKING:
    from trainer.render import Renderer


def enlarge(renderer: Renderer, hires: Hires, size: tuple[int, int], latents: Tensor) -> Tensor:
    """Latents [B, 4, h, w] of a picture of `size` (width, height) at the size of the second pass.

    Latent upscalers work on them as they are. Others decode each picture, upscale its pixels and encode them; of
    the VAE's distribution its mean is taken, so that nothing random comes in.
    """
    to, kept = hires.sizes(*size)
    if hires.upscaler in upscalers.LATENT:
        large = upscalers.upscale_latents(latents, (to[0] // 8, to[1] // 8), hires.upscaler)
    else:
        network = renderer.upscaler(hires.upscaler) if upscalers.is_model(hires.upscaler) else None
        pictures = [upscalers.upscale_picture(renderer.picture(row), to, hires.upscaler, network) for row in latents]
        means = [renderer.model.family.encode_images(renderer.model, _pixels(one))[0] for one in pictures]
        large = torch.cat(means).to(latents)
    # What is too long is cut off evenly on both sides.
    cut_x, cut_y = (to[0] - kept[0]) // 8, (to[1] - kept[1]) // 8
    return large[:, :, cut_y // 2 : large.shape[2] - (cut_y + 1) // 2, cut_x // 2 : large.shape[3] - (cut_x + 1) // 2]


def _pixels(picture) -> Tensor:
    """A PIL picture as [1, 3, H, W] in [-1, 1]."""
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return values.view(1, picture.height, picture.width, 3).permute(0, 3, 1, 2).float() / 127.5 - 1


def settings(hires: Hires, first_sampler: str, lora: str = "") -> dict[str, object]:
    """What A1111 and Forge write into the infotext of such a picture; `lora` is the tag that both passes have."""
    resize = hires.width or hires.height
    found = {
        "Denoising strength": hires.denoise,
        "Hires upscale": None if resize else float(hires.upscale),
        "Hires resize": f"{hires.width}x{hires.height}" if resize else None,
        "Hires steps": hires.steps or None,
        "Hires upscaler": hires.upscaler,
        "Hires prompt": hires.prompt + lora if hires.prompt else None,
        "Hires negative prompt": hires.negative or None,
        "Hires CFG Scale": float(hires.cfg_scale) if hires.cfg_scale else None,
    }
    if hires.sampler:
        sampler, schedule = samplers.resolve(hires.sampler)
        first, first_schedule = samplers.resolve(first_sampler)
        found["Hires sampler"] = sampler.label if sampler != first else None
        found["Hires schedule type"] = schedule if schedule != first_schedule else None
    return found
