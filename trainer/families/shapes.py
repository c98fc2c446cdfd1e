"""What a checkpoint file is, and the configuration of each of its parts, read off tensor names and shapes.

Nothing here looks at values or at the file's name, so miniature checkpoints in the same layout work as well as
the 7 GB ones. What shapes cannot tell is the families' convention: SD 1.5 has 8 heads everywhere, SDXL's and
CLIP's heads are 64 wide, group norms have 32 groups.
"""

from __future__ import annotations

import re
from typing import Any

from trainer.errors import UserError
from trainer.families.base import Family

Shapes = dict[str, tuple[int, ...]]

UNET = "model.diffusion_model."
CLIP_L = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
OPEN_CLIP = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
TEXTS = {name: [of[name] for of in (CLIP_L, OPEN_CLIP) if name in of] for name in ("sd15", "sd2", "sdxl")}
HEAD_WIDTH = 64

# Signs of files that are something else, in the order in which they are asked: what it is, and a pattern that
# some key of it matches.
SIGNS = (
    ("a ControlNet", r"^control_model\.|(^|\.)zero_convs\.|controlnet_|_controlnet$"),
    ("a LoRA, not a base model", r"lora_(unet|te)|[._]lora[._](down|up|A|B)\.|hada_w1|lokr_w1|\.diff(_b)?$"),
    ("an IP-Adapter", r"^(image_proj|ip_adapter)\."),
    ("a T2I-Adapter", r"^adapter\.|^body\.\d+\.block1\."),
    ("an AnimateDiff motion module", r"motion_modules\."),
    ("a Chroma model", r"(^|\.)distilled_guidance_layer\."),
    ("a HunyuanVideo model", r"(^|\.)txt_in\.individual_token_refiner\."),
    ("a Qwen-Image model", r"(^|\.)txt_norm\.weight$"),
    ("a Flux model", r"(^|\.)(double_blocks|single_transformer_blocks)\.\d"),
    ("a Stable Diffusion 3 model", r"(^|\.)joint_blocks\.\d"),
    ("a Lumina or Z-Image model", r"(^|\.)cap_embedder\.\d"),
    ("an AuraFlow model", r"(^|\.)double_layers\.\d"),
    ("a PixArt model", r"(^|\.)t_block\.1\."),
    ("a Hunyuan-DiT model", r"(^|\.)mlp_t5\.0\."),
    ("a Stable Cascade model", r"(^|\.)clf\.1\."),
    ("a Wan video model", r"(^|\.)head\.modulation$"),
    ("an LTX video model", r"(^|\.)adaln_single\.emb\."),
    ("a Stable Video Diffusion model", r"\.time_(stack|mixer)\."),
    ("a textual inversion embedding", r"^(emb_params|string_to_param.*|clip_[lg]|<.*>)$"),
    ("an upscaler", r"\.(RDB|rdb)\d\.|^conv_first\."),
    ("the SDXL refiner", r"^conditioner\.embedders\.0\.model\."),
    ("a Playground 2.5 model", r"^edm_mean$"),
    ("a CosXL model", r"^edm_vpred\."),
    ("an unCLIP model", r"^(noise_augmentor|embedder\.model\.visual)\."),
    ("a model with guidance built in, as LCM's are", r"time_embed(ding)?\.cond_proj\."),
    ("a model packed in 4 bits for rendering", r"\.(absmax|weight_scale_2)$"),
    ("a text or picture encoder alone", r"^(text_model|vision_model|model\.layers|encoder\.block)\."),
    ("a UNet in diffusers' naming (give the folder above its unet folder)", r"^down_blocks\.\d"),
    ("a UNet alone (give the whole checkpoint)", r"^input_blocks\.0\.0\."),
)


OTHER_CHANNELS = {
    5: "a depth-guided model",
    7: "an upscaling model",
    8: "an InstructPix2Pix model",
    9: "an inpainting model (a LoRA of the plain model that it was made from works on it)",
}


def stranger(shapes: Shapes) -> str:
    """What a file seems to be when it is no base of any family; otherwise empty."""
    for what, pattern in SIGNS:
        sign = re.compile(pattern)
        if any(sign.search(key) for key in shapes):
            return what
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        return _without_unet(shapes)
    channels = shapes[f"{UNET}input_blocks.0.0.weight"][1]
    if channels != 4:
        return OTHER_CHANNELS.get(channels, f"a model with {channels} input channels")
    if not any(all(any(key.startswith(part) for key in shapes) for part in parts) for parts in TEXTS.values()):
        return "a UNet without its text encoder"
    return ""


def _without_unet(shapes: Shapes) -> str:
    if any(key.removeprefix("first_stage_model.").startswith("decoder.") for key in shapes):
        return "a VAE alone (it goes into model.vae)"
    if any(key.startswith(UNET) for key in shapes):
        return "another kind of diffusion model"
    return f"something else (its first tensor is called {min(shapes)})" if shapes else "a file without weights"


# ── UNet ────────────────────────────────────────────────────────────────────────────────────────────────


def unet_config(shapes: Shapes, family: Family) -> dict[str, Any]:
    """Arguments for UNet2DConditionModel from the names and shapes below `model.diffusion_model.`.

    Raises UserError when the blocks are not arranged as in SD 1.5 and SDXL.
    """
    channels, depths, layers = _levels(shapes)
    middle = _depth(shapes, "middle_block.1")
    proj_in = _first(shapes, r"\.1\.proj_in\.weight$")
    config = {
        "sample_size": family.resolution // 8,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)),
        # diffusers gives the middle block the depth of the last level, also where that has no attention.
        "transformer_layers_per_block": (*(depth or 1 for depth in depths[:-1]), middle),
        "cross_attention_dim": _first(shapes, r"attn2\.to_k\.weight$")[1],
        "use_linear_projection": len(proj_in) == 2,
        # diffusers' parameter of this name is the number of heads.
        "attention_head_dim": 8 if family.name == "sd15" else tuple(max(1, c // HEAD_WIDTH) for c in channels),
    }
    if "label_emb.0.0.weight" in shapes:
        config |= _size_embedding(shapes)
    return config


def _levels(shapes: Shapes) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Channels and transformer depth of each level on the way down, and the resnets per level."""
    levels: list[list[tuple[int, int]]] = [[]]
    number = 1
    while any(key.startswith(f"input_blocks.{number}.") for key in shapes):
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append((shapes[f"{block}.0.out_layers.3.weight"][0], _depth(shapes, f"{block}.1")))
        number += 1
    if any(len(set(level)) != 1 for level in levels) or len({len(level) for level in levels}) != 1:
        raise UserError("The UNet's blocks are not arranged as in SD 1.5 or SDXL: it is a pruned or altered model.")
    return tuple(level[0][0] for level in levels), tuple(level[0][1] for level in levels), len(levels[0])


def _depth(shapes: Shapes, block: str) -> int:
    """How many transformer blocks stand in `block`."""
    prefix = f"{block}.transformer_blocks."
    return len({key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)})


def _size_embedding(shapes: Shapes) -> dict[str, Any]:
    """SDXL: the pooled text (as wide as the second text encoder) and six sizes, each embedded in 256 channels
    (or fewer in a miniature), go through one linear layer."""
    width = shapes["label_emb.0.0.weight"][1]
    pooled = shapes.get(POOLED, (0, 0))[1]
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (width - pooled) // 6,
        "projection_class_embeddings_input_dim": width,
    }


POOLED = "pooled"  # under which the loader passes on the shape of the second text encoder's projection


def _first(shapes: Shapes, pattern: str) -> tuple[int, ...]:
    sign = re.compile(pattern)
    return next(shape for key, shape in shapes.items() if sign.search(key))


# ── VAE ─────────────────────────────────────────────────────────────────────────────────────────────────


def vae_config(shapes: Shapes, family: Family) -> dict[str, Any]:
    """Arguments for AutoencoderKL, from either naming."""
    old = "encoder.down.0.block.0.conv1.weight" in shapes
    resnet = "encoder.down.{}.block.{}.conv1.weight" if old else "encoder.down_blocks.{}.resnets.{}.conv1.weight"
    channels = []
    while (key := resnet.format(len(channels), 0)) in shapes:
        channels.append(shapes[key][0])
    layers = 0
    while resnet.format(0, layers) in shapes:
        layers += 1
    return {
        "block_out_channels": tuple(channels),
        "layers_per_block": layers,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "sample_size": family.resolution,
        "scaling_factor": family.vae_scaling_factor,
        "force_upcast": family.name == "sdxl",
    }


# ── text encoders ───────────────────────────────────────────────────────────────────────────────────────


def clip_config(shapes: Shapes, tokenizer: Any) -> Any:
    """CLIP-L's configuration from transformers' own names (below `text_model.`)."""
    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    return _text_config(
        tokenizer,
        vocab_size=vocabulary,
        hidden_size=width,
        projection_dim=width,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=_count(shapes, "encoder.layers."),
        hidden_act="quick_gelu",
    )


def open_clip_config(shapes: Shapes, tokenizer: Any, *, whole: bool = True) -> Any:
    """bigG's or H's configuration from OpenCLIP's names (below `conditioner.embedders.1.model.` or
    `cond_stage_model.model.`). SD 2.x takes its text from the last layer but one, and the last is left out."""
    vocabulary, width = shapes["token_embedding.weight"]
    layers = _count(shapes, "transformer.resblocks.")
    return _text_config(
        tokenizer,
        vocab_size=vocabulary,
        hidden_size=width,
        projection_dim=projected(shapes) or width,
        intermediate_size=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        num_hidden_layers=layers if whole else layers - 1,
        hidden_act="gelu",
    )


def projected(shapes: Shapes) -> int:
    """How wide OpenCLIP's pooled text is: its projection is written either way round. 0 where it has none."""
    return shapes.get("text_projection", (0, 0))[1] or shapes.get("text_projection.weight", (0, 0))[0]


def _text_config(tokenizer: Any, *, hidden_size: int, **sizes: Any) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        hidden_size=hidden_size,
        num_attention_heads=max(1, hidden_size // HEAD_WIDTH),
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )


def _count(shapes: Shapes, prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)})
