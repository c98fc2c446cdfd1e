"""The LoRAs in models/ with the files beside them: renamed together, described in the card that A1111 reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio import loras, places
from studio.language import _
from studio.uploads import plain
from trainer.errors import UserError
from trainer.files import write_json

# What tools keep beside a LoRA under its name.
BESIDE = (".json", ".png", ".preview.png", ".civitai.info", ".txt", ".html", ".jpg", ".webp")


def fits(path: Path, wanted: str) -> bool:
    """Whether all words of a search are in the file's name or its card."""
    card = " ".join(map(str, loras.card_of(path).values()))
    whole = f"{path.stem} {card}".casefold()
    return all(word in whole for word in wanted.casefold().split())


def describe(path: Path, values: dict[str, Any]) -> None:
    """Write these entries into the card; what else stands in it stays. Raises UserError for a file not one's own."""
    _require_own(path)
    card = loras.card_of(path)
    if any(card.get(key) != value for key, value in values.items()):
        write_json(path.with_suffix(".json"), card | values)


def rename(path: Path, name: str) -> Path:
    """The LoRA and what lies beside it under another name; nothing is ever written over.

    Raises UserError for a name that is none, one that is taken, and a file that is not one's own.
    """
    _require_own(path)
    name = name.strip()
    if name == path.stem:
        return path
    if not name or plain(name) != name or name.startswith("."):
        raise UserError(_("Give it a plain name, such as moss-cat: letters, digits, spaces, - and _."))
    pairs = [(path.with_name(path.stem + end), path.with_name(name + end)) for end in (".safetensors", *BESIDE)]
    pairs = [(old, new) for old, new in pairs if old.exists()]
    if taken := [new.name for _old, new in pairs if new.exists()]:
        raise UserError(_("{file} is there already: choose another name.").format(file=taken[0]))
    try:
        for old, new in reversed(pairs):  # the LoRA last: until then everything is found under the old name
            old.rename(new)
    except OSError as error:
        raise UserError(f"{path} cannot be renamed: {error.strerror}.") from None
    return path.with_name(name + ".safetensors")


def _require_own(path: Path) -> None:
    if not places.is_own(path) or not path.is_file():
        raise UserError(_("{file} is not in models/.").format(file=path.name))
