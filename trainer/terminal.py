"""How the command line looks: progress bars, tables and figures. Nothing here decides anything."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from trainer import run as runs
from trainer.dataset.names import count
from trainer.examples import Example, count_epochs, count_steps, trained
from trainer.files import write_json
from trainer.run import Run, Status
from trainer.texts import MARKS, duration, file_size, size

# Of several processes under `accelerate launch` one speaks. What goes into a file or a pipe is not cut into lines, so
# that a path stays one.
console = Console(
    emoji=False, highlight=False, quiet=os.environ.get("RANK", "0") != "0", soft_wrap=not sys.stdout.isatty()
)
TELL_INTERVAL = 0.5  # seconds between two writes of the progress file
LISTED_PICTURES = 40  # more than this and the crops without loss are counted, not listed


def table(*columns: str) -> Table:
    """A plain table; a column name starting with '>' is right-aligned, as numbers are. A long word goes on in the next
    line: half a setting's name is of no use."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        justify = "right" if column.startswith(">") else "left"
        made.add_column(column.removeprefix(">"), justify=justify, overflow="fold")
    return made


@contextmanager
def bar(description: str) -> Iterator:
    """A progress bar; yields advance(done, total, note)."""
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
    tell = _Teller()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=None, note="")

        def advance(done: int, total: int | None, note: str = "", description: str = description) -> None:
            progress.update(task, completed=done, total=total, note=note, description=description)
            tell(description, done, total, note)

        yield advance


class _Teller:
    """Writes where a bar stands into the file that LORA_STUDIO_PROGRESS names, for a page that watches."""

    def __init__(self) -> None:
        self._path = os.environ.get("LORA_STUDIO_PROGRESS", "")
        self._written = 0.0

    def __call__(self, description: str, done: int, total: int | None, note: str) -> None:
        now = time.monotonic()
        if not self._path or (done != total and now - self._written < TELL_INTERVAL):
            return
        self._written = now
        write_json(Path(self._path), {"description": description, "done": done, "total": total, "note": note})


@contextmanager
def training_bar() -> Iterator:
    """Yields the listener that trainer.loop reports to: a bar with epoch, loss, speed and time left."""
    with bar("Preparing") as advance:
        alarm = ""

        def listen(state: str, message: str, progress: runs.Progress) -> None:
            nonlocal alarm
            if progress.alarm and not alarm:
                console.print(f"[yellow]{plain(progress.alarm)}[/]")
            alarm = progress.alarm
            if state == "preparing":
                advance(0, None, description=message or "Preparing")
            elif state == "training":
                epoch = f"Epoch {min(progress.epoch + 1, progress.epochs)} of {progress.epochs}"
                advance(progress.step, progress.steps, figures(progress), epoch)

        yield listen


def figures(progress: runs.Progress) -> str:
    """ "loss 0.123 · 1.02 s/step · 5 min left", as far as it is known."""
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.seconds_per_step is not None:
        parts.append(f"{progress.seconds_per_step:.2f} s/step")
    if progress.seconds_left is not None and progress.seconds_left > 0:
        parts.append(f"{duration(progress.seconds_left)} left")
    return " · ".join(parts)


def print_plan(examples: list[Example], config) -> None:
    """What will happen, before the first step: every bucket, crop and repeat."""
    steps, per_epoch = count_steps(examples, config)
    seen = sum(example.repeats for example in trained(examples))
    pictures, epochs = count(len(examples), "picture"), count(count_epochs(examples, config), "epoch")
    console.print(
        f"[bold]{pictures}[/], {seen} an epoch with their repeats, × {epochs}, batch {config.loop.batch_size} = "
        f"[bold]{count(steps, 'step')}[/] ({per_epoch} per epoch)"
    )
    listed = [example for example in examples if len(examples) <= LISTED_PICTURES or example.placement.lost > 0]
    rows = table("Picture", ">Size", ">Scaled", ">Bucket", ">Cropped off", ">Repeats")
    for example in listed:
        placement = example.placement
        lost = f"{placement.lost:.1%}" if placement.lost > 0 else "nothing"
        sizes = [f"{w}×{h}" for w, h in ((example.width, example.height), placement.scaled, placement.bucket)]
        repeats = "held back" if example.role == "validation" else str(example.repeats)
        name = example.path.name + (" (regularisation)" if example.role == "regularisation" else "")
        rows.add_row(plain(name), *sizes, lost, repeats)
    console.print(rows)
    if len(listed) < len(examples):
        others = count(len(examples) - len(listed), "picture")
        console.print(f"… and {others} of which nothing is cropped off (dataset.json)")


def print_estimate(found) -> None:
    """What a run will take (`trainer.estimate.Estimate`), and whether the device has it."""
    parts = " + ".join(f"{name} {size(amount)}" for name, amount in found.training.items() if amount)
    rows = table("", ">", "")
    rows.add_row("Memory for training", size(sum(found.training.values())), parts)
    rows.add_row("Memory for rendering", size(found.rendering), "")
    rows.add_row("", size(found.caching), "while pictures or captions are encoded")
    if found.loading:
        rows.add_row("", size(found.loading), "while the base is loaded")
    if found.seconds is None:
        rows.add_row("Time", "?", "`lora-studio estimate --probe` takes a real step and then knows")
    else:
        rows.add_row("Time", duration(found.total_seconds), f"{count(found.steps, 'step')} of {found.seconds:.2f} s")
        rows.add_row(
            "Time to compare", duration(found.comparing_seconds), f"about, for {count(found.pictures, 'picture')}"
        )
    disk = ", ".join(f"{name} {size(amount)}" for name, amount in found.disk.items())
    rows.add_row("Disk", size(sum(found.disk.values())), f"{disk}; one epoch is a file of {size(found.file)}")
    console.print(rows)
    if found.fits:
        console.print(f"It fits: {plain(found.device)} has {size(found.capacity)}.")
    else:
        console.print(f"[red]It does not fit[/]: {plain(found.device)} has {size(found.capacity)}.")


def print_runs(found: list[Run]) -> None:
    rows = table("", "Run", "State", ">Epoch", ">Step", "")
    for run in found:
        status = run.status
        progress = status.progress
        epoch, step = f"{len(run.epochs())} of {progress.epochs}", f"{progress.step}/{progress.steps}"
        note = figures(progress) if status.state == "training" else status.message
        rows.add_row(MARKS[status.state], plain(run.name), status.state, epoch, step, plain(note))
    console.print(rows)


def print_run(run: Run) -> None:
    status: Status = run.status
    console.print(f"{MARKS[status.state]} [bold]{plain(run.name)}[/]  {status.state}")
    if status.message:
        console.print("  " + plain(status.message))
    progress = status.progress
    if progress.alarm:
        console.print(f"  [yellow]{plain(progress.alarm)}[/]")
    if progress.steps:
        console.print(f"  step {progress.step}/{progress.steps}  {figures(progress)}")
    if status.updated:
        console.print(f"  last word {duration(time.time() - status.updated)} ago")
    for epoch in run.epochs():
        console.print(f"  epoch {epoch.number:>3}  {file_size(epoch.path)}  {plain(str(epoch.path))}")


def plain(text: str) -> str:
    """Text from a file or a name, shown as it is: never read as the console's own markup."""
    from rich.markup import escape

    return escape(text)
