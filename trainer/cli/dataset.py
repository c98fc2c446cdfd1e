"""Captions of a data set: tag, and dataset tags, edit, undo, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.app import Json, app, print_json
from trainer.dataset.names import count
from trainer.errors import UserError
from trainer.terminal import bar, console, plain, table

dataset = typer.Typer(
    help="Look into a folder of pictures and captions, edit, clean and prepare it.", no_args_is_help=True
)
app.add_typer(dataset, name="dataset")

Folder = Annotated[Path, typer.Argument(help="The folder with the pictures.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
ReadOnly = Annotated[bool, typer.Option("--dry-run", hidden=True)]  # for scripts; these verbs change nothing anyway
Where = Annotated[str, typer.Option(help="Only pictures that fit: 'tag:hat AND NOT tag:smile AND tokens:>75'.")]
Format = Annotated[str, typer.Option(help="Where captions are kept: txt, caption, metadata or kohya.")]
SHOWN = 40  # lines on the screen; --json has all

DEFAULT_TAGGER = "wd14:SmilingWolf/wd-swinv2-tagger-v3"


@app.command(epilog=f"Without --tagger it is {DEFAULT_TAGGER}.")
def tag(
    folder: Annotated[Path, typer.Argument(help="The folder with the pictures.")],
    tagger: Annotated[
        list[str] | None,
        typer.Option(help="Which one, as above; several times for several."),
    ] = None,
    combine: Annotated[str, typer.Option(help="Of several: union, intersection, vote, or first's order.")] = "union",
    trigger: Annotated[str, typer.Option(help="Trigger word, written first into each caption.")] = "",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Tags less sure than this are left out.")] = 0.35,
    character_threshold: Annotated[float, typer.Option(min=0, max=1, help="The same for characters' names.")] = 0.85,
    ratings: Annotated[bool, typer.Option("--ratings", help="Keep the rating (general, sensitive, …).")] = False,
    underscores: Annotated[bool, typer.Option("--underscores", help="Write blue_hair, not blue hair.")] = False,
    bare: Annotated[bool, typer.Option("--bare-parentheses", help="Write ( without a backslash before it.")] = False,
    exclude: Annotated[list[str] | None, typer.Option(help="A tag that is never written.")] = None,
    replace: Annotated[list[str] | None, typer.Option(help="OLD=NEW: what to write for a tag.")] = None,
    prompt: Annotated[str, typer.Option(help="What a server's model is asked; {name} and {caption} work.")] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for a server's answer.")] = 120,
    retries: Annotated[int, typer.Option(min=0, help="Further tries when a server does not answer.")] = 3,
    rate: Annotated[float, typer.Option(min=0, help="Requests a second to a server; 0 sets no limit.")] = 0,
    append: Annotated[bool, typer.Option("--append", help="Add to captions that are already there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace captions; the old go to a journal.")] = False,
):
    """Write a caption beside each picture. The taggers:

    wd14:MODEL                  booru tags
    blip:MODEL, florence:MODEL  sentences
    server:http://…/v1#MODEL    what an OpenAI-compatible server says
    wd14:toybox/tagger          for the toybox's drawn creatures

    MODEL is a folder, or OWNER/NAME on the Hugging Face hub.
    """
    from trainer.tag import tag_folder
    from trainer.taggers import Service, TagOptions

    if append and overwrite:
        raise UserError("--append and --overwrite exclude each other: choose one.")
    mode = "append" if append else "overwrite" if overwrite else "skip"
    options = TagOptions(
        threshold=threshold,
        character_threshold=character_threshold,
        ratings=ratings,
        spaces=not underscores,
        escape=not bare,
        exclude=tuple(exclude or ()),
        replace=dict(map(_pair, replace or [])),
        prompt=prompt,
        service=Service(timeout=timeout, retries=retries, rate=rate),
    )
    with bar(f"Tagging {folder}") as advance:
        report = tag_folder(
            folder,
            tagger or [DEFAULT_TAGGER],
            trigger=trigger,
            mode=mode,
            options=options,
            combine=combine,
            progress=advance,
        )
    console.print(f"Wrote {count(len(report.written), 'caption')} in {plain(str(folder))}.")
    if report.skipped:
        console.print(
            f"Left {count(len(report.skipped), 'caption')} as before; --append adds words, --overwrite replaces them."
        )


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old.strip():
        raise UserError(f"--replace '{text}': write OLD=NEW, such as --replace 'crown=gold crown'.")
    return old.strip(), new.strip()


@dataset.command()
def tags(
    folder: Folder,
    where: Where = "",
    pairs: Annotated[bool, typer.Option("--pairs", help="Which tags stand together.")] = False,
    format: Format = "txt",
    dry_run: ReadOnly = False,
    as_json: Json = False,
):
    """How often each tag is used, or which are used together."""
    from dataclasses import asdict

    from trainer.dataset import tags as tables

    items = chosen(folder, where, format)
    texts = [item.caption for item in items]
    if pairs:
        found = tables.together(texts)
        if as_json:
            print_json([asdict(pair) for pair in found])
            return
        rows = table("Tags", ">Captions", ">Of the rarer", ">Times chance")
        for pair in found[:SHOWN]:
            rows.add_row(plain(" + ".join(pair.tags)), str(pair.captions), f"{pair.share:.0%}", f"{pair.lift:.1f}")
    else:
        counts = tables.frequencies(texts)
        if as_json:
            files = [{"file": _name(folder, item.path), "caption": item.caption} for item in items]
            print_json({"pictures": files, "tags": counts})
            return
        rows = table("Tag", ">Captions")
        for tag, number in list(counts.items())[:SHOWN]:
            rows.add_row(plain(tag), str(number))
    console.print(count(len(items), "picture"))
    console.print(rows)


@dataset.command()
def edit(
    folder: Folder,
    what: Annotated[str, typer.Argument(help="One of these edits.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="What it takes.")] = None,
    where: Where = "",
    format: Format = "txt",
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Change many captions at once; `undo` takes it back.

    add TAG…            at the end of captions that lack them
    prepend TAG…        at the start of captions that lack them
    remove TAG…         take them out; *hair takes out all that end so
    replace OLD NEW     one tag by another
    regex PATTERN NEW   a regular expression over the whole text
    order frequency     the most frequent first; or alphabet, or TAG…
    dedupe              each tag once
    prune               without what a longer tag says: hair, blue hair
    absorb [TAG…]       without what describes the character, so that
                        the trigger word learns it
    trigger WORD        first in every caption
    spaces              blue hair for blue_hair
    """
    from trainer.dataset import edit as edits

    texts = {item.path: item.caption for item in chosen(folder, where, format)}
    plan = edits.plan(texts, what, arguments or [])
    if not dry_run:
        edits.apply(folder, plan, format)
    if as_json:
        changes = [{"file": _name(folder, c.picture), "before": c.before, "after": c.after} for c in plan.changes]
        print_json({"operation": plan.operation, "changes": changes, "notes": plan.notes, "dry_run": dry_run})
        return
    for note in plan.notes:
        console.print("  " + plain(note))
    for change in plan.changes[:SHOWN]:
        console.print(f"[bold]{plain(_name(folder, change.picture))}[/]")
        console.print(f"  [red]−[/] {plain(change.before or '')}\n  [green]+[/] {plain(change.after)}")
    if len(plan.changes) > SHOWN:
        console.print(f"… and {len(plan.changes) - SHOWN} more; --json has all of them")
    done = "would change" if dry_run else "changed; `lora-studio dataset undo` takes it back"
    console.print(
        f"{len(plan.changes)} of {count(len(texts), 'caption')} {done if plan.changes else 'need no change'}."
    )


@dataset.command()
def undo(
    folder: Folder,
    force: Annotated[bool, typer.Option("--force", help="Also where captions were changed by hand since.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Take back the newest edit, tagging, conversion or removal of pictures in a folder."""
    from trainer.dataset import aside

    name, touched = aside.newest(folder) if dry_run else aside.undo(folder, force=force)
    _tell(folder, name, touched, "undo", "Would take back" if dry_run else "Took back", dry_run, as_json)


@dataset.command()
def redo(
    folder: Folder,
    force: Annotated[bool, typer.Option("--force", help="Also where captions were changed by hand since.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Do again what `undo` took back last, as long as nothing new was done."""
    from trainer.dataset import aside

    name, touched = aside.redoable(folder) if dry_run else aside.redo(folder, force=force)
    _tell(folder, name, touched, "redo", "Would do again" if dry_run else "Did again", dry_run, as_json)


def _tell(folder: Path, name: str, touched: list[Path], what: str, verb: str, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"operation": name, "files": [_name(folder, path) for path in touched], "dry_run": dry_run})
        return
    console.print(plain(f"{verb} '{name}': {count(len(touched), 'file')}." if name else f"There is nothing to {what}."))


@dataset.command()
def convert(
    folder: Folder,
    to: Annotated[str, typer.Option(help="txt, caption, metadata (Hugging Face imagefolder) or kohya.")],
    source: Annotated[str, typer.Option("--from", help="The format that is there; found if left out.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace captions that say something else.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
):
    """Write the captions in another tool's format too; the old files stay, and `undo` takes the new ones back."""
    from trainer.dataset import formats

    there = [name for name in formats.present(folder) if name != to]
    if not source and len(there) != 1:
        found = " and ".join(there) or "none"
        raise UserError(f"Captions to convert from: {folder} holds {found}; say which with --from.")
    source = source or there[0]
    changes = formats.convert(folder, source, to, overwrite=overwrite)
    if not dry_run:
        formats.write(folder, changes, f"convert {source} to {to}", to)
    if as_json:
        print_json({"from": source, "to": to, "files": [_name(folder, path) for path in changes], "dry_run": dry_run})
        return
    verb = "Would write" if dry_run else "Wrote"
    console.print(plain(f"{verb} {count(len(changes), 'caption')} of {folder} from {source} to {to}."))


def chosen(folder: Path, where: str, format: str = "txt") -> list:
    """Items of the pictures that a filter wants; only what it asks about is measured."""
    from trainer.dataset import items

    return items.select(folder, where, format)


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()
