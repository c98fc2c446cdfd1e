"""Around the main job: presets, settings, doctor, toybox, demo, ui."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trainer import presets
from trainer.cli.app import Json, app, print_json
from trainer.config import TrainConfig, settings
from trainer.errors import UserError
from trainer.optimizers import OPTIMIZERS
from trainer.schedules import SCHEDULES
from trainer.terminal import console, plain, table
from trainer.texts import about

SHORTEST_PASSWORD = 8
# Settings whose values have help of their own.
MEMBERS = {"optimizer.name": OPTIMIZERS, "optimizer.schedule": SCHEDULES}


@app.command(name="presets")
def list_presets(
    name: Annotated[str, typer.Argument(help="A preset to look into.")] = "",
    other: Annotated[str, typer.Argument(help="Another one to compare it with.")] = "",
):
    """List the presets, show how one differs from the defaults, or how two differ from each other."""
    if not name:
        rows = table("Preset", "What it is for")
        for preset in map(presets.load, presets.find()):
            rows.add_row(preset.name, plain(" ".join(preset.about.split())))
        console.print(rows)
        return
    chosen = [presets.load(entry) for entry in (name, other) if entry]
    for preset in chosen:
        console.print(f"[bold]{plain(preset.name)}[/]: {plain(' '.join(preset.about.split()))}\n")
    configs = [presets.layer(preset.values, where=preset.name) for preset in chosen]
    ours, theirs = (configs[1], configs[0]) if other else (configs[0], TrainConfig())
    rows = table("Setting", f">{chosen[0].name if other else 'Default'}", f">{chosen[-1].name}")
    for path, (before, value) in presets.differences(ours, theirs).items():
        rows.add_row(path, plain(str(before)), plain(str(value)))
    console.print(rows)


@app.command(name="settings")
def list_settings(name: Annotated[str, typer.Argument(help="A part of the name, here or at kohya's.")] = ""):
    """Explain every setting, or those whose name holds NAME."""
    chosen = [entry for entry in settings() if any(name in one for one in (entry.path, *entry.kohya))]
    if not chosen:
        raise UserError(f"No setting's name holds {name!r}: `lora-studio settings` explains all of them.")
    for entry in chosen:
        limits = ", ".join(f"{key} {value}" for key, value in entry.limits.items())
        kohya = f"  kohya: {', '.join(entry.kohya)}" if entry.kohya else ""
        console.print(f"[bold]{entry.path}[/] = {plain(str(entry.default))}  [dim]{plain(limits)}{plain(kohya)}[/]")
        console.print("    " + plain(entry.help))
        for value, member in MEMBERS.get(entry.path, {}).items():
            console.print(f"    [bold]{value}[/]: {plain(about(member))}")


@app.command()
def doctor(as_json: Json = False):
    """Check this machine and installation, and say what to do about what is not right."""
    from trainer.doctor import examine

    marks = {"ok": "[green]✔[/]", "note": "[yellow]·[/]", "problem": "[red]✖[/]"}
    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    for finding in findings if not as_json else ():
        console.print(f"{marks[finding.level]} {plain(finding.what)}")
        if finding.remedy:
            console.print(f"    {plain(finding.remedy)}")
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def toybox():
    """Say where the built-in miniature models and their pictures lie."""
    from trainer.toybox import PARTS, PICTURES

    rows = table("Name", "Folder")
    for name, path in PARTS.items():
        rows.add_row(f"toybox/{name}", plain(str(path)))
    for name, path in PICTURES.items():
        rows.add_row(f"{name} (pictures)", plain(str(path)))
    console.print(rows)


@app.command()
def demo(
    family: Annotated[str, typer.Option(help="sd15 or sdxl: which toybox base learns.")] = "sd15",
    character: Annotated[str, typer.Option(help="Which of the toybox's held-back characters.")] = "moss",
):
    """The whole main job on the toybox, in a few minutes: tag, train, compare, export."""
    from trainer.demo import demo as run_demo

    run_demo(family, character)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens.")] = 8501,
    listen: Annotated[str, typer.Option(help="Another address than this machine's own, such as 0.0.0.0.")] = "",
    password: Annotated[
        str, typer.Option(envvar="LORA_STUDIO_PASSWORD", help="Asked for with --listen; better in the environment.")
    ] = "",
):
    """Serve the studio in the browser, for this machine only, over the folder that it is started in."""
    import os
    import runpy

    address = listen or "127.0.0.1"
    os.environ.pop("LORA_STUDIO_PASSWORD", None)
    if listen:
        os.environ["LORA_STUDIO_PASSWORD"] = require_password(password)
    page = Path(__file__).resolve().parents[2] / "studio" / "app.py"
    # Also in studio/.streamlit/config.toml; said here again because a user's own configuration must not open it up.
    safe = [f"--server.address={address}", "--server.enableXsrfProtection=true", "--browser.gatherUsageStats=false"]
    console.print(f"The studio opens at [bold]http://{address}:{port}[/]; Ctrl-C ends it, what it started goes on.")
    # In this process: the pages need much of what the command line has imported already.
    sys.argv = ["streamlit", "run", str(page), f"--server.port={port}", *safe]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def require_password(password: str) -> str:
    """The password, asked for at a terminal where it was not given. Raises UserError when there is none."""
    if not password and sys.stdin.isatty():
        password = typer.prompt("Password for the studio", hide_input=True, confirmation_prompt=True)
    if len(password) < SHORTEST_PASSWORD:
        raise UserError(
            f"--listen opens the studio to other machines and needs a password of {SHORTEST_PASSWORD} letters or more: "
            "set LORA_STUDIO_PASSWORD, or give it when you are asked."
        )
    return password
