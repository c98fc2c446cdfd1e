"""Aspect-ratio buckets: pure, exact whole-number arithmetic, and batches that drop nothing.

Buckets are those of kohya's sd-scripts (`make_bucket_resolutions`): every width a multiple of `step`, with
the tallest height that keeps the area within resolution², and the same turned by 90 degrees.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.dataset.names import count, shown
from trainer.errors import UserError

Size = tuple[int, int]
"""(width, height) in pixels."""
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom exclusive, as Pillow takes it."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How one picture goes into its bucket: resize to `scaled`, then cut out `crop`."""

    size: Size
    """The picture as it is shown."""
    bucket: Size
    scaled: Size
    """After resizing; covers the bucket and touches it on two sides."""
    crop: Box
    """The bucket's window, centred, in pixels of the scaled picture."""

    @property
    def lost(self) -> float:
        """Share of the picture's area that training never sees, 0 to 1."""
        return 1 - (self.bucket[0] * self.bucket[1]) / (self.scaled[0] * self.scaled[1])

    @property
    def upscaled(self) -> bool:
        return self.scaled[0] > self.size[0] or self.scaled[1] > self.size[1]

    @property
    def scale(self) -> float:
        """Scaled over original size; above 1 the picture is enlarged."""
        return max(self.scaled[0] / self.size[0], self.scaled[1] / self.size[1])

    @property
    def source_crop(self) -> Box:
        """The crop in pixels of the original picture, rounded outwards, for previews."""
        left, top, right, bottom = self.crop
        (width, height), (scaled_width, scaled_height) = self.size, self.scaled
        return (
            left * width // scaled_width,
            top * height // scaled_height,
            _ceil(right * width, scaled_width),
            _ceil(bottom * height, scaled_height),
        )


def make_buckets(
    resolution: int, min_size: int | None = None, max_size: int | None = None, step: int = 64
) -> list[Size]:
    """All buckets for a training resolution, sorted; areas never above resolution².

    `min_size` and `max_size` bound both sides and default to half and twice the resolution (kohya's 256 and
    1024 at 512). Sides are multiples of `step`, in pixels, itself a multiple of 8 for the VAE. Raises
    UserError when the numbers leave no bucket.
    """
    if resolution < step or step < 1:
        raise UserError(f"Resolution {resolution} is below the bucket step {step}: raise it or lower the step.")
    low = _ceil(min_size if min_size is not None else resolution // 2, step) * step or step
    high = (max_size if max_size is not None else resolution * 2) // step * step
    square = resolution // step * step
    if not low <= square <= high:
        raise UserError(
            f"Bucket sides from {low} to {high} (multiples of {step}) leave out {square}×{square}, the "
            f"square at resolution {resolution}: set the smallest side to {square} or less and the "
            f"largest to {square} or more."
        )
    buckets = {(square, square)}
    for width in range(low, high + 1, step):
        height = min(high, resolution * resolution // width // step * step)
        if height >= low:
            buckets |= {(width, height), (height, width)}
    return sorted(buckets)


def place(width: int, height: int, buckets: Sequence[Size], upscale: bool = True, step: int = 64) -> Placement:
    """The bucket of nearest aspect ratio, and the resize and centre crop that fill it.

    Distance is that of the logarithms of width/height, compared exactly; among equals the larger bucket.
    With `upscale=False` a picture smaller than its bucket gets a smaller bucket of its own, in multiples of
    `step` (kohya's `bucket_no_upscale`), and is enlarged only if a side is shorter than one step.
    """
    bucket = min(buckets, key=lambda b: (_ratio_distance(width, height, b), -b[0] * b[1], b))
    if not upscale:
        bucket = (_shrunk(bucket[0], width, step), _shrunk(bucket[1], height, step))
    scaled = _covering(width, height, bucket)
    left, top = (scaled[0] - bucket[0]) // 2, (scaled[1] - bucket[1]) // 2
    return Placement((width, height), bucket, scaled, (left, top, left + bucket[0], top + bucket[1]))


def plan(
    placements: Sequence[Placement], repeats: Sequence[int] | int, batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of one epoch, as indices into `placements`; each batch is of one bucket.

    Every example occurs exactly `repeats` times. A bucket whose examples do not fill the last batch gets a
    smaller one. The order depends on (seed, epoch) and the placements alone, never on what was drawn before.
    """
    batches: list[list[int]] = []
    for bucket, members in _by_bucket(placements, repeats).items():
        # Random hashes a string seed with SHA-512: the same in every process and on every machine.
        random.Random(f"{seed}/{epoch}/{bucket[0]}x{bucket[1]}").shuffle(members)
        batches += [members[at : at + batch_size] for at in range(0, len(members), batch_size)]
    random.Random(f"{seed}/{epoch}/batches").shuffle(batches)
    return batches


def steps_per_epoch(placements: Sequence[Placement], repeats: Sequence[int] | int, batch_size: int) -> int:
    """`len(plan(...))`, without drawing it."""
    sizes: Counter[Size] = Counter()
    for placement, times in zip(placements, _each(repeats, placements), strict=True):
        sizes[placement.bucket] += times
    return sum(_ceil(size, batch_size) for size in sizes.values())


@dataclass(frozen=True)
class BucketLine:
    """One bucket of a folder."""

    bucket: Size
    pictures: int
    examples: int
    """Pictures times their repeats, in one epoch."""
    batches: int
    smallest_batch: int
    """Examples in the last batch; below the batch size when they do not divide."""

    def __str__(self) -> str:
        repeated = f" ({count(self.examples, 'example')})" if self.examples != self.pictures else ""
        text = f"{_by(self.bucket)}: {count(self.pictures, 'picture')}{repeated}, {count(self.batches, 'batch')}"
        if self.smallest_batch * self.batches != self.examples:
            text += f", the last of {self.smallest_batch}"
        return text


@dataclass(frozen=True)
class PictureLine:
    """What happens to one picture."""

    name: str
    placement: Placement
    repeats: int

    def __str__(self) -> str:
        placement = self.placement
        text = f"{shown(self.name)} {_by(placement.size)} → {_by(placement.bucket)}, {_loss(placement)}"
        if placement.upscaled:
            text += f", enlarged {placement.scale:.2g} times"
        return text + (f", {self.repeats} times an epoch" if self.repeats != 1 else "")


@dataclass(frozen=True)
class Description:
    """What will happen to a folder, as data; `str()` gives it as lines to print before the first step."""

    buckets: list[BucketLine]
    pictures: list[PictureLine]

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        return sum(line.batches for line in self.buckets)

    def __str__(self) -> str:
        return "\n".join(map(str, [*self.buckets, *self.pictures]))


def describe(
    names: Iterable[str], placements: Sequence[Placement], repeats: Sequence[int] | int, batch_size: int
) -> Description:
    """Every bucket with its batches and every picture with its crop, loss and repeats."""
    times = _each(repeats, placements)
    pictures = [PictureLine(*line) for line in zip(map(str, names), placements, times, strict=True)]
    sizes = Counter(placement.bucket for placement in placements)
    lines = []
    for bucket, members in _by_bucket(placements, repeats).items():
        batches = _ceil(len(members), batch_size)
        last = len(members) - (batches - 1) * batch_size
        lines.append(BucketLine(bucket, sizes[bucket], len(members), batches, last))
    return Description(lines, pictures)


def _by_bucket(placements: Sequence[Placement], repeats: Sequence[int] | int) -> dict[Size, list[int]]:
    """Example indices, repeated, in order; buckets sorted."""
    members: dict[Size, list[int]] = {bucket: [] for bucket in sorted({p.bucket for p in placements})}
    for index, (placement, times) in enumerate(zip(placements, _each(repeats, placements), strict=True)):
        members[placement.bucket] += [index] * times
    return members


def _each(repeats: Sequence[int] | int, placements: Sequence[Placement]) -> Sequence[int]:
    times = [repeats] * len(placements) if isinstance(repeats, int) else repeats
    if any(number < 1 for number in times):
        raise UserError("Repeats below 1 would drop pictures: set them to 1 or more, or move the pictures away.")
    return times


def _ratio_distance(width: int, height: int, bucket: Size) -> int:
    """2^64 · exp(|log(width/height) - log(bucket)|): grows with the log distance, in whole numbers.

    Two different ratios of products below 2^32 differ by more than 2^-64, so nothing is lost by rounding.
    """
    one, other = width * bucket[1], height * bucket[0]
    return (max(one, other) << 64) // min(one, other)


def _covering(width: int, height: int, bucket: Size) -> Size:
    """The picture's size once it just covers the bucket: one side equal, the other rounded, never below."""
    across, down = bucket
    if width * down >= height * across:
        return max(across, _round(width * down, height)), down
    return across, max(down, _round(height * across, width))


def _shrunk(side: int, available: int, step: int) -> int:
    return side if available >= side else max(step, available // step * step)


def _loss(placement: Placement) -> str:
    across = placement.scaled[0] > placement.bucket[0]
    if placement.scaled == placement.bucket:
        return "nothing lost"
    percent = 100 * placement.lost
    share = f"{percent:.0f} %" if percent >= 1 else "under 1 %"
    return f"loses {share} at {'left and right' if across else 'top and bottom'}"


def _by(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def _round(above: int, below: int) -> int:
    return (2 * above + below) // (2 * below)


def _ceil(above: int, below: int) -> int:
    return -(-above // below)
