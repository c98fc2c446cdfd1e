"""Pictures made ready in a new folder: upright, sRGB, cropped, with masks, frames taken apart; each with its origin.

The folder they come from is only read. `provenance.jsonl` in the new one says of each file what it was made from and
how.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from trainer import files
from trainer.dataset import captions, colour, images, index, masks
from trainer.dataset.buckets import Box, Size, make_buckets, place
from trainer.dataset.images import Picture
from trainer.dataset.names import shown
from trainer.dataset.splitting import check_target
from trainer.errors import UserError, nearest

PROVENANCE = "provenance.jsonl"
MASKS = masks.FOLDER
Cut = Callable[[Picture, Image.Image], Box]
"""(picture, what it shows) -> the part that stays, in its pixels."""


@dataclass(frozen=True)
class Recipe:
    """What is done to every picture; turning upright and conversion to sRGB always are."""

    crop: str = "none"
    """Key of CROPS: which part stays when the shape changes."""
    ratio: str = "bucket"
    """Shape after cropping: `1:1`, `3:4`, ..., or `bucket` for that of the training bucket."""
    resolution: int = 512
    """Training resolution, whose buckets `bucket` means, px."""
    longest: int = 0
    """Longer sides are scaled down to this many px; 0 leaves the size alone. Nothing is ever enlarged."""
    masks: bool = False
    """Write the transparency as a mask beside the pictures that have one; a mask in `.masks/` comes along always."""
    frames: int = 1
    """Take up to this many frames, evenly spread, out of an animation."""


@dataclass(frozen=True)
class Made:
    """One new picture."""

    file: str
    source: str
    sha256: str
    """Of the source's bytes."""
    frame: int
    """0 for the first or only one."""
    size: Size
    """Of the source as it is shown."""
    crop: Box
    """In its pixels."""
    scaled: Size
    mask: bool
    notes: tuple[str, ...] = ()


def prepare(
    folder: Path, to: Path, recipe: Recipe, *, progress: Callable[[int, int], None] | None = None
) -> list[Made]:
    """Fill the new folder `to`, captions included. Raises UserError for a broken picture or a folder that is there."""
    folder, to = Path(folder), Path(to)
    check(folder, to, recipe)

    def cut(_: Picture, image: Image.Image) -> Box:
        return CROPS[recipe.crop](image, shape(recipe, *image.size))

    return fill(index.scan(folder), folder, to, recipe, cut, progress=progress)


def fill(
    pictures: list[Picture],
    folder: Path,
    to: Path,
    recipe: Recipe,
    cut: Cut,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Made]:
    """Write these pictures of the folder, each cut as `cut` says; the target has been checked.

    It is whole or not there: filled beside its place, under a hidden name, and moved when all is written.
    """
    names = _Names(pictures, folder)
    made: list[Made] = []
    with files.new_folder(to) as part:
        for done, picture in enumerate(pictures, start=1):
            made += _made(picture, folder, part, recipe, cut, names)
            if progress:
                progress(done, len(pictures))
        lines = [json.dumps(asdict(one), ensure_ascii=True) + "\n" for one in made]
        files.write_text(part / PROVENANCE, "".join(lines))
    return made


def check(folder: Path, to: Path, recipe: Recipe) -> None:
    """Raises UserError for what cannot be prepared, before anything is written."""
    if recipe.crop not in CROPS:
        raise UserError(f"Unknown crop '{recipe.crop}': {nearest(recipe.crop, CROPS)}")
    shape(recipe, 1, 1)
    check_target(folder, to)


def shape(recipe: Recipe, width: int, height: int) -> float:
    """Width over height that a picture of this size is cropped to."""
    if recipe.crop == "none":
        return width / height
    if recipe.ratio == "bucket":
        bucket = place(width, height, make_buckets(recipe.resolution)).bucket
        return bucket[0] / bucket[1]
    across, colon, down = recipe.ratio.partition(":")
    try:
        value = float(across) / float(down)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not colon or not 0.05 <= value <= 20:
        raise UserError(f"'{recipe.ratio}' is no shape: write 1:1, 3:4, 16:9 or bucket.")
    return value


# --- crops: (picture, ratio) -> box ---


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


CROPS: dict[str, Callable[[Image.Image, float], Box]] = {"none": whole, "centre": centre, "salient": salient}


def cropped(path: Path, target: Path, ratio: float, *, mask: Path | None = None) -> None:
    """Write the salient part of a picture as a PNG, or the same part of its mask."""
    picture = images.open_rgb(path)
    whole = picture if mask is None else images.open_rgb(mask).convert("L").resize(picture.size)
    save(whole.crop(salient(picture, ratio)), target)


def resaved(path: Path, target: Path) -> None:
    """Write a picture as it is trained (upright, sRGB, on white, first frame) as a PNG."""
    save(images.open_rgb(path), target)


def save(picture: Image.Image, target: Path) -> None:
    """A PNG, whole or not there."""
    files.write_with(target, lambda temporary: picture.save(temporary, format="PNG"))


# --- one picture ---


class _Names:
    """New file names: the old ones with .png, told apart where that makes two the same."""

    def __init__(self, pictures: list[Picture], folder: Path):
        self._folder = folder
        self._taken: set[str] = set()
        stems = Counter(self._stem(picture.path).casefold() for picture in pictures)
        self._shared = {stem for stem, number in stems.items() if number > 1}

    def _stem(self, path: Path) -> str:
        return path.relative_to(self._folder).with_suffix("").as_posix()

    def new(self, picture: Picture, frame: int | None) -> str:
        """Unique also where file systems set case aside."""
        stem = self._stem(picture.path)
        if stem.casefold() in self._shared:
            stem += "-" + picture.path.suffix.lstrip(".").lower()
        stem += "" if frame is None else f"-{frame:03}"
        number, name = 1, stem
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name.casefold())
        return name + ".png"


def _made(picture: Picture, folder: Path, to: Path, recipe: Recipe, cut: Cut, names: _Names) -> Iterator[Made]:
    painted = masks.of(folder, picture.path)
    wanted = _spread(picture.frames, recipe.frames)
    for frame in wanted:
        notes: list[str] = []
        rgb, alpha = opened(picture.path, frame, notes)
        mask = images.open_rgb(painted).convert("L").resize(rgb.size) if painted else alpha if recipe.masks else None
        name = names.new(picture, frame if len(wanted) > 1 else None)
        box, size = cut(picture, rgb), rgb.size
        rgb = _fitted(rgb.crop(box), recipe.longest)
        save(rgb, to / name)
        if mask is not None:
            save(_fitted(mask.crop(box), recipe.longest), to / MASKS / name)
        _copy_captions(picture.path, to / name)
        source = picture.path.relative_to(folder).as_posix()
        yield Made(name, source, picture.digest, frame, size, box, rgb.size, mask is not None, tuple(notes))


def opened(path: Path, frame: int = 0, notes: list[str] | None = None) -> tuple[Image.Image, Image.Image | None]:
    """(the picture as a model sees it, its transparency as a mask or None), of one frame.

    Raises UserError when that frame cannot be read.
    """
    try:
        with open(path, "rb") as file:
            image = images.decode(path, file)
            if frame:
                image.seek(frame)
                image.load()
            turn = colour.orientation(image)
            mask = colour.alpha_of(image)
            rgb = colour.turned(colour.to_rgb(image, notes), turn)
            return rgb, None if mask is None else colour.turned(mask, turn)
    except UserError:
        raise
    except Exception as error:  # a later frame raises whatever its decoder raises
        raise UserError(f"Frame {frame + 1} of {shown(path)} cannot be read: {shown(str(error))[:120]}.") from error


def _spread(available: int, wanted: int) -> list[int]:
    """Up to `wanted` frame numbers, the first one and evenly on."""
    number = max(1, min(available, wanted))
    return [index * available // number for index in range(number)]


def _fitted(picture: Image.Image, longest: int) -> Image.Image:
    if not longest or max(picture.size) <= longest:
        return picture
    scale = longest / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _copy_captions(source: Path, target: Path) -> None:
    for ending in (".txt", ".caption"):
        path = captions.sidecar(source, ending)
        if path.exists():
            files.write_bytes(captions.sidecar(target, ending), captions.content(path))
