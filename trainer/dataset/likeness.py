"""Which pictures are nearly the same: copies, other sizes, crops by a few pixels, mirror images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from trainer.dataset import images
from trainer.dataset.ahead import ahead

SIDE = 16  # the hash is SIDE² bits for the steps to the right and as many for the steps down
NEAR = 0.1  # share of the bits that may differ; unrelated pictures differ in about half of them
GRID = 4  # squares a side whose mean colours are compared: a drawing in other colours is another picture
TINT = 24  # of 255: mean difference of these colours that copies may have


@dataclass(frozen=True)
class Look:
    """What is compared of a picture."""

    steps: int
    colours: bytes

    @classmethod
    def of(cls, picture: Image.Image) -> Look:
        return cls(difference_hash(picture), picture.resize((GRID, GRID), Image.Resampling.BOX).tobytes())

    def near(self, other: Look) -> bool:
        tint = sum(abs(one - two) for one, two in zip(self.colours, other.colours)) / len(self.colours)
        return tint <= TINT and (self.steps ^ other.steps).bit_count() <= NEAR * 2 * SIDE * SIDE


def difference_hash(picture: Image.Image) -> int:
    """Whether it gets brighter to the right, and downwards, on a small grey copy (dHash, N. Krawetz, 2013)."""
    small = ImageOps.autocontrast(picture.convert("L"))
    bits = 0
    for across, down in ((1, 0), (0, 1)):
        width = SIDE + across
        values = small.resize((width, SIDE + down), Image.Resampling.BOX).tobytes()
        for y in range(SIDE):
            for x in range(SIDE):
                bits = bits << 1 | (values[(y + down) * width + x + across] > values[y * width + x])
    return bits


def groups(paths: Sequence[Path]) -> list[list[int]]:
    """Indices of `paths`, those of nearly the same pictures together (also by way of a third), in order.

    Raises UserError for a picture that cannot be read.
    """
    looks = list(ahead(_looks, paths))
    found: list[list[int]] = []
    for index, (upright, mirrored) in enumerate(looks):

        def near(other: int, upright=upright, mirrored=mirrored) -> bool:
            return looks[other][0].near(upright) or looks[other][0].near(mirrored)

        joined = [group for group in found if any(near(other) for other in group)]
        found = [group for group in found if group not in joined]
        found.append(sorted([index, *(other for group in joined for other in group)]))
    return sorted(found)


def _looks(path: Path) -> tuple[Look, Look]:
    """As it is and mirrored."""
    picture = images.open_rgb(path)
    return Look.of(picture), Look.of(ImageOps.mirror(picture))
