"""What other tools write and mean: png-info, prompt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.cli.app import Json, app, print_json
from trainer.terminal import console, plain


@app.command(name="png-info")
def png_info(
    image: Annotated[
        Path,
        typer.Argument(help="A picture of A1111, Forge, ComfyUI, InvokeAI; its text as .txt, or - for pasted text."),
    ],
    to: Annotated[Path | None, typer.Option(help="Append it to this prompt set, a .toml file.")] = None,
    name: Annotated[str, typer.Option(help="The prompt's name there; the picture's if left out.")] = "",
    as_json: Json = False,
):
    """Say what a picture was made with, and carry it into a prompt set."""
    from trainer import pnginfo

    pasted = str(image) == "-"
    found = pnginfo.read_text(sys.stdin.read()) if pasted else pnginfo.read(image)
    print_explained(found.as_json(), pnginfo.lines(found), as_json)
    if to is None:
        return
    added = pnginfo.append(found.info, to, name or ("pasted" if pasted else image.stem))
    notes = [f"Added to {to} as '{added.name}'.", *added.notes]
    for note in notes:
        if as_json:  # what is printed stays JSON
            print(note, file=sys.stderr)
        else:
            console.print(plain(note))


@app.command()
def prompt(
    text: Annotated[str, typer.Argument(help="A prompt as it would stand in A1111.")],
    steps: Annotated[int, typer.Option(help="Sampling steps, which schedules are read over.")] = 20,
    hires_steps: Annotated[int | None, typer.Option(help="Explain the hires pass of so many steps.")] = None,
    base: Annotated[str, typer.Option(help="Count tokens with this base's tokenizer; else the toybox's.")] = "",
    as_json: Json = False,
):
    """Take a prompt apart: networks, AND, schedule, weights, and how it fills its chunks of 75 tokens."""
    from trainer import explain

    explained = explain.explain(text, steps, hires_steps, base=base)
    print_explained(explained.as_json(), explain.lines(explained), as_json)


def print_explained(value: dict[str, Any], lines, as_json: bool) -> None:
    """A finding as JSON for programs, or as labelled lines for people."""
    if as_json:
        print_json(value)
        return
    for label, text in lines:
        console.print(f"{plain(label):<18} {plain(text)}")
