"""What a person decided about single pictures: dataset crop, mask."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.app import Json, print_json
from trainer.cli.dataset import DryRun, Folder, dataset
from trainer.dataset.names import count
from trainer.errors import UserError
from trainer.terminal import bar, console, plain

Box = tuple[int, int, int, int]


@dataset.command()
def crop(
    folder: Folder,
    to: Annotated[Path, typer.Option(help="New folder for the pictures.")],
    box: Annotated[
        list[str] | None, typer.Option(help="NAME=X,Y,W,H: left, top, width and height in px; several times.")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help='File of boxes: JSON {"NAME": [X, Y, W, H]} or lines NAME,X,Y,W,H.')
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="Leave pictures without a box out.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Cut pictures to boxes of your own, into a new folder; masks and captions come along."""
    from dataclasses import asdict

    from trainer.dataset import byhand

    wanted = (_read(boxes) if boxes else {}) | dict(map(_written, box or []))
    if dry_run:
        chosen = byhand.check(folder, to, wanted, others=not only)
        text = f"Would make {count(len(chosen), 'picture')} in {to}, {len(wanted)} of them cropped."
        print_json({"would_make": len(chosen), "dry_run": True}) if as_json else console.print(plain(text))
        return
    with bar(f"Cropping {folder}") as advance:
        made = byhand.crop(folder, to, wanted, others=not only, progress=advance)
    if as_json:
        print_json([asdict(one) for one in made])
        return
    console.print(plain(f"Made {count(len(made), 'picture')} in {to}, {len(wanted)} of them cropped."))


@dataset.command()
def mask(
    folder: Folder,
    source: Annotated[
        Path, typer.Option("--from", help="Folder of masks under the names of the pictures; white is learned.")
    ],
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Take masks that another program painted, once their sizes fit; `undo` takes them back."""
    from trainer.dataset import byhand, masks

    taken = byhand.take_masks(folder, source, dry_run=dry_run)
    if as_json:
        print_json({"masks": [path.relative_to(folder).as_posix() for path in taken], "dry_run": dry_run})
        return
    console.print(plain(f"{'Would take' if dry_run else 'Took'} {len(taken)} masks from {source}."))
    console.print(plain(f"Train with them: --set data.mask_folder={masks.folder(folder)}"))


def _written(text: str) -> tuple[str, Box]:
    name, _, numbers = text.rpartition("=")
    return name, _corners(name, numbers.split(","), f"--box '{text}'", "NAME=X,Y,W,H")


def _corners(name: str, numbers: list, where: str, form: str) -> Box:
    """left, top, right and bottom for left, top, width and height."""
    try:
        x, y, width, height = (int(number) for number in numbers)
    except (ValueError, TypeError, OverflowError):
        name = ""
    if not name:
        raise UserError(f"{where}: write {form}, all of it whole numbers in px.")
    return x, y, x + width, y + height


def _read(path: Path) -> dict[str, Box]:
    """Boxes by name, of JSON or of lines. Raises UserError with the line or name that is no box."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The boxes in {path} cannot be read ({error}): give a text file in UTF-8.") from error
    try:
        if not text.lstrip().startswith("{"):
            rows = [row for row in csv.reader(text.splitlines()) if row]
            form = "NAME,X,Y,W,H"
            return {row[0]: _corners(row[0], row[1:], f"{path}, '{','.join(row)}'", form) for row in rows}
        found = dict(json.loads(text))
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path} is neither JSON nor lines of boxes ({error}): repair it.") from error
    return {
        name: _corners(name, numbers if isinstance(numbers, list) else [], f"{path}, '{name}'", "[X, Y, W, H]")
        for name, numbers in found.items()
    }
