"""Which resolution and bucket bounds lose least of a folder's pictures."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.dataset.buckets import Size, make_buckets, place

RESOLUTIONS = (512, 576, 640, 768, 896, 1024)
BOUNDS = ((0.5, 2.0), (0.375, 2.5), (0.25, 4.0))
"""Smallest and largest side as shares of the resolution; the first is kohya's at 512."""


@dataclass(frozen=True)
class Suggestion:
    """One way to lay pictures out, and what it costs."""

    resolution: int
    bucket_min: int
    bucket_max: int
    bucket_step: int
    lost: float
    """Mean share of a picture's area that is cropped off, 0 to 1."""
    enlarged: float
    """Share of the pictures that have fewer pixels than their bucket, 0 to 1."""
    buckets: int
    """Buckets in use; many with few pictures each make small batches."""

    @property
    def cost(self) -> float:
        """What is lost, with enlarging and lonely buckets counted a little."""
        return self.lost + 0.5 * self.enlarged + 0.002 * self.buckets


def suggest(
    sizes: Iterable[Size], *, resolutions: Sequence[int] = RESOLUTIONS, steps: Sequence[int] = (64,)
) -> list[Suggestion]:
    """Every combination, the least cost first; among equals the larger resolution, then the narrower bounds.

    `sizes`: (width, height) of every picture in pixels.
    """
    numbers = Counter(sizes)
    found = []
    for resolution in resolutions:
        for low, high in BOUNDS:
            for step in steps:
                if resolution >= step:
                    found.append(_judged(numbers, resolution, int(resolution * low), int(resolution * high), step))
    return sorted(found, key=lambda one: (round(one.cost, 4), -one.resolution, one.bucket_max - one.bucket_min))


def _judged(numbers: Counter[Size], resolution: int, low: int, high: int, step: int) -> Suggestion:
    shapes = make_buckets(resolution, low, high, step)
    lost = enlarged = 0.0
    used: set[Size] = set()
    for size, number in numbers.items():
        placement = place(*size, shapes, step=step)
        lost += number * placement.lost
        enlarged += number * placement.upscaled
        used.add(placement.bucket)
    total = max(1, sum(numbers.values()))
    return Suggestion(resolution, low, high, step, lost / total, enlarged / total, len(used))
