"""The application that every command registers with, and what commands share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

app = typer.Typer(
    name="lora-studio",
    help="Tag a folder of pictures, train a LoRA, compare its epochs, export the one you chose.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Result = TypeVar("Result")
RunArgument = Annotated[str, typer.Argument(help="The run's folder, or its name in runs/.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, complete.")]


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def once(look: Callable[[], Result]) -> Result:
    """Under `accelerate launch` the main process alone looks, prints and makes folders; the others are told."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return look()
    from trainer.processes import on_main

    return on_main(look)
