"""A base model's architecture without its weights, for counting what it would cost.

Its tensors are on torch's meta device: they have a shape, a dtype and no memory. The real builders are used, so what
is counted is what will be loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.families import folder, single_file, vaes
from trainer.families.base import BaseModel, Family
from trainer.families.checkpoint_file import Checkpoint, open_checkpoint
from trainer.families.sources import Source, resolve

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def outline(base: str, dtype: torch.dtype, vae: str = "") -> BaseModel:
    """The base as `families.load` gives it, frozen, on the meta device. Raises UserError as loading does."""
    from trainer.families import FAMILIES, detect
    from trainer.families.gates import keep_less

    source = resolve(base)
    family = FAMILIES[detect(source).name]
    if source.kind == "single_file":
        model = single_file.load(family, source, dtype, vae, opened=_Outline(source.path))
    else:
        model = _folder(family, source, dtype, vae)
    model.to("meta")
    for module in (model.unet, model.vae, *model.text_encoders):
        module.requires_grad_(False).eval()
    keep_less(model.unet)
    return model


class _Outline(Checkpoint):
    """A checkpoint whose tensors have their shapes only."""

    def __init__(self, path: Path):
        file = open_checkpoint(path)
        self.path, self.shapes, self.metadata = path, file.shapes, file.metadata

    def read(self, key: str) -> Tensor:
        import torch

        return torch.empty(self.shapes[key], device="meta")


def _folder(family: Family, source: Source, dtype: torch.dtype, vae: str) -> BaseModel:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    classes = (CLIPTextModel, CLIPTextModelWithProjection)[: len(family.text_components)]
    parts = zip(classes, family.text_components, strict=True)
    vae_path = Path(vae).expanduser() if vae else folder.vae_folder(source.path)
    inner = vae_path / "vae" if (vae_path / "vae").is_dir() else vae_path
    vae_dtype = vaes.precision(family, dtype)
    return BaseModel(
        family=family,
        name=source.name,
        path=str(source.path),
        unet=_from_config(UNet2DConditionModel, source.path / "unet", dtype),
        vae=vaes.load(family, vae_path, dtype) if inner.is_file() else _from_config(AutoencoderKL, inner, vae_dtype),
        text_encoders=[_from_config(cls, source.path / part, dtype) for cls, part in parts],
        tokenizers=[
            folder.load_tokenizer(source.path / part.replace("text_encoder", "tokenizer"))
            for part in family.text_components
        ],
        alphas_cumprod=torch.empty(1000, dtype=torch.float64),
    )


def _from_config(cls: type[nn.Module], path: Path, dtype: torch.dtype) -> nn.Module:
    """One module from its config.json alone."""
    import torch

    with torch.device("meta"):
        made = folder.build(cls, path)
    return torch.nn.Module.to(made, dtype)  # diffusers' own `to` warns of what matters only where there are weights
