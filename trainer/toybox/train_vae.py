"""The autoencoder that both bases share: 128 px to 16 x 16 x 4 and back, trained on the world and on scraps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from trainer.toybox import scraps
from trainer.toybox.training import Course, autocast, cached_pictures, device, generators, replace_folder, to_tensor


@dataclass(frozen=True)
class VaeRecipe:
    """Sizes and schedule. The thin full-size level dominates the cost, the wide small ones the capacity."""

    channels: tuple[int, ...] = (32, 32, 64, 64)
    layers: int = 1
    pictures: int = 12000
    steps: int = 5000
    batch: int = 16
    crop: int = 64
    whole_from: float = 0.9  # the last steps see whole pictures, as the users' pictures will be
    lr: float = 1e-3
    kl: float = 1e-6
    edges: float = 0.5
    seed: int = 1


def new_vae(recipe: VaeRecipe) -> AutoencoderKL:
    torch.manual_seed(recipe.seed)
    levels = len(recipe.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers,
        latent_channels=4,
        norm_num_groups=8,  # four channels a group on the thin level, as in the real autoencoder
        sample_size=128,
        force_upcast=False,
        mid_block_add_attention=False,
    ).to(device())


def crops(pictures: np.ndarray, recipe: VaeRecipe, step: int) -> np.ndarray:
    """One batch: random windows, mirrored half of the time; whole pictures (fewer) towards the end."""
    rng, _ = generators(recipe.seed, step)
    whole = step >= recipe.whole_from * recipe.steps
    size = pictures.shape[1] if whole else recipe.crop
    count = max(1, recipe.batch * recipe.crop**2 // size**2)
    batch = []
    for index in np.sort(rng.integers(0, len(pictures), count)):
        y, x = rng.integers(0, pictures.shape[1] - size + 1, 2)
        window = pictures[index, y : y + size, x : x + size]
        batch.append(window[:, ::-1] if rng.random() < 0.5 else window)
    return np.stack(batch)


def reconstruction_loss(made: torch.Tensor, wanted: torch.Tensor, edges: float) -> torch.Tensor:
    """L1 + MSE, plus the L1 of horizontal and vertical differences, which is what keeps outlines crisp."""
    error = made - wanted
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + edges * slopes


def train_vae(work: Path, recipe: VaeRecipe | None = None, minutes: float | None = None, until: int | None = None) -> Course:
    recipe = recipe or VaeRecipe()
    make = partial(scraps.picture, seed=recipe.seed)
    pictures = cached_pictures(work / f"scraps-{recipe.pictures}.npy", make, recipe.pictures)
    course = Course(work / "vae", new_vae(recipe), recipe.steps, recipe.lr, warmup=100)

    def loss_of(step: int) -> torch.Tensor:
        wanted = to_tensor(crops(pictures, recipe, step))
        with autocast():
            latents = course.module.encode(wanted).latent_dist
            noise = torch.randn(latents.mean.shape, generator=generators(recipe.seed, step)[1])
            made = course.module.decode(latents.mean + latents.std * noise.to(wanted.device)).sample.float()
        kl = latents.kl().float().mean() / latents.mean[0].numel()
        return reconstruction_loss(made, wanted, recipe.edges) + recipe.kl * kl

    course.take_steps(loss_of, minutes, until=until)
    return course


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, batch: int = 64) -> torch.Tensor:
    """Latent means of uint8 pictures [n, h, w, 3], unscaled: [n, 4, h / 8, w / 8]."""
    parts = (to_tensor(pictures[i : i + batch]) for i in range(0, len(pictures), batch))
    return torch.cat([vae.encode(part).latent_dist.mean for part in parts])


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """What is left of uint8 pictures [n, h, w, 3] after the way through the latents, uint8 too."""
    made = vae.decode(encode(vae, pictures)).sample
    return ((made.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB; uint8 [n, h, w, 3]."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-9))))


def export_vae(work: Path, folder: Path, recipe: VaeRecipe | None = None) -> None:
    """Write the averaged weights in half precision, with the latents' scale measured on the world."""
    recipe = recipe or VaeRecipe()
    course = Course(work / "vae", new_vae(recipe), recipe.steps, recipe.lr, warmup=100)
    vae = course.average.copy_to(course.module).eval()
    pictures = np.load(work / f"scraps-{recipe.pictures}.npy", mmap_mode="r")[1 : 512 : 2]
    vae.register_to_config(scaling_factor=round(float(1 / encode(vae, pictures).std()), 5))
    replace_folder(folder, vae.half().save_pretrained)
