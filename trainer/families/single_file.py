"""Base models in one file: the original SD 1.5 and SDXL layouts, of any size that follows them.

The architecture is read off the tensors' shapes, modules are built without memory of their own, and each
tensor goes straight from the file into its place.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.families import folder, layout, schedule, shapes, vaes
from trainer.families.base import BaseModel, Family
from trainer.families.checkpoint_file import Checkpoint, empty, fill, open_checkpoint
from trainer.families.sources import INSTEAD, Source

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

UNET = shapes.UNET
VAE = "first_stage_model."
CLIP_L, OPEN_CLIP = shapes.CLIP_L, shapes.OPEN_CLIP


def detect(path: Path) -> str:
    """Name of the family of a single file. Raises UserError when it is something else, saying what."""
    return _detect(open_checkpoint(path))


def _detect(file: Checkpoint) -> str:
    other = shapes.stranger(file.shapes)
    if other:
        raise UserError(f"{file.path} seems to be {other}. Please {INSTEAD}.")
    return next((name for name, prefix in OPEN_CLIP.items() if _has(file, prefix)), "sd15")


def noise(path: Path) -> dict[str, Any]:
    """As a scheduler_config.json says it. Raises UserError for a file of something else."""
    file = open_checkpoint(path)
    return _noise(_detect(file), file)


def load(family: Family, source: Source, dtype: torch.dtype, vae: str, opened: Checkpoint | None = None) -> BaseModel:
    """Load a checkpoint in the original layout, with its tokenizers from where `tokenizer_folder` finds them."""
    file = opened or open_checkpoint(source.path)
    tokenizers = [
        load_tokenizer(source.path, part.replace("text_encoder", "tokenizer"), family.name == "sd2")
        for part in family.text_components
    ]
    levels = schedule.from_config(_noise(family.name, file))
    encoders = [_clip_l(family, file, tokenizers[0], dtype)] if family.name in CLIP_L else []
    if family.name in OPEN_CLIP:
        encoders.append(_open_clip(family, file, tokenizers[-1], dtype))
    return BaseModel(
        family=family,
        name=source.name,
        path=str(source.path),
        unet=_unet(family, file, dtype),
        vae=vaes.load(family, Path(vae).expanduser(), dtype) if vae else _vae(family, file, dtype),
        text_encoders=encoders,
        tokenizers=tokenizers,
        alphas_cumprod=levels.alphas_cumprod,
        prediction_type=levels.prediction_type,
        vae_path=str(Path(vae).expanduser()) if vae else "",
    )


# ── one part each ───────────────────────────────────────────────────────────────────────────────────────


def _unet(family: Family, file: Checkpoint, dtype: torch.dtype) -> nn.Module:
    from diffusers import UNet2DConditionModel

    found = _below(file, UNET)
    if family.name == "sdxl":
        found[shapes.POOLED] = (0, shapes.projected(_below(file, OPEN_CLIP["sdxl"])))
    config = shapes.unet_config(found, family)
    unet = empty(lambda: UNet2DConditionModel(**config))
    blocks = layout.Blocks.of(unet)
    return fill(unet, lambda path: file.read(UNET + layout.unet_name(path, blocks)), dtype, file)


def _vae(family: Family, file: Checkpoint, dtype: torch.dtype) -> nn.Module:
    if not _has(file, VAE):
        raise UserError(f"{file.path} has no VAE in it: set model.vae to a VAE file or folder for {family.title}.")
    return _build_vae(family, file, VAE, vaes.precision(family, dtype))


def load_vae(family: Family, path: Path, dtype: torch.dtype) -> nn.Module:
    """A VAE from a file of its own: the original naming, with or without prefix, or diffusers' naming."""
    file = open_checkpoint(path)
    prefix = VAE if _has(file, VAE) else ""
    if f"{prefix}decoder.conv_in.weight" not in file.shapes:
        raise UserError(f"{path} is not a VAE for {family.title}: model.vae wants an SD 1.5 or SDXL VAE.")
    return _build_vae(family, file, prefix, dtype)


def _build_vae(family: Family, file: Checkpoint, prefix: str, dtype: torch.dtype) -> nn.Module:
    from diffusers import AutoencoderKL

    found = _below(file, prefix)
    as_diffusers = any(key.startswith("encoder.down_blocks.") for key in found)
    config = shapes.vae_config(found, family)
    vae = empty(lambda: AutoencoderKL(**config))
    levels = len(config["block_out_channels"])

    def name(path: str) -> str:
        return folder.stored(path, file) if as_diffusers else prefix + layout.vae_name(path, levels)

    return fill(vae, lambda path: file.read(name(path)), dtype, file)


def _clip_l(family: Family, file: Checkpoint, tokenizer: Any, dtype: torch.dtype) -> nn.Module:
    from transformers import CLIPTextModel

    prefix = CLIP_L[family.name]
    # Some merged checkpoints have lost the "text_model." in between.
    prefix += "text_model." if _has(file, prefix + "text_model.") else ""
    config = shapes.clip_config(_below(file, prefix), tokenizer)
    encoder = empty(lambda: CLIPTextModel(config))
    return fill(encoder, lambda path: file.read(prefix + path.removeprefix("text_model.")), dtype, file)


def _noise(family: str, file: Checkpoint) -> dict[str, Any]:
    return {
        "prediction_type": "v_prediction" if _is_v_trained(family, file) else "epsilon",
        "rescale_betas_zero_snr": "ztsnr" in file.shapes,
    }


def _is_v_trained(family: str, file: Checkpoint) -> bool:
    """Some say so: by the key `v_pred`, in the metadata that sd-scripts and ComfyUI write, or in the .yaml beside the
    file that A1111 reads. Of SD 2.x only the weights tell: those trained for v have a far larger spread in the last
    attention block's first bias (ComfyUI's sign)."""
    said = (file.metadata.get(f"modelspec.{name}") for name in ("prediction_type", "predict_key"))
    if "v_pred" in file.shapes or "v" in said or _is_v_configured(file.path.with_suffix(".yaml")):
        return True
    name = ".1.transformer_blocks.0.norm1.bias"
    found = [key for key in file.shapes if key.startswith(f"{UNET}output_blocks.") and key.endswith(name)]
    if family != "sd2" or not found:
        return False
    last = max(found, key=lambda key: int(key.split(".")[3]))
    return file.read(last).float().std(correction=0).item() > 0.09


def _is_v_configured(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"""^\s*parameterization\s*:\s*["']?v["']?\s*(#.*)?$""", text, re.MULTILINE) is not None


def _open_clip(family: Family, file: Checkpoint, tokenizer: Any, dtype: torch.dtype) -> nn.Module:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    prefix, whole = OPEN_CLIP[family.name], family.name == "sdxl"
    config = shapes.open_clip_config(_below(file, prefix), tokenizer, whole=whole)
    encoder = empty(lambda: (CLIPTextModelWithProjection if whole else CLIPTextModel)(config))

    def read(path: str) -> Tensor:
        name, third = layout.open_clip_name(path)
        if name == "text_projection" and f"{prefix}{name}.weight" in file.shapes:
            return file.read(f"{prefix}{name}.weight")
        tensor = file.read(prefix + name)
        if name == "text_projection":
            return tensor.T
        return tensor if third is None else tensor.chunk(3)[third]

    return fill(encoder, read, dtype, file)


# ── building ────────────────────────────────────────────────────────────────────────────────────────────


def _has(file: Checkpoint, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in file.shapes)


def _below(file: Checkpoint, prefix: str) -> shapes.Shapes:
    """Names (without the prefix) and shapes of what stands under `prefix`."""
    return {key.removeprefix(prefix): shape for key, shape in file.shapes.items() if key.startswith(prefix)}


# ── tokenizers ──────────────────────────────────────────────────────────────────────────────────────────

VARIABLE = "LORA_STUDIO_TOKENIZER"


def load_tokenizer(checkpoint: Path, part: str, open_clip: bool = False) -> Any:
    """The tokenizer of a checkpoint, which has none in it; `part` is tokenizer or tokenizer_2.

    All encoders share CLIP's vocabulary; OpenCLIP's were trained with 0 ("!") as padding.
    """
    tokenizer = folder.load_tokenizer(tokenizer_folder(checkpoint, part))
    if part == "tokenizer_2" or open_clip:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def tokenizer_folder(checkpoint: Path, part: str) -> Path:
    """Where CLIP's tokenizer is: in a folder tokenizer_2 or tokenizer beside the checkpoint, in the folder that
    LORA_STUDIO_TOKENIZER names, or on the Hugging Face hub or in its cache. Raises UserError naming these."""
    beside, named = checkpoint.resolve().parent, os.environ.get(VARIABLE, "")
    places = [beside / part, beside / "tokenizer"]
    if named:
        places += [Path(named).expanduser() / part, Path(named).expanduser() / "tokenizer", Path(named).expanduser()]
    for place in places:
        if (place / "vocab.json").is_file() or (place / "tokenizer.json").is_file():
            return place
    downloaded = _hub_tokenizer()
    if downloaded is None:
        raise UserError(
            f"{checkpoint} needs CLIP's tokenizer, which is neither in {beside / 'tokenizer'}, nor in the folder named "
            f"by {VARIABLE} ({named or 'not set'}), nor in the Hugging Face cache, and the hub cannot be reached: "
            f"copy vocab.json and merges.txt of {folder.HUB_TOKENIZER} into {beside / 'tokenizer'}."
        )
    return downloaded


def _hub_tokenizer() -> Path | None:
    from huggingface_hub import snapshot_download

    wanted = ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    try:
        found = Path(snapshot_download(folder.HUB_TOKENIZER, allow_patterns=wanted))
    except Exception:  # no network, nothing in the cache, a proxy's web page: all the same here
        return None
    return found if (found / "vocab.json").is_file() else None
