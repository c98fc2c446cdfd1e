"""Pictures of a data set: dataset check, dedupe, split, sheet, buckets, prepare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.app import Json, print_json
from trainer.cli.dataset import DryRun, Folder, Format, ReadOnly, Where, chosen, dataset
from trainer.dataset.names import count
from trainer.errors import UserError
from trainer.terminal import bar, console, plain, table

if TYPE_CHECKING:
    from trainer.dataset.faces import Faces

Detector = Annotated[
    str, typer.Option(help="ONNX face detector (YOLOv8 or YuNet); the one in models/faces/ if left out.")
]
SHOWN = 40  # findings, pictures or suggestions on the screen; --json has all


@dataset.command()
def check(
    folder: Folder,
    trigger: Annotated[str, typer.Option(help="Trigger word that every caption should hold.")] = "",
    resolution: Annotated[int, typer.Option(help="Training resolution, px.")] = 512,
    fix: Annotated[list[str] | None, typer.Option(help="Mend this kind of finding; several times for several.")] = None,
    detector: Detector = "",
    format: Format = "txt",
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Look at every picture and caption: a score from 0 to 100 with its reasons, and what to do."""
    from trainer.dataset import fixes, health

    faces, without = _faces(detector)
    with bar(f"Looking through {folder}") as advance:

        def look() -> health.Health:
            wanted = {"trigger": trigger, "resolution": resolution, "format": format}
            return health.check(folder, **wanted, faces=faces, progress=advance)

        report = look()
        settings = fixes.Settings(trigger, folder, format, resolution, faces)
        repairs = []
        for kind in fix or []:
            repair = fixes.plan(kind, report.findings, settings)
            repairs.append(repair)
            if not dry_run:
                fixes.apply(folder, repair)
                report = look()
    if as_json:
        found = [
            {"kind": f.kind, "severity": f.severity, "file": _name(folder, f.file), "what": f.what, "remedy": f.remedy}
            for f in report.findings
        ]
        mended = [
            {"kind": r.kind, "aside": _names(folder, r.aside), "made": _names(folder, r.make)}
            | {"captions": _names(folder, [*r.texts, *r.contents])}
            for r in repairs
        ]
        print_json(
            {
                "score": report.score,
                "ready": report.ready,
                "reasons": report.reasons,
                "findings": found,
                "fixes": mended,
                "faces": faces.name if faces else None,
                "dry_run": dry_run,
            }
        )
        return
    for repair in repairs:
        console.print(plain(f"{'Would fix' if dry_run else 'Fixed'} {repair}"))
    console.print(f"[bold]{report.score}/100[/] {'ready to train' if report.ready else 'not ready to train'}")
    for reason in report.reasons:
        console.print("  " + plain(reason))
    for finding in report.findings[:SHOWN]:
        mark = {"error": "[red]✖[/]", "warning": "[yellow]![/]", "hint": "·"}[finding.severity]
        console.print(f"{mark} {plain(finding.what)}. [dim]{plain(finding.remedy)}.[/]")
    if len(report.findings) > SHOWN:
        console.print(f"… and {len(report.findings) - SHOWN} more; --json has all of them")
    mendable = sorted({finding.kind for finding in report.findings} & fixes.FIXES.keys())
    if mendable:
        console.print(plain("Can be mended with --fix: " + ", ".join(mendable)))
    if without:
        console.print(f"[dim]{plain(without)}[/]")


def _faces(detector: str) -> tuple[Faces | None, str]:
    """(the detector, ""), or (None, why there is none) when none was asked for. Raises UserError for a wrong one."""
    from trainer.dataset import faces

    try:
        return faces.Faces(detector), ""
    except UserError as error:
        if detector or any(faces.FOLDER.glob("*.onnx")):
            raise
        return None, str(error)


@dataset.command()
def dedupe(
    folder: Folder,
    distance: Annotated[int, typer.Option(min=0, max=31, help="Bits of 128 that may differ; 0 is strict.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Only copies of the same file.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Set pictures aside that show the same as another; the largest of each group stays. `undo` brings them back."""
    from trainer.dataset import aside, duplicates, index

    with bar(f"Reading {folder}") as advance:
        pictures, _ = index.survey(folder, progress=advance)
    groups = duplicates.exact(pictures) if exact else duplicates.grouped(pictures, distance=distance)
    keep = {duplicates.best(group).path for group in groups}
    gone = [picture.path for group in groups for picture in group if picture.path not in keep]
    if not dry_run:
        aside.set_aside(folder, aside.with_companions(gone), "dedupe")
    if as_json:
        named = [
            {"keep": _name(folder, duplicates.best(g).path), "all": _names(folder, [p.path for p in g])} for g in groups
        ]
        print_json({"groups": named, "aside": _names(folder, gone), "dry_run": dry_run})
        return
    for group in groups[:SHOWN]:
        best = duplicates.best(group).path
        others = ", ".join(str(_name(folder, picture.path)) for picture in group if picture.path != best)
        console.print(plain(f"{_name(folder, best)} stays; the same: {others}"))
    done = "would be set aside" if dry_run else "set aside in .originals/; `lora-studio dataset undo` brings them back"
    console.print(f"{len(gone)} of {count(len(pictures), 'picture')} {done if gone else 'show the same as another'}.")


@dataset.command()
def split(
    folder: Folder,
    to: Annotated[Path | None, typer.Option(help="New folder that gets train/ and heldout/; none only lists.")] = None,
    share: Annotated[float, typer.Option(help="Share of the pictures held out, 0 to 1.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another number draws others.")] = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Hold pictures back for validation; what shows the same stays on one side. The folder itself is only read."""
    from trainer.dataset import index, splitting

    kept, held = splitting.split(index.scan(folder), share, seed=seed)
    sides = {"train": [p.path for p in kept], "heldout": [p.path for p in held]}
    if to is not None:
        splitting.check_target(folder, to)
        if not dry_run:
            splitting.copy(folder, to, sides)
    if as_json:
        print_json({side: _names(folder, paths) for side, paths in sides.items()} | {"dry_run": dry_run})
        return
    for path in sides["heldout"][:SHOWN]:
        console.print("  " + plain(str(_name(folder, path))))
    done = f", copied to {to}" if to and not dry_run else ""
    console.print(plain(f"{len(held)} of {len(kept) + len(held)} pictures held out{done}."))


@dataset.command()
def sheet(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="File to write; FOLDER-sheet.png beside it if left out.")] = None,
    where: Where = "",
    side: Annotated[int, typer.Option(min=32, max=1024, help="Side of each picture's square, px.")] = 160,
    resolution: Annotated[int, typer.Option(help="Veil what is cropped off at this resolution; 0 veils nothing.")] = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """One picture of all pictures, with their names."""
    from trainer.dataset import buckets, index
    from trainer.dataset import sheet as sheets

    wanted = {item.path for item in chosen(folder, where)}
    pictures = [picture for picture in index.survey(folder)[0] if picture.path in wanted]
    if not pictures:
        raise UserError(f"No picture in {folder} fits '{where}': widen the filter.")
    out = out or folder.resolve().with_name(folder.resolve().name + "-sheet.png")
    shapes = buckets.make_buckets(resolution) if resolution else []
    placed = {p.path: buckets.place(p.width, p.height, shapes) for p in pictures} if shapes else None
    if not dry_run:
        with bar("Drawing the sheet") as advance:
            sheets.contact_sheet(pictures, out, side=side, placements=placed, progress=advance)
    if as_json:
        print_json({"file": str(out), "pictures": _names(folder, [p.path for p in pictures]), "dry_run": dry_run})
        return
    console.print(plain(f"{'Would draw' if dry_run else 'Drew'} {count(len(pictures), 'picture')} on {out}."))


@dataset.command(name="buckets")
def show_buckets(
    folder: Folder,
    resolution: Annotated[int, typer.Option(help="Training resolution, px.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 1,
    repeats: Annotated[
        int, typer.Option(min=1, help="Times an epoch that a picture is seen whose folder's name (10_moss) says none.")
    ] = 1,
    suggest: Annotated[bool, typer.Option("--suggest", help="Which resolution and bounds lose least.")] = False,
    dry_run: ReadOnly = False,
    as_json: Json = False,
):
    """Every picture's bucket, scale and crop, and which settings would lose least."""
    from dataclasses import asdict

    from trainer.dataset import buckets, index
    from trainer.dataset import suggest as suggestions
    from trainer.examples import named_by_folder

    pictures = index.scan(folder)
    if suggest:
        found = suggestions.suggest([(p.width, p.height) for p in pictures])
        if as_json:
            print_json([asdict(one) for one in found])
            return
        rows = table(">Resolution", ">Sides", ">Cropped off", ">Enlarged", ">Buckets")
        for one in found[:10]:
            sides = f"{one.bucket_min}–{one.bucket_max}"
            rows.add_row(str(one.resolution), sides, f"{one.lost:.1%}", f"{one.enlarged:.0%}", str(one.buckets))
        console.print(rows)
        return
    shapes = buckets.make_buckets(resolution)
    placements = [buckets.place(p.width, p.height, shapes) for p in pictures]
    names = [str(_name(folder, p.path)) for p in pictures]
    times = [named_by_folder(p.path, folder)[0] or repeats for p in pictures]
    description = buckets.describe(names, placements, times, batch_size)
    if as_json:
        lines = [
            {"file": line.name, "bucket": p.bucket, "scaled": p.scaled, "scale": round(p.scale, 4)}
            | {"crop": p.source_crop, "lost": round(p.lost, 4), "repeats": line.repeats}
            for line, p in ((line, line.placement) for line in description.pictures)
        ]
        print_json({"steps": description.steps, "buckets": [asdict(b) for b in description.buckets], "pictures": lines})
        return
    for line in [*description.buckets, *description.pictures[:SHOWN]]:
        console.print(plain(str(line)))
    if len(pictures) > SHOWN:
        console.print(f"… and {len(pictures) - SHOWN} more; --json has all of them")
    console.print(f"{count(description.steps, 'step')} an epoch")


@dataset.command()
def prepare(
    folder: Folder,
    to: Annotated[Path, typer.Option(help="New folder for the pictures that are made.")],
    crop: Annotated[
        str, typer.Option(help="none, centre, salient (where most is to be seen), or face with a face detector.")
    ] = "none",
    ratio: Annotated[str, typer.Option(help="Shape after cropping: 1:1, 3:4, … or bucket.")] = "bucket",
    resolution: Annotated[int, typer.Option(help="Training resolution that `bucket` means, px.")] = 512,
    longest: Annotated[int, typer.Option(min=0, help="Scale longer sides down to this, px; 0 leaves them.")] = 0,
    masks: Annotated[bool, typer.Option("--masks", help="Write transparency as masks into .masks/.")] = False,
    background: Annotated[
        str, typer.Option(help="Mask the background: a model of rembg (u2net, isnet-anime, …) or its .onnx file.")
    ] = "",
    cut_out: Annotated[bool, typer.Option("--cut-out", help="Make what is masked transparent.")] = False,
    detector: Detector = "",
    upscaler: Annotated[
        Path | None, typer.Option(help="ESRGAN file that enlarges pictures smaller than their training bucket.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to take out of each animation.")] = 1,
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Make a new folder of upright sRGB PNGs: cropped, cut out, enlarged; provenance.jsonl says from what."""
    from dataclasses import asdict

    from trainer.dataset import index
    from trainer.dataset import prepare as preparing

    recipe = preparing.Recipe(crop, ratio, resolution, longest, masks, frames, background, cut_out, detector)
    enlarging = _upscaler(upscaler) if upscaler else None
    if dry_run:
        preparing.check(folder, to, recipe)
        pictures = index.scan(folder)
        number = sum(min(picture.frames, frames) for picture in pictures)
        text = f"Would make {count(number, 'picture')} of {len(pictures)} in {to}."
        print_json({"would_make": number, "dry_run": True}) if as_json else console.print(plain(text))
        return
    with bar(f"Preparing {folder}") as advance:
        made = preparing.prepare(folder, to, recipe, upscaler=enlarging, progress=advance)
    if as_json:
        print_json([asdict(one) for one in made])
        return
    for one in made:
        for note in one.notes:
            console.print(plain(f"{one.source}: {note}"))
    console.print(
        plain(f"Made {count(len(made), 'picture')} in {to}; {preparing.PROVENANCE} says what each came from.")
    )
    if any(one.mask for one in made):
        console.print(plain(f"Train with their masks: --set data.mask_folder={to / preparing.MASKS}"))


def _upscaler(path: Path):
    import torch

    from trainer.dataset.prepare import Upscaler
    from trainer.upscalers import load_network, upscale_picture

    network = load_network(path, "cuda" if torch.cuda.is_available() else "cpu")
    return Upscaler(path.name, lambda picture, size: upscale_picture(picture, size, path.name, network))


@dataset.command()
def frames(
    source: Annotated[Path, typer.Argument(help="A video or an animated picture, or a folder of such.")],
    to: Annotated[Path, typer.Option(help="New folder for the frames.")],
    every: Annotated[int, typer.Option(min=1, help="Take one of so many frames.")] = 1,
    per_second: Annotated[float, typer.Option(min=0, help="Take so many a second of the film; 0 sets no limit.")] = 0,
    changed: Annotated[
        bool, typer.Option("--changed/--all", help="Only when the picture has changed, or also when it has not.")
    ] = True,
    most: Annotated[int, typer.Option(min=0, help="End a film once it has given so many; 0 sets no limit.")] = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Take frames out of videos and animations as pictures; provenance.jsonl says of each where it was."""
    from dataclasses import asdict

    from trainer.dataset import frames as films

    choice = films.Choice(every, per_second, changed, most)
    with bar(f"Taking frames of {source}") as advance:
        taken = films.split(source, to, choice, dry_run=dry_run, progress=advance)
    if as_json:
        print_json({"frames": [asdict(one) for one in taken], "dry_run": dry_run})
        return
    by_film = {film: [one for one in taken if one.source == film] for film in dict.fromkeys(t.source for t in taken)}
    for film, found in list(by_film.items())[:SHOWN]:
        console.print(plain(f"  {film}: {len(found)} frames, the last at {found[-1].seconds:.1f} s"))
    console.print(plain(f"{'Would take' if dry_run else 'Took'} {len(taken)} frames into {to}."))


def _name(folder: Path, path: Path | None) -> str | None:
    return None if path is None else path.relative_to(folder).as_posix()


def _names(folder: Path, paths) -> list[str | None]:
    return [_name(folder, path) for path in paths]
