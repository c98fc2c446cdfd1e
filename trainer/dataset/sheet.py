"""A contact sheet: every picture small, whole, with its name, and what its bucket cuts off greyed out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from trainer import files
from trainer.dataset import images
from trainer.dataset.ahead import ahead
from trainer.dataset.buckets import Placement
from trainer.dataset.images import Picture
from trainer.dataset.names import shown
from trainer.errors import UserError

GAP, LINE = 8, 14
GROUND, INK, VEIL = (250, 250, 250), (40, 40, 40), (160, 160, 160)
MOST = 2000
"""Pictures on one sheet; more would make a file that viewers refuse."""


def contact_sheet(
    pictures: Sequence[Picture],
    target: Path,
    *,
    side: int = 160,
    columns: int = 0,
    placements: Mapping[Path, Placement] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the sheet as a PNG (or what `target` ends in). Raises UserError for too many pictures or a broken one.

    `side`: of each picture's square, px. `columns` 0 makes the sheet about as wide as high. With `placements`, what
    training never sees of a picture is veiled.
    """
    if len(pictures) > MOST:
        raise UserError(f"{len(pictures)} pictures are too many for one sheet: filter them to {MOST} or fewer.")
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"{shown(target)}: a sheet is written as .png, .jpg or .webp.")
    columns = columns or max(1, round((len(pictures) * (side + LINE) / side) ** 0.5))
    rows = -(-len(pictures) // columns)
    across, down = side + GAP, side + LINE + GAP
    sheet = Image.new("RGB", (GAP + columns * across, GAP + rows * down), GROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    drawn = ahead(lambda p: _thumbnail(p, side, (placements or {}).get(p.path)), pictures)
    for place, (picture, small) in enumerate(zip(pictures, drawn)):
        left, top = GAP + place % columns * across, GAP + place // columns * down
        sheet.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
        draw.text((left, top + side + 1), _label(draw, picture.path.name, font, side), fill=INK, font=font)
        if progress:
            progress(place + 1, len(pictures))
    kind = {".png": "PNG", ".webp": "WEBP"}.get(target.suffix.lower(), "JPEG")
    return files.write_with(target, lambda temporary: sheet.save(temporary, format=kind))


def _thumbnail(picture: Picture, side: int, placement: Placement | None) -> Image.Image:
    image = images.open_rgb(picture.path)
    scale = side / max(image.size)
    small = image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.LANCZOS)
    if placement is None or placement.lost <= 0:
        return small
    veiled = Image.blend(small, Image.new("RGB", small.size, VEIL), 0.7)
    box = tuple(round(edge * scale) for edge in placement.source_crop)
    veiled.paste(small.crop(box), box[:2])
    return veiled


def _label(draw: ImageDraw.ImageDraw, name: str, font, width: int) -> str:
    """The name in the letters that the font has, its beginning and end where it is too long."""
    text = shown(name)
    while draw.textlength(text, font=font) > width and len(text) > 4:
        middle = len(text) // 2
        text = text[: middle - 1] + "…" + text[middle + 1 :] if "…" not in text else _shorter(text)
    return text


def _shorter(text: str) -> str:
    place = text.index("…")
    return text[: max(1, place - 1)] + "…" + text[place + 2 :]
