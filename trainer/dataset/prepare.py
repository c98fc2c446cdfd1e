"""Pictures made ready in a new folder: upright, sRGB, cropped, cut out, enlarged, frames taken apart.

The folder they come from is only read. `provenance.jsonl` in the new one says of each file what it was made from and
how.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageChops

from trainer import files
from trainer.dataset import background, captions, colour, crops, faces, images, index, masks
from trainer.dataset.buckets import Box, Size, make_buckets, place
from trainer.dataset.crops import CROPS, FACE
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
    """Key of CROPS, or `face`: which part stays when the shape changes."""
    ratio: str = "bucket"
    """Shape after cropping: `1:1`, `3:4`, ..., or `bucket` for that of the training bucket."""
    resolution: int = 512
    """Training resolution, whose buckets `bucket` and an upscaler mean, px."""
    longest: int = 0
    """Longer sides are scaled down to this many px; 0 leaves the size alone. Only an upscaler enlarges."""
    masks: bool = False
    """Write the transparency as a mask beside the pictures that have one; a mask in `.masks/` comes along always."""
    frames: int = 1
    """Take up to this many frames, evenly spread, out of an animation."""
    background: str = ""
    """Model that finds the background, as `background.located` takes it, for a mask of every picture; "" for none."""
    cut_out: bool = False
    """Make what is masked transparent in the pictures themselves, instead of a mask from background or transparency."""
    detector: str = ""
    """File of the face detector for `crop = face`, as `faces.located` takes it."""


@dataclass(frozen=True)
class Upscaler:
    """What enlarges pictures that have fewer pixels than their bucket."""

    name: str
    enlarge: Callable[[Image.Image, Size], Image.Image]
    """(RGB picture, width and height in px) -> the picture at that size."""


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
    """What did not go as wished."""
    steps: tuple[str, ...] = ()
    """Which models took part, and in what."""


def prepare(
    folder: Path,
    to: Path,
    recipe: Recipe,
    *,
    upscaler: Upscaler | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Made]:
    """Fill the new folder `to`, captions included. Raises UserError for a broken picture or a folder that is there."""
    folder, to = Path(folder), Path(to)
    check(folder, to, recipe)
    return fill(index.scan(folder), folder, to, recipe, upscaler=upscaler, progress=progress)


def fill(
    pictures: list[Picture],
    folder: Path,
    to: Path,
    recipe: Recipe,
    cut: Cut | None = None,
    *,
    upscaler: Upscaler | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Made]:
    """Write these pictures of the folder, cut as the recipe or `cut` says; the target has been checked.

    It is whole or not there: filled beside its place, under a hidden name, and moved when all is written.
    """
    names = _Names(pictures, folder)
    made: list[Made] = []
    with files.new_folder(to) as part:
        work = _Work(folder, part, recipe, cut, upscaler)
        for done, picture in enumerate(pictures, start=1):
            made += work.made(picture, names)
            if progress:
                progress(done, len(pictures))
        record(part, map(asdict, made))
    return made


def record(to: Path, entries: Iterable[dict]) -> None:
    """Write PROVENANCE, a line each; escaped, because a name need not be Unicode."""
    files.write_text(to / PROVENANCE, "".join(json.dumps(entry, ensure_ascii=True) + "\n" for entry in entries))


def check(folder: Path, to: Path, recipe: Recipe) -> None:
    """Raises UserError for what cannot be prepared, before anything is written."""
    if recipe.crop not in (*CROPS, FACE):
        raise UserError(f"Unknown crop '{recipe.crop}': {nearest(recipe.crop, [*CROPS, FACE])}")
    shape(recipe, 1, 1)
    if recipe.crop == FACE:
        faces.located(recipe.detector)
    if recipe.background:
        background.located(recipe.background)
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


def cropped(path: Path, target: Path, box: Box, *, mask: Path | None = None) -> None:
    """Write this part of a picture, or the same part of its mask, as a PNG; `box` in pixels of the upright picture."""
    picture = images.open_rgb(path)
    whole = picture if mask is None else images.open_rgb(mask).convert("L").resize(picture.size)
    save(whole.crop(box), target)


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


class _Work:
    """A recipe with its models loaded."""

    def __init__(self, folder: Path, to: Path, recipe: Recipe, cut: Cut | None, upscaler: Upscaler | None):
        self._folder, self._to, self._recipe, self._cut, self._upscaler = folder, to, recipe, cut, upscaler
        self._background = background.Background(recipe.background) if recipe.background else None
        self._faces = faces.Faces(recipe.detector) if recipe.crop == FACE else None

    def made(self, picture: Picture, names: _Names) -> Iterator[Made]:
        """Write what becomes of one picture."""
        recipe = self._recipe
        wanted = _spread(picture.frames, recipe.frames)
        for frame in wanted:
            notes: list[str] = []
            steps: list[str] = []
            rgb, alpha = opened(picture.path, frame, notes)
            painted = masks.of(self._folder, picture.path)
            mask = self._mask(rgb, alpha, painted, steps)
            box, size = self._box(picture, rgb, notes, steps), rgb.size
            rgb = self._sized(rgb.crop(box), steps)
            name = names.new(picture, frame if len(wanted) > 1 else None)
            masked = mask is not None and (not recipe.cut_out or recipe.masks or painted is not None)
            if mask is not None:
                mask = mask.crop(box)
                mask = mask if mask.size == rgb.size else mask.resize(rgb.size, Image.Resampling.LANCZOS)
                if recipe.cut_out:
                    rgb.putalpha(mask)
            save(rgb, self._to / name)
            if masked:
                save(mask, self._to / MASKS / name)
            _copy_captions(picture.path, self._to / name)
            source = picture.path.relative_to(self._folder).as_posix()
            made = (box, rgb.size, masked, tuple(notes), tuple(steps))
            yield Made(name, source, picture.digest, frame, size, *made)

    def _mask(
        self, rgb: Image.Image, alpha: Image.Image | None, painted: Path | None, steps: list[str]
    ) -> Image.Image | None:
        """White where all say so: what was painted, or else what is opaque, and what is no background."""
        recipe = self._recipe
        wanted = recipe.masks or recipe.cut_out or self._background is not None
        mask = images.open_rgb(painted).convert("L").resize(rgb.size) if painted else alpha if wanted else None
        if self._background is None:
            return mask
        steps.append(f"background by {self._background.name}")
        found = self._background.mask(rgb)
        return found if mask is None else ImageChops.multiply(found, mask)

    def _box(self, picture: Picture, rgb: Image.Image, notes: list[str], steps: list[str]) -> Box:
        if self._cut is not None:
            return self._cut(picture, rgb)
        recipe = self._recipe
        ratio = shape(recipe, *rgb.size)
        if self._faces is None:
            return CROPS[recipe.crop](rgb, ratio)
        found = self._faces.find(rgb)
        if not found:
            notes.append("no face was found, so it is cropped where most is to be seen")
            return crops.salient(rgb, ratio)
        steps.append(f"face at {','.join(map(str, found[0].box))} by {self._faces.name}")
        return crops.around(found[0], rgb.size, crops.window(rgb.size, ratio))

    def _sized(self, rgb: Image.Image, steps: list[str]) -> Image.Image:
        if self._upscaler:
            placed = place(*rgb.size, make_buckets(self._recipe.resolution))
            if placed.upscaled:
                steps.append(f"enlarged {placed.scale:.2f} times by {self._upscaler.name}")
                rgb = self._upscaler.enlarge(rgb, placed.scaled)
        return _fitted(rgb, self._recipe.longest)


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
