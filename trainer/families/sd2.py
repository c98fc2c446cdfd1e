"""Stable Diffusion 2.x: one OpenCLIP-H text encoder, 768 px with v-prediction or 512 px with noise prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.families.base import BaseModel, Conditioning
from trainer.families.sd15 import StableDiffusion15

if TYPE_CHECKING:
    from torch import Tensor


class StableDiffusion2(StableDiffusion15):
    """SD 2.0, SD 2.1 and what was fine-tuned from them. Told, drawn and named as SD 1.5 is; the layer that the text
    is taken from is part of the architecture: the encoder ends one layer before OpenCLIP's last."""

    name = "sd2"
    title = "SD 2.x"
    resolution = 768
    max_clip_skip = 1
    base_model_version = "sd_v2"
    modelspec_architecture = "stable-diffusion-v2-768-v/lora"

    def encode(self, model: BaseModel, tokens: Sequence[Tensor], clip_skip: int = 1) -> Conditioning:
        """The encoder's last layer; `clip_skip` has no effect."""
        return super().encode(model, tokens)
