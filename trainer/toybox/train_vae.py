"""The autoencoder both bases share: 128 px to 16 x 16 x 4 and back, trained on the world and on scraps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from trainer.toybox import scraps, series
from trainer.toybox.training import (
    Course,
    autocast,
    cached_pictures,
    device,
    generators,
    replace_folder,
    to_tensor,
)


@dataclass(frozen=True)
class VaeRecipe:
    """Sizes and schedule. The thin full-size level dominates the cost, the wide small ones the capacity."""

    channels: tuple[int, ...] = (32, 32, 64, 64)
    layers: int = 1
    pictures: int = 12000  # scraps; the scenes are those of the bases
    mix: tuple[float, float] = (0.5, 0.1)  # shares of scenes and of held-back drawings; the rest are scraps
    steps: int = 5000
    batch: int = 16
    crop: int = 64
    whole_from: float = 0.6  # the later steps see whole pictures, as the users' pictures will be
    lr: float = 2e-3
    kl: float = 1e-6
    # Then the decoder alone, on whole pictures, while the bases already learn from the encoder's latents.
    polish_steps: int = 1300
    polish_lr: float = 1e-3
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


def vae_pictures(work: Path, recipe: VaeRecipe) -> list[np.ndarray]:
    """Scenes, held-back drawings and scraps. An autoencoder may know what the bases must not."""
    make = partial(scraps.picture, seed=recipe.seed)
    drawn = cached_pictures(work / f"scraps-{recipe.pictures}.npy", make, recipe.pictures)
    return [series.scene_pictures(work), series.held_back_pictures(work), drawn]


def crops(kinds: list[np.ndarray], recipe: VaeRecipe, step: int) -> np.ndarray:
    """One batch: random windows, mirrored half of the time; whole pictures (fewer) towards the end."""
    rng, _ = generators(recipe.seed, step)
    size = 128 if step >= recipe.whole_from * recipe.steps else recipe.crop
    count = max(1, recipe.batch * recipe.crop**2 // size**2)
    batch = []
    for kind in rng.choice(3, count, p=[*recipe.mix, 1 - sum(recipe.mix)]):
        y, x = rng.integers(0, 128 - size + 1, 2)
        window = kinds[kind][rng.integers(0, len(kinds[kind])), y : y + size, x : x + size]
        batch.append(window[:, ::-1] if rng.random() < 0.5 else window)
    return np.stack(batch)


def reconstruction_loss(made: torch.Tensor, wanted: torch.Tensor, edges: float) -> torch.Tensor:
    """L1 + 2 MSE, plus the L1 of horizontal and vertical differences, which is what keeps outlines crisp."""
    error = made - wanted
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + edges * slopes


def train_vae(
    work: Path, recipe: VaeRecipe | None = None, minutes: float | None = None, until: int | None = None
) -> Course:
    recipe = recipe or VaeRecipe()
    pictures = vae_pictures(work, recipe)
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


def averaged_vae(work: Path, recipe: VaeRecipe) -> AutoencoderKL:
    """The averaged weights of the first course, ready to encode."""
    course = Course(work / "vae", new_vae(recipe), recipe.steps, recipe.lr)
    return course.average.copy_to(course.module).eval()


class Decoder(nn.Module):
    """The half of an autoencoder that may still change once models were trained on its latents."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(latents))


def polish_decoder(
    work: Path, recipe: VaeRecipe | None = None, minutes: float | None = None, until: int | None = None
) -> Course:
    """Train the decoder on, the encoder frozen: the latents stay what the bases have learned."""
    recipe = recipe or VaeRecipe()
    pictures = vae_pictures(work, recipe)
    vae = averaged_vae(work, recipe)
    course = Course(work / "vae-decoder", Decoder(vae), recipe.polish_steps, recipe.polish_lr, warmup=100)
    course.module.train()
    seen = replace(recipe, whole_from=0.0, seed=recipe.seed + 100)

    def loss_of(step: int) -> torch.Tensor:
        wanted = to_tensor(crops(pictures, seen, step))
        with autocast():
            with torch.no_grad():
                latents = vae.encode(wanted).latent_dist.mean
            made = course.module(latents).float()
        return reconstruction_loss(made, wanted, recipe.edges)

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
    made = torch.cat([vae.decode(latents).sample for latents in encode(vae, pictures).split(16)])
    return ((made.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB; uint8 [n, h, w, 3]."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-9))))


@torch.no_grad()
def centre_latents(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    """Give every latent channel mean 0 and the same spread, by changing the 1 x 1 convolutions around them.

    A diffusion model starts from noise that is alike in all channels; this spares it learning the difference.
    The pictures that come out of the decoder stay the same.
    """
    latents = encode(vae, pictures)
    mean, spread, overall = latents.mean((0, 2, 3)), latents.std((0, 2, 3)), latents.std()
    gain = overall / spread
    vae.quant_conv.weight[:4] *= gain[:, None, None, None]
    vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - mean) * gain
    vae.quant_conv.bias[4:] += 2 * gain.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight /= gain[None, :, None, None]
    vae.register_to_config(scaling_factor=round(float(1 / overall), 5))


def export_vae(work: Path, folder: Path, recipe: VaeRecipe | None = None) -> None:
    """Write the averaged weights in half precision, with the latents' scale measured on scenes."""
    recipe = recipe or VaeRecipe()
    vae = averaged_vae(work, recipe)
    if (work / "vae-decoder" / "checkpoint.pt").exists():
        decoder = Course(work / "vae-decoder", Decoder(vae), recipe.polish_steps, recipe.polish_lr)
        decoder.average.copy_to(decoder.module)
    centre_latents(vae, vae_pictures(work, recipe)[0][:512])
    replace_folder(folder, vae.half().save_pretrained)
