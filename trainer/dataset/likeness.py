"""Which pictures are nearly the same: copies, other sizes, crops by a few pixels, mirror images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from trainer.dataset import images

SIDE = 16  # the hash is SIDE² bits for the steps to the right and as many for the steps down
NEAR = 0.1  # share of the bits that may differ; unrelated pictures differ in about half of them


def difference_hash(picture: Image.Image) -> int:
    """Whether it gets brighter to the right, and downwards, on a small grey copy (dHash, N. Krawetz, 2013)."""
    small = ImageOps.autocontrast(picture.convert("L"))
    bits = 0
    for across, down in ((1, 0), (0, 1)):
        values = small.resize((SIDE + across, SIDE + down), Image.Resampling.BOX)
        pixels = [[values.getpixel((x, y)) for x in range(SIDE + across)] for y in range(SIDE + down)]
        for y in range(SIDE):
            for x in range(SIDE):
                bits = bits << 1 | (pixels[y + down][x + across] > pixels[y][x])
    return bits


def groups(paths: Sequence[Path]) -> list[list[int]]:
    """Indices of `paths`, those of nearly the same pictures together (also by way of a third), in order.

    Raises UserError for a picture that cannot be read.
    """
    hashes = []
    for path in paths:
        picture = images.open_rgb(path)
        hashes.append((difference_hash(picture), difference_hash(ImageOps.mirror(picture))))
    found: list[list[int]] = []
    for index, (upright, mirrored) in enumerate(hashes):
        near = [group for group in found if any(_near(hashes[other][0], upright, mirrored) for other in group)]
        found = [group for group in found if group not in near]
        found.append(sorted([index, *(other for group in near for other in group)]))
    return sorted(found)


def _near(one: int, *others: int) -> bool:
    return any((one ^ other).bit_count() <= NEAR * 2 * SIDE * SIDE for other in others)
