"""The two base models, in the shapes of Stable Diffusion 1.5 and SDXL, trained from nothing on the world."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from trainer.toybox import oddities, series, words
from trainer.toybox.train_vae import encode
from trainer.toybox.training import Course, autocast, cached_pictures, device, generators, replace_folder


@dataclass(frozen=True)
class BaseRecipe:
    """What both bases share. `gamma` is that of min-SNR weighting (Hang et al. 2023)."""

    pictures: int = 12000
    odd: int = 8000  # odd creatures, see `oddities`: breadth, so that a LoRA finds something to build on
    odd_share: float = 0.4
    steps: int = 4800
    batch: int = 16
    lr: float = 1.2e-3
    ema: float = 0.999
    gamma: float = 5.0
    noise_offset: float = 0.03
    seed: int = 2


def text_config(width: int, layers: int, act: str, **more) -> CLIPTextConfig:
    """A CLIP text encoder with heads of 64, as in every Stable Diffusion."""
    tokens, _ = words.vocabulary()
    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=width * 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=words.LENGTH,
        hidden_act=act,
        bos_token_id=tokens[words.START],
        eos_token_id=tokens[words.END],
        pad_token_id=tokens[words.END],
        **more,
    )


class Sd15(nn.Module):
    """UNet with eight heads a layer and 1 x 1 convolutions around attention; one text encoder."""

    name = "sd15"
    tokenizers = {"tokenizer": words.END}

    def __init__(self):
        super().__init__()
        self.text_encoder = CLIPTextModel(text_config(128, 3, "quick_gelu"))
        self.unet = UNet2DConditionModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(64, 64, 64, 32),
            norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            attention_head_dim=8,
            cross_attention_dim=128,
        )

    def condition(self, ids: list[torch.Tensor]) -> tuple[torch.Tensor, dict | None]:
        return self.text_encoder(ids[0]).last_hidden_state, None

    def blank(self, hidden: torch.Tensor, added: dict | None, which: torch.Tensor):
        return hidden, added

    def scheduler(self):
        return PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)

    def index(self) -> dict:
        return {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.35.0",
            "requires_safety_checker": False,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }


class Sdxl(nn.Module):
    """No attention at full size, heads of 64, two text encoders, a pooled embedding and the time ids."""

    name = "sdxl"
    tokenizers = {"tokenizer": words.END, "tokenizer_2": "!"}

    def __init__(self):
        super().__init__()
        self.text_encoder = CLIPTextModel(text_config(64, 3, "quick_gelu"))
        self.text_encoder_2 = CLIPTextModelWithProjection(text_config(64, 3, "gelu", projection_dim=64))
        self.unet = UNet2DConditionModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(64, 64, 64),
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 1, 2],
            attention_head_dim=[1, 1, 1],
            cross_attention_dim=128,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=16,
            projection_class_embeddings_input_dim=64 + 6 * 16,
        )

    def condition(self, ids: list[torch.Tensor]) -> tuple[torch.Tensor, dict | None]:
        """Penultimate hidden states of both encoders side by side, and the second one's pooled embedding."""
        first = self.text_encoder(ids[0], output_hidden_states=True).hidden_states[-2]
        second = self.text_encoder_2(ids[1], output_hidden_states=True)
        time_ids = torch.tensor([[128, 128, 0, 0, 128, 128]]).expand(len(first), -1).to(first.device)
        added = {"text_embeds": second.text_embeds, "time_ids": time_ids}
        return torch.cat([first, second.hidden_states[-2]], dim=-1), added

    def blank(self, hidden: torch.Tensor, added: dict | None, which: torch.Tensor):
        """Zeros in place of an empty prompt, which is what diffusers' SDXL pipeline takes for "no prompt"."""
        keep = (~which).to(hidden)
        return hidden * keep[:, None, None], {**added, "text_embeds": added["text_embeds"] * keep[:, None]}

    def scheduler(self):
        return EulerDiscreteScheduler(**NOISE, interpolation_type="linear", timestep_spacing="leading", steps_offset=1)

    def index(self) -> dict:
        return {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.35.0",
            "force_zeros_for_empty_prompt": True,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }


NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
BASES: dict[str, Callable[[], nn.Module]] = {"sd15": Sd15, "sdxl": Sdxl}


# Heads of 8 make a step of the SD 1.5-shaped base dear on a CPU, so it takes more and smaller ones.
RECIPES = {"sd15": BaseRecipe(steps=6000), "sdxl": BaseRecipe(batch=32, lr=1.5e-3)}


def new_base(name: str, recipe: BaseRecipe) -> nn.Module:
    torch.manual_seed(recipe.seed)
    return BASES[name]().to(device()).train()


def tokenize(name: str, captions: list[str]) -> list[torch.Tensor]:
    """Token ids [n, 77] for each tokenizer of the base, padded as its pipeline pads."""
    tokens, _ = words.vocabulary()
    plain = words.tokenizer()(captions, truncation=True, max_length=words.LENGTH).input_ids
    batches = []
    for pad in BASES[name].tokenizers.values():
        rows = [row + [tokens[pad]] * (words.LENGTH - len(row)) for row in plain]
        batches.append(torch.tensor(rows, device=device()))
    return batches


def cached_latents(work: Path, vae_folder: Path, recipe: BaseRecipe) -> torch.Tensor:
    """Scaled latents of the scenes, then of the odd creatures, [n, 4, 16, 16].

    Kept in the work folder with the encoder's mark in their names.
    """
    vae = AutoencoderKL.from_pretrained(str(vae_folder), torch_dtype=torch.float32).to(device())
    odd = cached_pictures(work / f"odd-{recipe.odd}.npy", oddities.picture, recipe.odd)
    kinds = {"latents": series.scene_pictures(work)[: recipe.pictures], "odd-latents": odd}
    return torch.cat([_latents(vae, pictures, work, name) for name, pictures in kinds.items()])


def _latents(vae: AutoencoderKL, pictures: np.ndarray, work: Path, name: str) -> torch.Tensor:
    path = work / f"{name}-{len(pictures)}-{_encoder_mark(vae)}.pt"
    if not path.exists():
        with autocast():
            latents = encode(vae, pictures).float() * vae.config.scaling_factor
        part = path.with_suffix(f".{os.getpid()}.part")  # both bases may be asking at once
        torch.save(latents.half().cpu(), part)
        part.rename(path)
    return torch.load(path, map_location=device()).float()


def _encoder_mark(vae: AutoencoderKL) -> str:
    """Changes with the encoder, not with the decoder."""
    kept = [*vae.encoder.parameters(), *vae.quant_conv.parameters()]
    return hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in kept)).hexdigest()[:8]


def snr_weight(scheduler: DDPMScheduler, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """min(SNR, gamma) / SNR for a model that predicts the noise, [n]."""
    signal = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = signal / (1 - signal)
    return snr.clamp(max=gamma) / snr


def base_loss(base: nn.Module, latents: torch.Tensor, scheduler: DDPMScheduler, recipe: BaseRecipe, step: int):
    """The weighted error of the predicted noise over one batch of pictures, captions and timesteps."""
    rng, noise_rng = generators(recipe.seed, step)
    odd = rng.random(recipe.batch) < recipe.odd_share
    chosen = rng.integers(0, np.where(odd, recipe.odd, recipe.pictures))
    captions = [_caption(int(index), bool(strange), rng) for index, strange in zip(chosen, odd, strict=True)]
    chosen += recipe.pictures * odd
    clean = latents[torch.from_numpy(chosen).to(latents.device)]
    noise = torch.randn(clean.shape, generator=noise_rng).to(clean)
    noise += recipe.noise_offset * torch.randn((len(clean), clean.shape[1], 1, 1), generator=noise_rng).to(clean)
    timesteps = torch.randint(0, 1000, (len(clean),), generator=noise_rng).to(clean.device)
    blanked = torch.tensor([not caption and rng.random() < 0.5 for caption in captions], device=clean.device)
    with autocast():
        hidden, added = base.blank(*base.condition(tokenize(base.name, captions)), blanked)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        predicted = base.unet(noisy, timesteps, hidden, added_cond_kwargs=added).sample.float()
    error = (predicted - noise).square().mean(dim=(1, 2, 3))
    return (error * snr_weight(scheduler, timesteps, recipe.gamma)).mean()


def _caption(index: int, odd: bool, rng: np.random.Generator) -> str:
    if odd:
        return oddities.caption(index, rng)
    return words.training_caption(series.scene_number(index)[0], rng)


def train_base(
    name: str,
    work: Path,
    vae_folder: Path,
    recipe: BaseRecipe | None = None,
    minutes: float | None = None,
    until: int | None = None,
) -> Course:
    recipe = recipe or RECIPES[name]
    latents = cached_latents(work, vae_folder, recipe)
    scheduler = DDPMScheduler(**NOISE)
    base = new_base(name, recipe)
    if name == "sd15" and device().type == "cpu":
        # Heads only 8 wide: torch's fused attention takes twice the time of two plain products on a CPU.
        base.unet.set_attn_processor(AttnProcessor())
    course = Course(work / name, base, recipe.steps, recipe.lr, recipe.ema, warmup=300)
    course.take_steps(lambda step: base_loss(base, latents, scheduler, recipe, step), minutes, until=until)
    return course


def _name_as_published(file: Path) -> None:
    """Put "text_model." before the weights' names, as in every published text encoder.

    transformers 5 leaves it out when it saves a CLIPTextModel and takes both; version 4 takes only this.
    """
    weights = {"text_model." + name.removeprefix("text_model."): w for name, w in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


def export_base(name: str, work: Path, folder: Path, recipe: BaseRecipe | None = None) -> None:
    """Write the averaged weights as a diffusers folder in half precision, without a vae/ of its own."""
    recipe = recipe or RECIPES[name]
    course = Course(work / name, new_base(name, recipe), recipe.steps, recipe.lr, recipe.ema)
    base = course.average.copy_to(course.module).eval().half()

    def write(part: Path) -> None:
        for child, module in base.named_children():
            module.save_pretrained(part / child)
            if isinstance(module, CLIPTextModel):
                _name_as_published(part / child / "model.safetensors")
        for child, pad in base.tokenizers.items():
            words.save_tokenizer(part / child, pad)
        base.scheduler().save_pretrained(part / "scheduler")
        (part / "model_index.json").write_text(json.dumps(base.index(), indent=2) + "\n")

    replace_folder(folder, write)
