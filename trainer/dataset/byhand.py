"""Pictures cropped and masked by hand: boxes and masks that a person drew, checked and written where they are read."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from trainer.dataset import colour, images, index, masks, prepare
from trainer.dataset.buckets import Box
from trainer.dataset.images import Picture
from trainer.dataset.journal import Journal
from trainer.dataset.names import shown
from trainer.dataset.prepare import Made
from trainer.errors import UserError, nearest

SMALLEST = 8
"""px; a side below this is not even one pixel of the latents."""
ELSEWHERE = "-masklabel"
"""What OneTrainer puts behind the name of a picture to name its mask."""


def crop(
    folder: Path,
    to: Path,
    boxes: Mapping[str, Box],
    *,
    others: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Made]:
    """Fill the new folder `to` with the folder's pictures, these cropped, as upright sRGB PNGs with their captions.

    `boxes`: relative name -> (left, top, right, bottom) in pixels of the upright picture. Those without a box come
    along whole, or not at all with `others=False`. Masks in `.masks/` are cropped alike, and `provenance.jsonl` says
    what was cut from what. Raises UserError, before anything is written, for a name that is no picture of the folder,
    a box that leaves its picture, a broken picture, and a target that is there already.
    """
    folder, to = Path(folder), Path(to)
    chosen = check(folder, to, boxes, others=others)
    wanted = {folder / name: tuple(map(int, box)) for name, box in boxes.items()}

    def cut(picture: Picture, image: Image.Image) -> Box:
        return wanted.get(picture.path) or (0, 0, *image.size)

    return prepare.fill(chosen, folder, to, prepare.Recipe(), cut, progress=progress)


def check(folder: Path, to: Path, boxes: Mapping[str, Box], *, others: bool = True) -> list[Picture]:
    """The pictures that `crop` would write; raises what it would raise."""
    prepare.check(folder, to, prepare.Recipe())
    pictures = {picture.path.relative_to(folder).as_posix(): picture for picture in index.scan(folder)}
    if not boxes:
        raise UserError("There is no box to crop to: draw one on a picture first.")
    for name, box in boxes.items():
        if name not in pictures:
            raise UserError(f"There is no picture '{shown(name)}' in {shown(folder)}: {nearest(name, pictures)}")
        _check(box, name, pictures[name].width, pictures[name].height)
    return [picture for name, picture in pictures.items() if others or name in boxes]


def check_box(folder: Path, name: str, box: Box) -> None:
    """Raises UserError as `crop` would for this one."""
    _check(box, name, *_size(find(Path(folder), name)))


def paint_mask(folder: Path, name: str, mask: Image.Image) -> Path:
    """Write what of a picture is learned into `.masks/`, and return the file; the picture itself is not touched.

    `mask` counts as grey, white is learned, what is transparent is not; of the upright picture's size, or smaller with
    the same shape. The old mask goes to the folder's journal, so `aside.undo` brings it back. Raises UserError for a
    name that is no picture of the folder, a mask of another shape, and one without any white.
    """
    folder = Path(folder)
    target, content = _painted(folder, find(folder, name), mask, _sharing(folder))
    Journal(folder).write({target: content}, f"mask {Path(name).name}")
    return target


def take_masks(folder: Path, source: Path, *, dry_run: bool = False) -> list[Path]:
    """Masks that another program painted, for `paint_mask` all at once; returns the files.

    `source` holds them under the relative names of the pictures (`a/cat.png` for `a/cat.jpg`), or as OneTrainer names
    them (`a/cat-masklabel.png`). Raises UserError, before anything is written, as `paint_mask` does, for masks without
    a picture, and when there is none.
    """
    folder, source = Path(folder), Path(source)
    stems = {path.relative_to(folder).with_suffix("").as_posix(): path for path in images.some(folder)}
    sharing = _sharing(folder)
    changes: dict[Path, bytes | None] = {}
    for path in images.some(source):
        stem = path.relative_to(source).with_suffix("").as_posix().removesuffix(ELSEWHERE)
        if stem not in stems:
            raise UserError(f"The mask {shown(path)} is for no picture of {shown(folder)}: {nearest(stem, stems)}")
        with open(path, "rb") as file:
            target, content = _painted(folder, stems[stem], images.decode(path, file), sharing)
        changes[target] = content
    if not dry_run:
        Journal(folder).write(changes, f"masks from {source.name}")
    return list(changes)


def _sharing(folder: Path) -> dict[Path, list[Path]]:
    """Where a mask would be -> the pictures whose mask that is."""
    pictures: dict[Path, list[Path]] = {}
    for picture in images.find(folder):
        pictures.setdefault(masks.path(folder, picture), []).append(picture)
    return pictures


def _painted(
    folder: Path, picture: Path, mask: Image.Image, sharing: Mapping[Path, list[Path]]
) -> tuple[Path, bytes]:
    """(where the mask belongs, what the file says)."""
    target = masks.path(folder, picture)
    twin = next((other for other in sharing[target] if other != picture), None)
    if twin is not None:
        raise UserError(
            f"{shown(picture.name)} and {shown(twin.name)} would share the mask {target.name}: rename one of them."
        )
    size = _size(picture)
    if abs(mask.width * size[1] - mask.height * size[0]) > max(size):
        raise UserError(
            f"The mask for {shown(picture.name)} is {mask.width}×{mask.height} and the picture {size[0]}×{size[1]}: "
            f"it must have the same shape."
        )
    grey = _grey(mask)
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.BILINEAR)
    if not grey.getextrema()[1]:
        raise UserError(
            f"The mask for {shown(picture.name)} is all black, so nothing of it would be learned: leave some white, "
            f"or set the picture aside."
        )
    content = io.BytesIO()
    grey.save(content, format="PNG", optimize=True)
    return target, content.getvalue()


def remove_mask(folder: Path, name: str) -> bool:
    """Learn the picture whole again; whether there was a mask. `aside.undo` brings it back."""
    target = masks.path(folder, find(Path(folder), name))
    return Journal(folder).write({target: None}, f"no mask {Path(name).name}") is not None


def mask_of(folder: Path, name: str) -> Image.Image | None:
    """The picture's mask (mode L, of the upright picture's size), None when it is learned whole. Raises UserError."""
    picture = find(Path(folder), name)
    found = masks.of(folder, picture)
    return None if found is None else images.open_rgb(found).convert("L").resize(_size(picture))


def find(folder: Path, name: str) -> Path:
    """The picture of this relative name, looked up among what is there: no name from elsewhere leads outside.

    Raises UserError when there is none.
    """
    found = {path.relative_to(folder).as_posix(): path for path in images.find(folder)}
    if name not in found:
        raise UserError(f"There is no picture '{shown(name)}' in {shown(folder)}: {nearest(name, found)}")
    return found[name]


def _size(path: Path) -> tuple[int, int]:
    with open(path, "rb") as file:
        return colour.size_as_shown(images.decode(path, file))


def _grey(mask: Image.Image) -> Image.Image:
    if not mask.has_transparency_data:
        return mask.convert("L")
    seen = mask.convert("RGBA")
    ground = Image.new("RGBA", seen.size, (0, 0, 0, 255))
    return Image.alpha_composite(ground, seen).convert("L")


def _check(box: Box, name: str, width: int, height: int) -> None:
    left, top, right, bottom = box
    size = f"the {width}×{height} pixels of {shown(name)}"
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UserError(f"The box {left},{top},{right},{bottom} (left, top, right, bottom) does not lie in {size}.")
    least = min(SMALLEST, width, height)
    if right - left < least or bottom - top < least:
        raise UserError(f"The box {left},{top},{right},{bottom} of {size} is below {SMALLEST} px: draw a larger one.")
