"""A CLIPModel of the world: how alike are a picture and a prompt, or two pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

from trainer.toybox import series, words
from trainer.toybox.scene import Scene
from trainer.toybox.training import Course, autocast, device, generators, replace_folder, to_tensor


@dataclass(frozen=True)
class ClipRecipe:
    width: int = 64
    layers: int = 3
    steps: int = 2000
    batch: int = 64
    lr: float = 1e-3
    seed: int = 5


def new_clip(recipe: ClipRecipe) -> CLIPModel:
    torch.manual_seed(recipe.seed)
    tokens, _ = words.vocabulary()
    shape = {
        "hidden_size": recipe.width,
        "intermediate_size": recipe.width * 3,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.width // 32,
        "projection_dim": recipe.width,
    }
    ids = {
        "bos_token_id": tokens[words.START],
        "eos_token_id": tokens[words.END],
        "pad_token_id": tokens[words.END],
    }
    text = {"vocab_size": len(tokens), "max_position_embeddings": words.LENGTH, **ids, **shape}
    vision = {"image_size": 128, "patch_size": 16, **shape}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=recipe.width)).to(
        device()
    )


def partial_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Some of the tags in any order: what one prompt says of a picture, another leaves out."""
    tags = [tag for tag in scene.tags() if rng.random() < 0.75] or list(scene.tags())
    rng.shuffle(tags)
    if rng.random() < 0.2:
        tags.insert(0, words.nonsense(rng))
    return ", ".join(tags)


def embed_text(clip: CLIPModel, captions: list[str]) -> torch.Tensor:
    """Unit vectors of captions, [n, width]."""
    tokens = words.tokenizer()(
        captions, truncation=True, max_length=words.LENGTH, padding=True, return_tensors="pt"
    )
    out = clip.text_model(**tokens.to(clip.device)).pooler_output
    return F.normalize(clip.text_projection(out).float(), dim=-1)


def embed_pictures(clip: CLIPModel, pictures: np.ndarray) -> torch.Tensor:
    """Unit vectors of uint8 pictures [n, 128, 128, 3], [n, width]."""
    out = clip.vision_model(to_tensor(pictures)).pooler_output
    return F.normalize(clip.visual_projection(out).float(), dim=-1)


def train_clip(
    work: Path, recipe: ClipRecipe | None = None, minutes: float | None = None, until: int | None = None
) -> Course:
    """Contrast each picture's caption with those of the other pictures in the batch (Radford et al. 2021)."""
    recipe = recipe or ClipRecipe()
    pictures = series.scene_pictures(work)
    course = Course(work / "clip", new_clip(recipe), recipe.steps, recipe.lr, ema=0.995, warmup=100)

    def loss_of(step: int) -> torch.Tensor:
        rng, _ = generators(recipe.seed, step)
        chosen = np.sort(rng.choice(len(pictures), recipe.batch, replace=False))
        captions = [partial_caption(series.scene_number(int(index))[0], rng) for index in chosen]
        with autocast():
            seen, told = embed_pictures(course.module, pictures[chosen]), embed_text(course.module, captions)
        alike = course.module.logit_scale.exp().clamp(max=100) * seen @ told.T
        right = torch.arange(recipe.batch, device=alike.device)
        return (F.cross_entropy(alike, right) + F.cross_entropy(alike.T, right)) / 2

    course.take_steps(loss_of, minutes, until=until)
    return course


# 128 px, RGB, (x / 255 - 0.5) / 0.5; CLIPImageProcessor reads it, and so can anyone without torchvision.
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 128},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 128, "width": 128},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
}


def export_clip(work: Path, folder: Path, recipe: ClipRecipe | None = None) -> None:
    recipe = recipe or ClipRecipe()
    course = Course(work / "clip", new_clip(recipe), recipe.steps, recipe.lr)
    clip = course.average.copy_to(course.module).eval().half()

    def write(part: Path) -> None:
        clip.save_pretrained(part)
        words.save_tokenizer(part)
        (part / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")

    replace_folder(folder, write)


@torch.no_grad()
def retrieval(folder: Path, pictures: np.ndarray, captions: list[str]) -> float:
    """How often a picture's nearest caption among all given ones is its own."""
    clip = CLIPModel.from_pretrained(str(folder), dtype=torch.float32).eval()
    alike = embed_pictures(clip, pictures) @ embed_text(clip, captions).T
    return float((alike.argmax(1) == torch.arange(len(captions))).float().mean())
