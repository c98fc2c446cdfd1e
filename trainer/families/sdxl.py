"""SDXL: two text encoders, a pooled embedding, and the picture's size as conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.families import clip, layout
from trainer.families.base import BaseModel, Conditioning, Family

if TYPE_CHECKING:
    from torch import Tensor, nn


class StableDiffusionXL(Family):
    """SDXL 1.0 and everything fine-tuned from it: Pony, Illustrious, NoobAI and the like."""

    name = "sdxl"
    title = "SDXL"
    resolution = 1024
    max_clip_skip = 1  # the layer is part of the architecture
    text_components = ("text_encoder", "text_encoder_2")
    lora_prefixes = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    base_model_version = "sdxl_base_v1-0"
    modelspec_architecture = "stable-diffusion-xl-v1-base/lora"
    vae_scaling_factor = 0.13025
    zeros_empty_negative = True  # as A1111 does and as the model was trained

    def encode(self, model: BaseModel, tokens: Sequence[Tensor], clip_skip: int = 1) -> Conditioning:
        """The penultimate layers of both encoders side by side; pooled from the second, first chunk.
        `clip_skip` has no effect, as in A1111's default."""
        import torch

        model.bring(*model.text_encoders)
        batch, chunks, _ = tokens[0].shape
        parts, pooled = [], None
        for encoder, ids in zip(model.text_encoders, tokens, strict=True):
            hidden, pooled = clip.penultimate(encoder, ids.flatten(0, 1).to(encoder.device))
            parts.append(hidden.view(batch, -1, hidden.shape[-1]))
        return Conditioning(torch.cat(parts, dim=-1), pooled.view(batch, chunks, -1)[:, 0])

    def predict(
        self,
        model: BaseModel,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        sizes: Tensor | None = None,
    ) -> Tensor:
        if sizes is None or conditioning.pooled is None:
            raise ValueError("SDXL needs sizes [B, 6] and a pooled text embedding")
        model.bring(model.unet)
        known = conditioning.to(noisy.device, model.dtype)
        # In whole pixels: bfloat16 knows only every eighth number from 1024 on, and the embedding tells them apart.
        added = {"text_embeds": known.pooled, "time_ids": sizes.to(noisy.device).float()}
        output = model.unet(
            noisy.to(model.dtype), timesteps, encoder_hidden_states=known.hidden, added_cond_kwargs=added
        )
        return output.sample.to(noisy.dtype)

    def kohya_name(self, component: str, module_path: str, unet: nn.Module | None = None) -> str:
        """UNet modules carry the block names of the original SGM code: the only ones every tool loads."""
        if component == "unet":
            path = layout.unet_name(module_path, layout.SDXL if unet is None else layout.Blocks.of(unet))
        else:
            path = clip.kohya_path(module_path)
        return f"{self.lora_prefixes[component]}_{path}".replace(".", "_")
