"""The VAE of a base model, or another one in its place, from a folder or a file in either layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import UserError
from trainer.families.base import Family

if TYPE_CHECKING:
    import torch
    from torch import nn


def precision(family: Family, dtype: torch.dtype) -> torch.dtype:
    """The precision a VAE is loaded in. bfloat16's eight bits would show in the pictures, and the original
    SDXL VAE overflows float16; its latents are computed once, so float32 costs little."""
    import torch

    return torch.float16 if dtype == torch.float16 and family.name != "sdxl" else torch.float32


def load(family: Family, path: Path, dtype: torch.dtype) -> nn.Module:
    """An AutoencoderKL from a diffusers folder (itself, or its vae/) or a single file in either naming.

    Raises UserError when there is none, or when it does not make latents of 4 channels.
    """
    from diffusers import AutoencoderKL

    from trainer.families import folder, single_file

    dtype = precision(family, dtype)
    if path.is_dir():
        inner = path / "vae" if (path / "vae").is_dir() else path
        vae = folder.load_part(AutoencoderKL, inner, dtype)
    elif path.is_file():
        vae = single_file.load_vae(family, path, dtype)
    else:
        raise UserError(f"There is no VAE at {path}: model.vae wants a .safetensors file or a diffusers folder.")
    if vae.config.latent_channels != 4:
        raise UserError(f"{path} is a VAE with {vae.config.latent_channels} latent channels; {family.title} needs 4.")
    return vae
