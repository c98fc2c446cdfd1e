"""Base models in diffusers' folder layout: unet/, text_encoder/, tokenizer/, vae/, scheduler/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.families import schedule
from trainer.families.base import BaseModel, Family
from trainer.families.checkpoint_file import Shards, empty, fill
from trainer.families.sources import INSTEAD, Source
from trainer.files import quietly

if TYPE_CHECKING:
    import torch
    from torch import nn


def detect(path: Path) -> str:
    """Name of the family of a diffusers folder, by the configuration of its parts.

    Raises UserError when the folder is something else, naming what it seems to be.
    """
    index = read_config(path / "model_index.json")
    if not (path / "unet" / "config.json").is_file():
        kind = index.get("_class_name", "")
        what = f"a {kind} model" if kind else "not a diffusers model folder: it has no unet/config.json"
        raise UserError(f"{path} is {what}. Please {INSTEAD}.")
    config = read_config(path / "unet" / "config.json")
    other = _stranger(config)
    if other:
        raise UserError(f"{path} seems to be {other}; only SD 1.5, SD 2.x and SDXL can be trained. Please {INSTEAD}.")
    if config.get("addition_embed_type") == "text_time":
        if not (path / "text_encoder").is_dir():
            raise UserError(f"{path} seems to be the SDXL refiner: train on an SDXL base model instead.")
        return "sdxl"
    return "sd2" if config.get("cross_attention_dim") == 1024 or _is_open_clip(path) else "sd15"


def _is_open_clip(path: Path) -> bool:
    """CLIP-L computes with quick_gelu, OpenCLIP-H with gelu: the sign that miniatures have as well."""
    return read_config(path / "text_encoder" / "config.json").get("hidden_act") == "gelu"


def _stranger(unet: dict[str, Any]) -> str:
    """What a UNet's config says it is, when it is none of the families'; otherwise empty."""
    if unet.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        return f"built on a {unet['_class_name']}"
    channels = unet.get("in_channels", 4)
    if channels != 4:
        kinds = {9: "an inpainting model", 8: "an InstructPix2Pix model", 7: "an upscaler"}
        return kinds.get(channels, f"a model with {channels} input channels")
    if unet.get("addition_embed_type") in (None, "text_time"):
        return ""
    return f"a model with {unet['addition_embed_type']} conditioning"


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file's content, {} when there is none. Raises UserError when it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): download the model again.") from None


def load(family: Family, source: Source, dtype: torch.dtype, vae: str) -> BaseModel:
    """Load a diffusers folder. A folder without vae/ uses the one beside it, so that bases can share a VAE."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from trainer.families import vaes

    classes = (CLIPTextModel, CLIPTextModelWithProjection)[: len(family.text_components)]
    parts = zip(classes, family.text_components, strict=True)
    encoders = [load_part(cls, source.path / part, dtype) for cls, part in parts]
    names = [part.replace("text_encoder", "tokenizer") for part in family.text_components]
    noise = schedule.from_config(read_config(source.path / "scheduler" / "scheduler_config.json"))
    vae_path = Path(vae).expanduser() if vae else vae_folder(source.path)
    return BaseModel(
        family=family,
        name=source.name,
        path=str(source.path),
        # The small parts are there twice while they are read, so the UNet comes last.
        vae=vaes.load(family, vae_path, dtype),
        unet=load_unet(source.path / "unet", dtype),
        text_encoders=encoders,
        tokenizers=[load_tokenizer(source.path / name) for name in names],
        alphas_cumprod=noise.alphas_cumprod,
        prediction_type=noise.prediction_type,
        vae_path=str(vae_path) if vae_path != source.path / "vae" else "",
    )


def vae_folder(path: Path) -> Path:
    """Where a model folder's VAE lies: in it or beside it. Raises UserError when there is none."""
    own, shared = path / "vae", path.resolve().parent / "vae"
    if not own.is_dir() and not shared.is_dir():
        raise UserError(f"{path} has no vae folder, nor is there one beside it: download it whole, or set model.vae.")
    return own if own.is_dir() else shared


def load_unet(path: Path, dtype: torch.dtype) -> nn.Module:
    """The UNet, which is most of a model, without the copy of the whole that from_pretrained keeps while it reads.

    Raises UserError when weights are missing or do not fit the config.
    """
    from diffusers import UNet2DConditionModel

    file = Shards(path, _unet_files(path))
    try:
        unet = empty(lambda: UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(path)))
    except Exception as error:  # as below
        raise _broken(path, error) from error
    return fill(unet, file.read, dtype, file)


def _unet_files(path: Path) -> list[Path]:
    """The files to read, whole or in shards: in full precision where both are there, and never those without EMA."""
    for name in ("", "-*", ".fp16", ".fp16-*"):
        if found := sorted(path.glob(f"diffusion_pytorch_model{name}.safetensors")):
            return found
    raise UserError(f"{path} holds no diffusion_pytorch_model.safetensors: download this part of the model again.")


def _broken(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return UserError(f"{path} cannot be loaded ({reason}): download this part of the model again.")


def load_part(cls: type[nn.Module], path: Path, dtype: torch.dtype) -> nn.Module:
    """One module from its own folder. Raises UserError when weights are missing or do not fit the config."""
    weights = [entry.name for entry in path.glob("*.safetensors")]
    variant = "fp16" if weights and all(".fp16" in name for name in weights) else None
    options = {"torch_dtype": dtype, "variant": variant, "use_safetensors": True, "local_files_only": True}
    try:
        with quietly():
            return cls.from_pretrained(path, **options)
    except Exception as error:  # diffusers, transformers and safetensors raise a dozen kinds for a broken folder
        raise _broken(path, error) from error


def load_tokenizer(path: Path) -> Any:
    """A CLIP tokenizer from its folder (vocab.json and merges.txt, or tokenizer.json)."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # as above
        raise UserError(f"{path} holds no usable CLIP tokenizer ({type(error).__name__}): get it again.") from error
