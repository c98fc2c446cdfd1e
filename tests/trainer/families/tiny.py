"""Tiny random models of the real classes, and how to save them in each layout. Built in well under a second."""

from __future__ import annotations

import json
from pathlib import Path

import torch

SPECIAL = ("<|startoftext|>", "<|endoftext|>")
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789,._-()"


def write_tokenizer(folder: Path, pad: str = SPECIAL[1]) -> Path:
    """A character-level CLIP tokenizer in CLIP's own files: no merges, so every letter is a token."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = ["!", *ALPHABET]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *SPECIAL]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        pad_token=pad,
        unk_token=SPECIAL[1],
        model_max_length=77,
    )
    tokenizer.save_pretrained(folder)
    return folder


VOCABULARY = 2 * (len(ALPHABET) + 1) + 2


def unet(family: str, *, channels: int = 32, layers: int = 1, seed: int = 0):
    """Three levels, of which SDXL's first has no attention and the others' last has none."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    width = (channels, channels * 2, channels * 2)
    common = {
        "sample_size": 8,
        "block_out_channels": width,
        "layers_per_block": layers,
        "norm_num_groups": 32,
    }
    if family != "sdxl":
        old = family == "sd15"
        return UNet2DConditionModel(
            **common,
            cross_attention_dim=64 if old else 128,
            attention_head_dim=8 if old else tuple(max(1, size // 64) for size in width),
            use_linear_projection=not old,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        )
    return UNet2DConditionModel(
        **common,
        cross_attention_dim=64 + 128,
        attention_head_dim=tuple(max(1, size // 64) for size in width),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=128 + 6 * 16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )


def vae(family: str, *, seed: int = 1):
    """Factor 8 and 4 latent channels, as the real ones."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=64,
        scaling_factor=0.13025 if family == "sdxl" else 0.18215,
        force_upcast=family == "sdxl",
    )


def text_encoder(*, projection: bool = False, open_clip: bool = False, seed: int = 2):
    """CLIP-L in small (width 64), or OpenCLIP in small (width 128): H, or with `projection` bigG."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    open_clip = open_clip or projection
    width = 128 if open_clip else 64
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        hidden_act="gelu" if open_clip else "quick_gelu",
        projection_dim=width,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=0 if open_clip else VOCABULARY - 1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def base_folder(folder: Path, family: str, **options) -> Path:
    """A whole base model in diffusers' folder layout, `options` for its UNet."""
    write_tokenizer(folder / "tokenizer", pad="!" if family == "sd2" else SPECIAL[1])
    unet(family, **options).save_pretrained(folder / "unet")
    vae(family).save_pretrained(folder / "vae")
    text_encoder(open_clip=family == "sd2").save_pretrained(folder / "text_encoder")
    if family == "sdxl":
        write_tokenizer(folder / "tokenizer_2", pad="!")
        text_encoder(projection=True, seed=3).save_pretrained(folder / "text_encoder_2")
    (folder / "scheduler").mkdir()
    noise = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    noise["prediction_type"] = "v_prediction" if family == "sd2" else "epsilon"
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(noise))
    pipeline = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    return folder


def pipeline(model):
    """diffusers' own pipeline around the modules of a BaseModel, as the reference to compare with."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    parts = {
        "vae": model.vae,
        "unet": model.unet,
        "text_encoder": model.text_encoders[0],
        "tokenizer": model.tokenizers[0],
        "scheduler": EulerDiscreteScheduler(),
    }
    if model.family.name == "sdxl":
        second = {"text_encoder_2": model.text_encoders[1], "tokenizer_2": model.tokenizers[1]}
        return StableDiffusionXLPipeline(**parts, **second, add_watermarker=False)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def inputs(model, batch: int = 2, seed: int = 0):
    """(noisy latents, timesteps, conditioning, sizes) for `Family.predict`."""
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(batch, 4, 8, 8, generator=generator)
    timesteps = torch.randint(0, 1000, (batch,), generator=generator)
    conditioning = model.family.encode_captions(model, [f"a cat {i}" for i in range(batch)])
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(batch, 6)
    return noisy, timesteps, conditioning, sizes


def original_state(model) -> dict[str, torch.Tensor]:
    """All weights of a BaseModel under the names of the original SD 1.5, SD 2.x or SDXL layout.

    The names come from `layout`; what proves them right is that diffusers' own converters turn them back.
    """
    from trainer.families import layout

    state = {}
    blocks = layout.Blocks.of(model.unet)
    for path, weight in model.unet.state_dict().items():
        state["model.diffusion_model." + layout.unet_name(path, blocks)] = weight
    for path, weight in model.vae.state_dict().items():
        square = ".mid_block.attentions." in path and path.endswith(".weight") and weight.ndim == 2
        state["first_stage_model." + layout.vae_name(path, 4)] = weight[:, :, None, None] if square else weight
    if model.family.name == "sd2":
        state |= {f"cond_stage_model.model.{k}": v for k, v in open_clip(model.text_encoders[0]).items()}
        return {key: weight.clone().contiguous() for key, weight in state.items()}
    prefix = "cond_stage_model." if model.family.name == "sd15" else "conditioner.embedders.0."
    for path, weight in model.text_encoders[0].state_dict().items():
        state[f"{prefix}transformer.text_model.{path.removeprefix('text_model.')}"] = weight
    if model.family.name == "sdxl":
        state |= {f"conditioner.embedders.1.model.{k}": v for k, v in open_clip(model.text_encoders[1]).items()}
    return {key: weight.clone().contiguous() for key, weight in state.items()}


def open_clip(encoder) -> dict[str, torch.Tensor]:
    """bigG, or H with the last layer that SD 2.x does not use, in OpenCLIP's names, written out by hand."""
    ours = {path.removeprefix("text_model."): weight for path, weight in encoder.state_dict().items()}
    state = {
        "token_embedding.weight": ours["embeddings.token_embedding.weight"],
        "positional_embedding": ours["embeddings.position_embedding.weight"],
        "ln_final.weight": ours["final_layer_norm.weight"],
        "ln_final.bias": ours["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    if "text_projection.weight" in ours:
        state["text_projection"] = ours["text_projection.weight"].T
    else:
        unused = f"transformer.resblocks.{encoder.config.num_hidden_layers}."
        state[f"{unused}ln_1.weight"] = torch.ones(encoder.config.hidden_size)
    names = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for layer in range(encoder.config.num_hidden_layers):
        block, source = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            parts = [ours[f"{source}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
            for name, other in names.items():
                state[f"{block}.{other}.{kind}"] = ours[f"{source}.{name}.{kind}"]
    return state


def full_size(family_name: str):
    """SD 1.5 or SDXL as published, on the meta device: the architecture without a single weight."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from trainer import families

    widths = (320, 640, 1280)
    unets = {
        "sd15": {
            "block_out_channels": (*widths, 1280),
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        "sdxl": {
            "block_out_channels": widths,
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        },
    }
    large = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    giant = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "projection_dim": 1280}
    with init_empty_weights():
        encoders = [CLIPTextModel(CLIPTextConfig(**large))]
        if family_name == "sdxl":
            encoders.append(CLIPTextModelWithProjection(CLIPTextConfig(**giant)))
        unet = UNet2DConditionModel(**unets[family_name])
    return families.BaseModel(
        family=families.FAMILIES[family_name],
        name=family_name,
        path="",
        unet=unet,
        vae=None,
        text_encoders=encoders,
        tokenizers=[],
        alphas_cumprod=torch.ones(1000),
    )


def full_size_folder(folder: Path, family: str) -> Path:
    """The published architecture as a diffusers folder without a single weight: enough to count what it takes."""
    from diffusers import AutoencoderKL

    model = full_size(family)
    model.unet.save_config(folder / "unet")
    for part, encoder in zip(model.family.text_components, model.text_encoders, strict=True):
        encoder.config.save_pretrained(folder / part)
        write_tokenizer(folder / part.replace("text_encoder", "tokenizer"))
    with torch.device("meta"):
        decoder = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    decoder.save_config(folder / "vae")
    return folder
