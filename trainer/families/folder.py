"""Base models in diffusers' folder layout: unet/, text_encoder/, tokenizer/, vae/, scheduler/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.families import layout, schedule
from trainer.families.base import BaseModel, Family
from trainer.families.checkpoint_file import Checkpoint, Shards, empty, fill
from trainer.families.sources import FILE_SUFFIXES, INSTEAD, Source

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
        what = f"a {kind} model" if kind else f"not a diffusers model folder: {_instead_of_a_unet(path)}"
        raise UserError(f"{path} is {what}. Please {INSTEAD}.")
    config = read_config(path / "unet" / "config.json")
    other = _stranger(config)
    if other:
        raise UserError(f"{path} seems to be {other}; only SD 1.5, SD 2.x and SDXL can be trained. Please {INSTEAD}.")
    if config.get("addition_embed_type") == "text_time":
        if (path / "text_encoder_2").is_dir() and not (path / "text_encoder").is_dir():
            raise UserError(f"{path} seems to be the SDXL refiner: train on an SDXL base model instead.")
        return "sdxl"
    return "sd2" if config.get("cross_attention_dim") == 1024 or _is_open_clip(path) else "sd15"


def _instead_of_a_unet(path: Path) -> str:
    """What a folder has in the place of unet/config.json."""
    if (path / "config.json").is_file():
        return f"it is one part of a model, and {path.resolve().parent} may be the whole"
    files = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in FILE_SUFFIXES)
    if any(path.glob("*.index.json")):
        return "it holds one model in several pieces, which only the parts of a diffusers folder may be"
    return f"a checkpoint in it is given by its file, as {path / files[0]}" if files else "it has no unet/config.json"


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
    if unet.get("time_cond_proj_dim"):
        return "a model with guidance built in, as LCM's are"
    other = unet.get("encoder_hid_dim_type") or unet.get("addition_embed_type") or "text_time"
    return "" if other == "text_time" else f"a model with {other} conditioning"


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file's content, {} when there is none. Raises UserError when it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): download the model again.") from None


def noise(path: Path) -> dict[str, Any]:
    """Its scheduler_config.json, {} when there is none. Raises UserError when it is broken."""
    return read_config(path / "scheduler" / "scheduler_config.json")


def load(family: Family, source: Source, dtype: torch.dtype, vae: str) -> BaseModel:
    """Load a diffusers folder. A folder without vae/ uses the one beside it, so that bases can share a VAE."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from trainer.families import vaes

    classes = (CLIPTextModel, CLIPTextModelWithProjection)[: len(family.text_components)]
    parts = zip(classes, family.text_components, strict=True)
    encoders = [load_part(cls, source.path / part, dtype) for cls, part in parts]
    names = [part.replace("text_encoder", "tokenizer") for part in family.text_components]
    levels = schedule.from_config(noise(source.path))
    vae_path = Path(vae).expanduser() if vae else vae_folder(source.path)
    return BaseModel(
        family=family,
        name=source.name,
        path=str(source.path),
        vae=vaes.load(family, vae_path, dtype),
        unet=load_part(UNet2DConditionModel, source.path / "unet", dtype),
        text_encoders=encoders,
        tokenizers=[load_tokenizer(source.path / name) for name in names],
        alphas_cumprod=levels.alphas_cumprod,
        prediction_type=levels.prediction_type,
        vae_path=str(vae_path) if vae_path != source.path / "vae" else "",
    )


def vae_folder(path: Path) -> Path:
    """Where a model folder's VAE lies: in it or beside it. Raises UserError when there is none."""
    own, shared = path / "vae", path.resolve().parent / "vae"
    if not own.is_dir() and not shared.is_dir():
        raise UserError(f"{path} has no vae folder, nor is there one beside it: download it whole, or set model.vae.")
    return own if own.is_dir() else shared


def load_part(cls: type[nn.Module], path: Path, dtype: torch.dtype) -> nn.Module:
    """One module from its own folder, without the copy of the whole that from_pretrained keeps while it reads.

    Raises UserError when weights are missing or do not fit the config.
    """
    file = Shards(path, _files(path))
    return fill(empty(lambda: build(cls, path)), lambda name: file.read(stored(name, file)), dtype, file)


def build(cls: type[nn.Module], path: Path) -> nn.Module:
    """One module as its config.json has it, with random weights. Raises UserError when there is none that fits."""
    from transformers import CLIPTextConfig

    try:
        if hasattr(cls, "load_config"):  # diffusers
            return cls.from_config(cls.load_config(path, local_files_only=True))
        return cls(CLIPTextConfig.from_pretrained(path, local_files_only=True))
    except Exception as error:  # diffusers and transformers raise a dozen kinds for a broken folder
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} cannot be loaded ({reason}): download this part of the model again.") from error


# How diffusers and transformers call the weights of a part, before safetensors and since, whole or in pieces. Full
# precision goes first where both are there; a file without the average of its training (non_ema) is never taken.
WEIGHTS = [
    f"{name}{part}{ending}"
    for ending in (".safetensors", ".bin")
    for part in ("", "-*", ".fp16", ".fp16-*")
    for name in ("diffusion_pytorch_model", "model", "pytorch_model")
]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"There is no {path}: download the model whole, with all of its folders.")
    for name in WEIGHTS:
        if found := sorted(path.glob(name)):
            return found
    raise UserError(f"{path} holds no {WEIGHTS[0]}: download this part of the model again.")


def stored(name: str, file: Checkpoint) -> str:
    """Under which of its names a file has one of our modules' tensors: they have changed over the years."""
    bare = name.removeprefix("text_model.")
    names = (name, bare, f"text_model.{bare}", layout.older_name(name))
    return next((known for known in names if known in file.shapes), name)


# CLIP's vocabulary, which all the families share.
HUB_TOKENIZER = "openai/clip-vit-large-patch14"


def load_tokenizer(path: Path) -> Any:
    """A CLIP tokenizer from its folder (vocab.json and merges.txt, or tokenizer.json)."""
    from transformers import CLIPTokenizer

    if not path.is_dir():
        raise UserError(f"There is no {path}: copy vocab.json and merges.txt of {HUB_TOKENIZER} into it.")
    try:
        return CLIPTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # as above
        raise UserError(f"{path} holds no usable CLIP tokenizer ({type(error).__name__}): get it again.") from error
