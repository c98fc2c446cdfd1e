"""The versions of a picture that training draws from: cropped, mirrored and coloured in several ways.

Which versions there are depends on the picture's content and the settings alone, so each is encoded once, shared
by all runs, and found again by a resumed one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageOps
from torch import Tensor

from trainer.config import DataConfig
from trainer.dataset import images
from trainer.dataset.buckets import Placement
from trainer.examples import Example

HUE = 11  # of 256 steps round the colour circle; 16 degrees, as sd-scripts' color_aug has it
GAMMA = 0.05  # from 1 - this to 1 + this, likewise


@dataclass(frozen=True)
class Variant:
    """One way to see a picture. The first of an example is the plain one."""

    placement: Placement
    mirrored: bool = False
    hue: int = 0  # of 256
    gamma: float = 1.0

    @property
    def origin(self) -> tuple[int, int]:
        """(top, left) of the crop in the scaled picture as it is seen, px."""
        left, top, right, _ = self.placement.crop
        return top, self.placement.scaled[0] - right if self.mirrored else left


def variants(example: Example, settings: DataConfig) -> list[Variant]:
    """All versions of an example, the plain one first; the mirrored ones are the second half."""
    found = [Variant(example.placement)]
    if settings.random_crop or settings.colour_shift:
        found += [_drawn(example, settings, number) for number in range(1, settings.variants)]
    return found + [replace(variant, mirrored=True) for variant in found if settings.flip]


def _drawn(example: Example, settings: DataConfig, number: int) -> Variant:
    variant = Variant(example.placement)
    if settings.random_crop:
        rng = random.Random(f"{example.digest}/{number}/crop")
        (width, height), scaled = example.placement.bucket, example.placement.scaled
        left, top = rng.randint(0, scaled[0] - width), rng.randint(0, scaled[1] - height)
        variant = Variant(replace(example.placement, crop=(left, top, left + width, top + height)))
    if settings.colour_shift:
        rng = random.Random(f"{example.digest}/{number}/colour")
        shift = {"hue": rng.randint(-HUE, HUE)} if rng.random() < 0.5 else {"gamma": 1 + rng.uniform(-GAMMA, GAMMA)}
        variant = replace(variant, **shift)
    return variant


def load_pixels(example: Example, variant: Variant) -> Tensor:
    """The picture as it is trained: scaled, cropped into its bucket, coloured. [3, H, W] in [-1, 1]."""
    picture = _fitted(images.open_rgb(example.path), variant)
    if variant.hue:
        hue, saturation, value = picture.convert("HSV").split()
        hue = hue.point([(level + variant.hue) % 256 for level in range(256)])
        picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    if variant.gamma != 1:
        picture = picture.point([round(255 * (level / 255) ** variant.gamma) for level in range(256)] * 3)
    return _tensor(picture) / 127.5 - 1


def load_mask(example: Example, variant: Variant) -> Tensor:
    """What of the picture is learned, cropped exactly as it is: [1, H/8, W/8] in [0, 1], 1 where there is no mask.

    Each value is the mean over what one latent pixel covers.
    """
    width, height = example.placement.bucket
    if example.mask is None:
        return torch.ones(1, height // 8, width // 8)
    if example.mask == example.path:
        mask = images.open_alpha(example.path) or Image.new("L", example.placement.size, 255)
    else:
        mask = images.open_rgb(example.mask).convert("L").resize(example.placement.size, Image.Resampling.BILINEAR)
    return torch.nn.functional.avg_pool2d(_tensor(_fitted(mask, variant)) / 255, 8)


def _fitted(picture: Image.Image, variant: Variant) -> Image.Image:
    picture = images.fit(picture, variant.placement)
    return ImageOps.mirror(picture) if variant.mirrored else picture


def _tensor(picture: Image.Image) -> Tensor:
    """[C, H, W], 0 to 255."""
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return values.reshape(picture.height, picture.width, -1).permute(2, 0, 1).float()
