"""Where a tagger's model is: a folder here, or a model of the Hugging Face hub in or out of its local cache."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer import toybox
from trainer.dataset.names import shown
from trainer.errors import UserError

Needed = Sequence[tuple[str, ...]]
"""Files that must be there; of each group of alternatives, one."""


def located(where: str, needed: Needed, layout: Callable[[Path], str], fetched: Sequence[str] = ()) -> Path:
    """The model's folder. Raises UserError, ending in `layout(folder)`, when it cannot be had.

    `layout` says what to put where, as the end of a sentence; `fetched`: further files (patterns) to ask the hub for.
    """
    folder = toybox.located(where)
    if folder.is_dir():
        missing = [group[0] for group in needed if not any((folder / name).is_file() for name in group)]
        if missing:
            raise UserError(f"{shown(folder)} holds no {' and no '.join(missing)}: {layout(folder)}")
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", where) or where.startswith("."):
        raise UserError(f"The tagger folder {shown(folder)} does not exist: {layout(folder)}")
    return _from_hub(where, needed, layout, [*fetched, *(name for group in needed for name in group)])


def _from_hub(id: str, needed: Needed, layout: Callable[[Path], str], patterns: list[str]) -> Path:
    """The folder of a hub model in the local cache, fetched if it is not there yet."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(id, local_files_only=True, allow_patterns=patterns))
        if all(any((folder / name).is_file() for name in group) for group in needed):
            return folder
    except Exception:  # not in the cache (the reasons differ by version): ask the hub
        pass
    try:
        folder = Path(snapshot_download(id, allow_patterns=patterns))
    except Exception as error:  # no network, no such model, not allowed, disk full: the library's own types
        raise UserError(
            f"The tagger {id} is neither a folder here nor could it be fetched from the hub "
            f"({type(error).__name__}): {layout(Path('models') / id.split('/')[1])}"
        ) from error
    return located(str(folder), needed, layout)
