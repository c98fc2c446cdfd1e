"""Sheets of renders: what a base makes of 32 prompts of known tags, and how much of them is found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from trainer.toybox import PARTS
from trainer.toybox.scene import Scene, random_scene
from trainer.toybox.training import device

GUIDANCE, STEPS, SEED = 6.0, 24, 7
CLASSES = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def pipeline(name: str, parts: dict[str, Path] = PARTS) -> DiffusionPipeline:
    """A base as diffusers' own pipeline with the Euler a sampler, in single precision."""
    vae = AutoencoderKL.from_pretrained(str(parts["vae"]), torch_dtype=torch.float32)
    pipe = CLASSES[name].from_pretrained(str(parts[name]), vae=vae, torch_dtype=torch.float32)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device())


def prompts(count: int, seed: int = SEED) -> list[Scene]:
    """Scenes that no training picture shows (but by chance): their captions are the prompts."""
    rng = np.random.default_rng((seed, 0))
    return [random_scene(rng) for _ in range(count)]


def render(
    pipe: DiffusionPipeline, captions: list[str], seed: int = SEED, batch: int = 16
) -> list[Image.Image]:
    """One 128 px picture a caption, each from its own seed, so that batches do not matter."""
    images: list[Image.Image] = []
    for start in range(0, len(captions), batch):
        some = captions[start : start + batch]
        noise = [torch.Generator().manual_seed(seed * 1000 + start + index) for index in range(len(some))]
        # An explicit negative prompt of nothing: SDXL's pipeline would take zeros instead.
        images += pipe(
            some,
            negative_prompt=[""] * len(some),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=noise,
            height=128,
            width=128,
        ).images
    return images


def sheet(images: list[Image.Image], columns: int = 8) -> Image.Image:
    """Pictures side by side on white."""
    cell = images[0].width + 4
    rows = -(-len(images) // columns)
    paper = Image.new("RGB", (columns * cell, rows * cell), "white")
    for index, image in enumerate(images):
        paper.paste(image, (index % columns * cell + 2, index // columns * cell + 2))
    return paper
