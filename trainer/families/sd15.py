"""Stable Diffusion 1.x: one CLIP-L text encoder, 512 px, noise prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.families import clip
from trainer.families.base import BaseModel, Conditioning, Family

if TYPE_CHECKING:
    from torch import Tensor, nn


class StableDiffusion15(Family):
    """SD 1.5 and everything fine-tuned from it."""

    name = "sd15"
    title = "SD 1.5"
    resolution = 512
    max_clip_skip = 12
    text_components = ("text_encoder",)
    lora_prefixes = {"unet": "lora_unet", "text_encoder": "lora_te"}
    base_model_version = "sd_v1"
    modelspec_architecture = "stable-diffusion-v1/lora"
    vae_scaling_factor = 0.18215

    def encode(self, model: BaseModel, tokens: Sequence[Tensor], clip_skip: int = 1) -> Conditioning:
        (ids,) = tokens
        encoder = model.text_encoders[0]
        model.bring(encoder)
        rows = ids.flatten(0, 1).to(encoder.device)
        hidden = clip.last_hidden(encoder, rows, clip_skip)
        return Conditioning(hidden.view(ids.shape[0], -1, hidden.shape[-1]))

    def predict(
        self,
        model: BaseModel,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        sizes: Tensor | None = None,
    ) -> Tensor:
        model.bring(model.unet)
        hidden = conditioning.hidden.to(model.dtype)
        return model.unet(noisy.to(model.dtype), timesteps, encoder_hidden_states=hidden).sample.to(noisy.dtype)

    def kohya_name(self, component: str, module_path: str, unet: nn.Module | None = None) -> str:
        path = module_path if component == "unet" else clip.kohya_path(module_path)
        return f"{self.lora_prefixes[component]}_{path}".replace(".", "_")
