"""Runs that were deleted: moved to runs/.trash/ in one step, from where they come back until it is emptied."""

from __future__ import annotations

import shutil

from studio import places
from trainer.errors import UserError
from trainer.run import Run, find_runs

NAME = ".trash"


def runs() -> list[Run]:
    """What lies in the trash, newest first."""
    return find_runs(places.RUNS / NAME)


def throw(run: Run) -> None:
    """Raises UserError when somebody is at work on the run, or it cannot be moved."""
    if run.is_locked():
        raise UserError(f"{run.name} is being worked on: stop it first.")
    _move(run.path, places.RUNS / NAME)


def restore(name: str) -> None:
    """Raises UserError when it is not in the trash, or a run of that name is there again."""
    found = {run.name: run for run in runs()}
    if name not in found:
        raise UserError(f"{name} is not in the trash.")
    _move(found[name].path, places.RUNS)


def empty() -> int:
    """Delete what lies in the trash for good; how many runs that were. Raises UserError when one cannot be."""
    found = runs()
    for run in found:
        try:
            shutil.rmtree(run.path)
        except OSError as error:
            raise UserError(f"{run.name} cannot be deleted: {error.strerror}.") from None
    return len(found)


def _move(source, folder) -> None:
    target = folder / source.name
    if target.exists():
        raise UserError(f"{target} is there already: rename one of the two folders.")
    try:
        folder.mkdir(exist_ok=True)
        source.rename(target)
    except OSError as error:
        raise UserError(f"{source} cannot be moved to {folder}: {error.strerror}.") from None
