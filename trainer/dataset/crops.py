"""Which part of a picture stays when its shape changes: one function a way, in CROPS."""

from collections.abc import Callable

from PIL import Image

from trainer.dataset.buckets import Box, Size
from trainer.dataset.faces import Face


def window(size: Size, ratio: float) -> Size:
    """The largest size of this width over height that fits into `size`."""
    width, height = size
    if width > height * ratio:
        return max(1, round(height * ratio)), height
    return width, min(height, max(1, round(width / ratio)))


def whole(picture: Image.Image, ratio: float) -> Box:
    """No crop."""
    return 0, 0, *picture.size


def centre(picture: Image.Image, ratio: float) -> Box:
    """The middle."""
    width, height = window(picture.size, ratio)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return left, top, left + width, top + height


def salient(picture: Image.Image, ratio: float) -> Box:
    """Where most of the edges and strong colours are; the middle among equals.

    A crop to a ratio moves along one side only, so the sum of what stands out, column by column (or row by row),
    decides.
    """
    import numpy as np

    width, height = window(picture.size, ratio)
    along = 0 if width < picture.width else 1
    small = picture.copy()
    small.thumbnail((256, 256), Image.Resampling.BOX)
    values = np.asarray(small, np.float32)
    energy = np.abs(np.gradient(values.mean(axis=2))).sum(axis=0) if min(small.size) > 1 else values.mean(axis=2)
    energy = energy + np.abs(values - np.median(values, axis=(0, 1))).max(axis=2) / 8
    profile = energy.sum(axis=along)
    total, wanted = (picture.width, width) if along == 0 else (picture.height, height)
    scale = len(profile) / total
    sums = np.concatenate([[0.0], np.cumsum(profile)])
    starts = np.arange(total - wanted + 1)
    places = np.arange(len(sums))
    inside = np.interp((starts + wanted) * scale, places, sums) - np.interp(starts * scale, places, sums)
    near_middle = -np.abs(starts - (total - wanted) / 2) * 1e-6 * max(float(sums[-1]), 1e-9) / total
    start = int(np.argmax(inside + near_middle))
    return (start, 0, start + width, height) if along == 0 else (0, start, width, start + height)


def around(face: Face, size: Size, part: Size) -> Box:
    """A window of the size `part`, with the face as near to its middle as the edges of the picture allow."""
    left, top, right, bottom = face.box
    x = min(max(0, (left + right - part[0]) // 2), size[0] - part[0])
    y = min(max(0, (top + bottom - part[1]) // 2), size[1] - part[1])
    return x, y, x + part[0], y + part[1]


def close(face: Face, size: Size, resolution: int) -> Box | None:
    """A square around the face: four times as large as it, but no smaller than the training resolution in px, so that
    nothing is enlarged. None when the picture is not larger than that."""
    side = max(resolution, 4 * face.side)
    return around(face, size, (side, side)) if side < min(size) else None


FACE = "face"
"""Needs a detector, so it is no function of the picture alone; see `around`."""
CROPS: dict[str, Callable[[Image.Image, float], Box]] = {"none": whole, "centre": centre, "salient": salient}
