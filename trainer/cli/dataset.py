"""Pictures and captions: tag."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.app import app
from trainer.errors import UserError
from trainer.terminal import bar, console, plain

DEFAULT_TAGGER = "wd14:SmilingWolf/wd-swinv2-tagger-v3"


@app.command()
def tag(
    folder: Annotated[Path, typer.Argument(help="The folder with the pictures.")],
    tagger: Annotated[
        str, typer.Option(help="wd14:FOLDER or wd14:OWNER/MODEL of the hub; wd14:toybox/tagger for drawn creatures.")
    ] = DEFAULT_TAGGER,
    trigger: Annotated[str, typer.Option(help="Trigger word, written first into each caption.")] = "",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Tags less sure than this are left out.")] = 0.35,
    append: Annotated[bool, typer.Option("--append", help="Add to captions that are already there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace captions; the old go to a journal.")] = False,
):
    """Write a caption beside each picture."""
    from trainer.tag import tag_folder

    if append and overwrite:
        raise UserError("--append and --overwrite exclude each other: choose one.")
    mode = "append" if append else "overwrite" if overwrite else "skip"
    with bar(f"Tagging {folder}") as advance:
        report = tag_folder(folder, tagger, trigger=trigger, threshold=threshold, mode=mode, progress=advance)
    console.print(f"Wrote {len(report.written)} captions in {plain(str(folder))}.")
    if report.skipped:
        console.print(
            f"Left {len(report.skipped)} captions as they are; --append adds to them, --overwrite replaces them."
        )
