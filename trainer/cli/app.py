"""The application that every command registers with, and what commands share."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="lora-studio",
    help="Tag a folder of pictures, train a LoRA, compare its epochs, export the one you chose.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
RunArgument = Annotated[str, typer.Argument(help="The run's folder, or its name in runs/.")]
