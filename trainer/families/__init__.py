"""Model families, and loading a base model of either from wherever it lies.

`FAMILIES` is the registry; `load` is what the rest of the program calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.families.base import BaseModel, Conditioning, Family
from trainer.families.sd2 import StableDiffusion2
from trainer.families.sd15 import StableDiffusion15
from trainer.families.sdxl import StableDiffusionXL
from trainer.families.sources import Source, resolve

if TYPE_CHECKING:
    import torch

__all__ = ["FAMILIES", "BaseModel", "Conditioning", "Family", "Source", "detect", "load", "noise", "resolve"]

FAMILIES: dict[str, Family] = {
    family.name: family for family in (StableDiffusion15(), StableDiffusion2(), StableDiffusionXL())
}


def detect(source: Source) -> Family:
    """Which family a base model belongs to, by the keys and shapes in it and never by its name.

    Raises UserError saying what it seems to be when it is none of them.
    """
    from trainer.families import folder, single_file

    kind = single_file if source.kind == "single_file" else folder
    return FAMILIES[kind.detect(source.path)]


def noise(source: Source) -> dict[str, Any]:
    """What a base's files say of its noise, as a diffusers scheduler_config.json says it: `prediction_type` and
    `rescale_betas_zero_snr`; what is left out is as in SD 1.5. Raises UserError as `detect` does."""
    from trainer.families import folder, single_file

    return (single_file if source.kind == "single_file" else folder).noise(source.path)


def load(
    base: str,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    vae: str = "",
    prediction: str = "auto",
    pure_noise: bool = False,
) -> BaseModel:
    """Load a base model with every weight frozen.

    `base`: toybox/sd15, toybox/sdxl, a diffusers folder, a hub id, or a single .safetensors or .ckpt file.
    `dtype`: of the UNet and the text encoders (default float32). `vae`: a file or folder to take the VAE from.
    `prediction`: "epsilon" or "v_prediction", whatever its files say. `pure_noise`: shift its noise levels so that the
    last one is pure noise, unless it is so already.
    Raises UserError for whatever cannot be used, with what to give instead.
    """
    import torch

    from trainer.families import folder, schedule, single_file
    from trainer.families.convolutions import as_products
    from trainer.families.gates import keep_less

    source = resolve(base)
    family = detect(source)
    kind = single_file if source.kind == "single_file" else folder
    model = kind.load(family, source, dtype or torch.float32, vae)
    _require_tokenizers(model)
    if prediction != "auto":
        model.prediction_type = prediction
    if pure_noise and not schedule.ends_in_noise(model.alphas_cumprod):
        model.alphas_cumprod, model.is_shifted = schedule.zero_terminal_snr(model.alphas_cumprod), True
    for module in (model.unet, model.vae, *model.text_encoders):
        module.requires_grad_(False).eval()
    as_products(model.unet)
    keep_less(model.unet)
    return model.to(device)


def _require_tokenizers(model: BaseModel) -> None:
    """Raise UserError for a tokenizer of another model, whose numbers would mean other words."""
    for tokenizer, encoder in zip(model.tokenizers, model.text_encoders, strict=True):
        known, rows = tokenizer.vocab_size, encoder.config.vocab_size
        if not 0.99 * rows <= known <= rows:  # some bases have learned a few words more than their tokenizer knows
            raise UserError(
                f"The tokenizer in {tokenizer.name_or_path} knows {known} words where {model.name} has {rows}: it "
                "belongs to another model; put the right one in its place."
            )
