"""The names that the original checkpoints give to the modules which diffusers and transformers name otherwise.

Original layout: CompVis' latent-diffusion for SD 1.5 and Stability's generative-models (SGM) for SDXL, whose
UNets number their blocks alike. One direction is enough: single files are read by asking for each of our
modules' tensors under its original name, and SDXL LoRAs are written under these names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Blocks:
    """What the numbering of a UNet's blocks depends on."""

    layers: int  # resnets per level on the way down
    up_attention: tuple[bool, ...]  # whether each level on the way up has attention

    @staticmethod
    def of(unet: nn.Module) -> Blocks:
        config = unet.config
        return Blocks(config["layers_per_block"], tuple("CrossAttn" in kind for kind in config["up_block_types"]))


SDXL = Blocks(layers=2, up_attention=(True, True, False))
SD15 = Blocks(layers=2, up_attention=(False, True, True, True))

_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_BLOCK = re.compile(r"(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(.*)")


def unet_name(path: str, blocks: Blocks) -> str:
    """diffusers' path of a UNet module or parameter -> its name in the original layout.

    >>> unet_name("down_blocks.1.attentions.0.proj_in", SDXL)
    'input_blocks.4.1.proj_in'
    """
    for ours, theirs in _UNET_ENDS.items():
        if path == ours or path.startswith(ours + "."):
            return theirs + path[len(ours) :]
    side, level, kind, index, rest = _UNET_BLOCK.fullmatch(path).groups()
    if kind == "resnets":
        rest = _renamed(rest, _UNET_RESNET)
    elif kind == "downsamplers":
        rest = rest.replace(".conv", ".op", 1)
    return _block(side, int(level or 0), kind, int(index), blocks) + rest


def _block(side: str, level: int, kind: str, index: int, blocks: Blocks) -> str:
    if side == "mid":
        return f"middle_block.{2 * index if kind == 'resnets' else 1}"
    number = level * (blocks.layers + 1) + index
    if kind == "downsamplers":
        return f"input_blocks.{number + blocks.layers + 1}.0"
    if kind == "upsamplers":  # stands behind the level's last resnet and, where there is one, its attention
        return f"output_blocks.{number + blocks.layers}.{1 + blocks.up_attention[level]}"
    place = int(kind == "attentions")
    return f"input_blocks.{number + 1}.{place}" if side == "down" else f"output_blocks.{number}.{place}"


def _renamed(rest: str, names: dict[str, str]) -> str:
    """`.norm1.weight` -> `.in_layers.0.weight`: the first word after the dot is replaced."""
    word = rest[1:].split(".", 1)[0]
    return rest.replace(word, names.get(word, word), 1)


_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
_VAE_BLOCK = re.compile(
    r"(encoder|decoder)\.(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(.*)"
)


def vae_name(path: str, levels: int) -> str:
    """diffusers' path of a VAE parameter -> its name in the original layout; `levels` as in block_out_channels."""
    match = _VAE_BLOCK.fullmatch(path)
    if match is None:
        return path.replace("conv_norm_out", "norm_out")
    half, side, level, kind, index, rest = match.groups()
    if kind == "resnets":
        rest = _renamed(rest, _VAE_RESNET)
    elif kind == "attentions":
        rest = _renamed(rest, _VAE_ATTENTION).replace("proj_out.0", "proj_out")
    if side == "mid":
        number = int(index) + 1
        return f"{half}.mid.{'block' if kind == 'resnets' else 'attn'}_{number}{rest}"
    # The original decoder counts its levels from the picture inwards.
    number = int(level) if side == "down" else levels - 1 - int(level)
    part = {"resnets": f"block.{index}", "downsamplers": "downsample", "upsamplers": "upsample"}[kind]
    return f"{half}.{side}.{number}.{part}{rest}"


_OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def older_name(path: str) -> str:
    """diffusers' path of a VAE parameter -> what it was called until 2023, as in stabilityai/sd-vae-ft-mse.

    >>> older_name("decoder.mid_block.attentions.0.to_q.weight")
    'decoder.mid_block.attentions.0.query.weight'
    """
    head, _, rest = path.partition(".attentions.0.")
    part, _, kind = rest.rpartition(".")
    return f"{head}.attentions.0.{_OLDER[part]}.{kind}" if part in _OLDER else path


_OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_QKV = re.compile(r"self_attn\.([qkv])_proj\.(weight|bias)")


def open_clip_name(path: str) -> tuple[str, int | None]:
    """transformers' path of a CLIP parameter -> OpenCLIP's name (SDXL's second text encoder).

    q, k and v are one matrix there: the second value says which third of it is meant, else None.
    `text_projection` is stored transposed.
    """
    path = path.removeprefix("text_model.")
    for ours, theirs in _OPEN_CLIP_ENDS.items():
        if path.startswith(ours):
            return theirs + path[len(ours) :], None
    number, rest = path.removeprefix("encoder.layers.").split(".", 1)
    block = f"transformer.resblocks.{number}."
    if match := _QKV.fullmatch(rest):
        return f"{block}attn.in_proj_{match[2]}", "qkv".index(match[1])
    for ours, theirs in _OPEN_CLIP_LAYER.items():
        if rest.startswith(ours):
            return block + theirs + rest[len(ours) :], None
    raise KeyError(path)
