"""Moving in: import settings that were made for kohya's tools or OneTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.app import app
from trainer.errors import UserError
from trainer.files import write_text
from trainer.terminal import console, plain, table


@app.command(name="import")
def import_settings(
    file: Annotated[Path, typer.Argument(help="A JSON of kohya_ss or OneTrainer, a TOML or script, a LoRA.")],
    to: Annotated[str, typer.Option(help="The preset to write; presets/FILE'S NAME.toml if left out.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a preset that is there.")] = False,
):
    """Turn somebody's settings for kohya's tools or OneTrainer into a preset, and say what became of each of them."""
    from trainer.kohya import migrate
    from trainer.kohya.sources import read_source

    target = Path(to) if to else Path("presets") / f"{file.stem}.toml"
    if target.suffix != ".toml":
        raise UserError(f"--to {to}: a preset's name ends in .toml.")
    source = read_source(file)
    made = migrate.translate(source)
    if target.exists() and not overwrite:
        raise UserError(f"{target} is there already: name another with --to, or add --overwrite.")
    write_text(target, made.as_toml(f"Imported from {file.name} ({source.kind})."))
    groups = {
        "Mapped": made.mapped,
        "Ignored, because it changes nothing": made.ignored,
        "Without equal here, so it is lost": made.unequal,
    }
    for title, lines in groups.items():
        console.print(f"[bold]{title}[/]: {len(lines)}")
        rows = table("", "", "")
        for line in lines:
            rows.add_row("  " + plain(line.name), plain(line.value), plain(line.what))
        if lines:
            console.print(rows)
    console.print(f"Use it with [bold]lora-studio train --preset {plain(target.stem)}[/]   ({plain(str(target))})")
