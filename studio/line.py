"""The runs that wait for the device: .studio/line.json holds their names in order, and one process starts them.

That process (`studio.worker … line`) outlives the studio. It starts the first run of the line when nothing else is
at work, and ends when the line is empty. If it dies, any page that is opened over a line starts it again; the order is
never lost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from studio import jobs, places
from trainer.errors import UserError
from trainer.files import write_json
from trainer.run import Run

FILE = Path(".studio") / "line.json"
LOCK = Path(".studio") / "line.lock"
LOOK = 1.0  # seconds between looks whether it is the next run's turn


def names() -> list[str]:
    """Who waits, first to start first; runs that are gone or no longer queued are left out."""
    try:
        values = json.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    there = {run.name for run in places.runs()}
    return [name for name in values if name in there] if isinstance(values, list) else []


def add(run: Run) -> None:
    """To the end of the line. Raises UserError when somebody is at work on it."""
    if run.is_locked():
        raise UserError(f"{run.name} is being worked on already.")
    change(lambda waiting: [*(name for name in waiting if name != run.name), run.name])
    ensure()


def remove(name: str) -> None:
    change(lambda waiting: [other for other in waiting if other != name])


def move(name: str, by: int) -> None:
    """One earlier with -1, one later with 1."""

    def moved(waiting: list[str]) -> list[str]:
        if name not in waiting:
            return waiting
        place = min(max(waiting.index(name) + by, 0), len(waiting) - 1)
        rest = [other for other in waiting if other != name]
        return [*rest[:place], name, *rest[place:]]

    change(moved)


def change(how: Callable[[list[str]], list[str]]) -> None:
    """Two tabs may change the line at once, and its process as well."""
    LOCK.parent.mkdir(exist_ok=True)
    with FileLock(LOCK):
        write_json(FILE, how(names()))


def ensure() -> None:
    """Let somebody look after the line, if there is one and nobody does."""
    job = jobs.latest("line")
    if names() and not (job is not None and job.active):
        jobs.start("line")


def main() -> None:
    while names():
        if not busy():
            start_first()
        time.sleep(LOOK)


def busy() -> bool:
    """Whether a run trains or is about to; rendering is waited for by the run itself."""
    return any(run.is_locked() or ((job := jobs.job_of(run)) is not None and job.active) for run in places.runs())


def start_first() -> None:
    waiting = names()
    if not waiting:
        return
    run = Run(places.RUNS / waiting[0])
    with suppress(UserError):  # somebody was faster: it is at work, which is all that was wanted
        jobs.start_training(run)
    remove(run.name)


if __name__ == "__main__":
    main()
