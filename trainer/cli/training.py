"""Training: train, resume, stop, sample, status."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer import presets
from trainer.cli.app import Json, RunArgument, app, once, print_json
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.run import Run, find_runs
from trainer.terminal import console, plain, print_estimate, print_plan, print_run, print_runs, training_bar
from trainer.texts import size

# What decides about a run, the same for every verb that speaks of one.
PresetOption = Annotated[str, typer.Option(help="A preset's name or file; `lora-studio presets` lists them.")]
BaseOption = Annotated[str, typer.Option(help="Base model: a .safetensors file, a diffusers folder or a hub id.")]
DataOption = Annotated[str, typer.Option(help="The folder with pictures and captions.")]
NameOption = Annotated[str, typer.Option(help="Name of the LoRA; the data folder's name if left out.")]
TriggerOption = Annotated[str, typer.Option(help="Trigger word; the first tag that all captions share if left out.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting: adapter.rank=16.")]


@app.command()
def train(
    preset: PresetOption = "",
    base: BaseOption = "",
    data: DataOption = "",
    name: NameOption = "",
    trigger: TriggerOption = "",
    set_: SetOption = None,
    as_kohya: Annotated[
        bool,
        typer.Option("--as-kohya", help="Print the same run for kohya's sd-scripts instead (on Windows: PowerShell)."),
    ] = False,
):
    """Train a LoRA; every epoch is saved as a finished file."""
    config = configure(preset, base, data, name, trigger, set_ or [])
    if as_kohya:
        print_as_kohya(config)
    else:
        start(config)


@app.command()
def estimate(
    preset: PresetOption = "",
    base: BaseOption = "",
    data: DataOption = "",
    name: NameOption = "",
    trigger: TriggerOption = "",
    set_: SetOption = None,
    memory: Annotated[float, typer.Option(min=0, help="Hold it against a card with this many GB instead.")] = 0,
    probe: Annotated[
        bool, typer.Option("--probe", help="Take two real steps first, and correct the figures with them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in one line.")] = False,
):
    """Say what a run takes before it starts: memory, time, disk; and what would make it fit."""
    from trainer import basecheck, fitting
    from trainer import estimate as estimates

    config = configure(preset, base, data, name, trigger, set_ or [])
    if probe:
        taken, peak = estimates.probe(config, examples_of(config))
    if probe and not as_json:
        console.print(f"Two real steps: {taken:.2f} s for the second, at most {size(peak)} of memory.")
    card = "cuda" if memory else ""
    found = estimates.estimate(config, examples_of(config), round(memory * 1e9), card)
    change = None if found.fits else fitting.cheapest_change(config, examples_of, found.capacity, card)
    problems = basecheck.check(config, examples_of(config))
    if as_json:
        changed = change and {"set": change[0], **change[1].as_json()}
        print(json.dumps({**found.as_json(), "change": changed, "problems": [asdict(one) for one in problems]}))
        return
    for problem in problems:
        console.print(f"[yellow]Note[/] {plain(str(problem))}")
    print_estimate(found)
    if not found.fits:
        print_change(change, found.trains)


def examples_of(config: TrainConfig):
    """The pictures of a run; none where no folder was given, and then square ones are assumed."""
    from trainer.examples import load_examples

    return load_examples(config.data) if config.data.folder else []


ELSEWHERE = "render on the processor (--device cpu) or on another machine."


def print_change(found, trains: bool) -> None:
    """What makes it fit, as it goes behind the command. `trains`: the training alone fits as it is."""
    if found is None and trains:
        console.print(f"Training fits. Rendering does not: {ELSEWHERE}")
    elif found is None:
        console.print("Nothing that can be set makes it fit: take a smaller base model or a larger device.")
    else:
        change, changed = found
        words = {path: str(value).lower() if isinstance(value, bool) else value for path, value in change.items()}
        options = plain(" ".join(f"--set {path}={value}" for path, value in words.items()))
        if changed.fits:
            console.print(f"It fits with [bold]{options}[/]: {size(max(changed.peak, changed.rendering))}.")
        else:
            console.print(f"Training fits with [bold]{options}[/]: {size(changed.peak)}.")
            console.print(f"Rendering does not: {ELSEWHERE}")


def print_as_kohya(config: TrainConfig) -> None:
    """A script for sd-scripts on stdout, unstyled, so that it can go into a file."""
    from trainer import families
    from trainer.kohya.calls import as_kohya

    source = families.resolve(config.model.base)
    print(as_kohya(config, family=families.detect(source).name, noise=families.noise(source)), end="")


def configure(preset: str, base: str, data: str, name: str, trigger: str, overrides: list[str]) -> TrainConfig:
    """Layer defaults < preset < options, and fill in what follows from the pictures."""
    from trainer.examples import common_first_tag
    from trainer.kohya.arguments import parse_override

    chosen = presets.load(preset).values if preset else {}
    given = {"model.base": base, "data.folder": data, "name": name, "data.trigger": trigger}
    said = {path: value for path, value in given.items() if value} | dict(map(parse_override, overrides))
    config = presets.layer(chosen, said)
    filled: dict[str, Any] = {}
    if not config.name and config.data.folder:
        filled["name"] = Path(config.data.folder).resolve().name
    if not config.data.trigger and config.data.folder:
        filled["data.trigger"] = common_first_tag(Path(config.data.folder))
    return presets.layer(chosen, said, filled)


def start(config: TrainConfig) -> Run:
    """Check, show the plan, make the run folder and train in this process."""
    run = Run(once(lambda: _prepare(config)))
    work(run)
    return run


def _prepare(config: TrainConfig) -> Path:
    from trainer import basecheck, checks, processes
    from trainer.examples import load_examples

    examples, whole = load_examples(config.data), processes.together(config)
    problems = checks.check(whole, examples)
    checks.require(problems)
    problems += basecheck.check(config, examples)
    print_plan(examples, whole)
    foretell(config, examples)
    for problem in problems:
        console.print(f"[yellow]Note[/] {plain(str(problem))}")
    run = Run.create(config)
    console.print(f"Run [bold]{plain(str(run.path))}[/]")
    return run.path


def foretell(config: TrainConfig, examples) -> None:
    """Memory, time and disk before the first step. Says what would make it fit, and leaves the choice."""
    from trainer import estimate as estimates
    from trainer import fitting

    try:
        found = estimates.estimate(config, examples)
        print_estimate(found)
        if not found.fits:
            print_change(fitting.cheapest_change(config, examples_of, found.capacity), found.trains)
    except UserError:
        raise
    except Exception as error:
        # It counts by torch's fake tensors, which do not know every kernel; a run must not be kept by its forecast.
        console.print(f"[yellow]Note[/] What the run will take could not be counted ({plain(str(error))}).")


def work(run: Run) -> None:
    """Train or resume a run with a progress bar, then say where things are."""
    from trainer import processes
    from trainer.loop import train as train_run

    for note in processes.without_effect(run.config):
        console.print(f"[yellow]Note[/] {plain(note)}")
    with training_bar() as listener:
        try:
            train_run(run, listener)
        except UserError:
            raise  # said in one sentence, and in the run's status
        except BaseException:
            with open(run.path / "train.log", "a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            raise
    print_run(run)
    if run.status.state == "finished":
        console.print(f"Next: [bold]lora-studio evaluate {plain(str(run.path))}[/]")


@app.command()
def resume(run: RunArgument):
    """Go on with a run that was stopped, killed or interrupted."""

    def unfinished() -> Path | None:
        found = Run.open(run)
        if found.status.state == "finished":
            console.print(f"{plain(found.name)} is finished; there is nothing left to train.")
            return None
        return found.path

    path = once(unfinished)
    if path is not None:
        work(Run(path))


@app.command()
def stop(run: RunArgument):
    """Ask a run to save and stop at its next step."""
    found = Run.open(run)
    if not found.is_locked():
        console.print(f"{plain(found.name)} is not running ({found.status.state}).")
        return
    found.request("stop")
    console.print(f"{plain(found.name)} will save its state and stop at the next step.")


@app.command()
def sample(run: RunArgument):
    """Ask a run that trains for a few pictures of what it has learned so far."""
    found = Run.open(run)
    if not found.is_locked():
        raise UserError(f"{found.name} is not running ({found.status.state}); `evaluate` renders its epochs.")
    found.request("sample")
    console.print(f"{plain(found.name)} will render into {plain(str(found.path / 'samples'))} at the next step.")


@app.command()
def status(run: Annotated[str, typer.Argument(help="A run; all runs if left out.")] = "", as_json: Json = False):
    """Show the runs, or one of them."""
    found = [Run.open(run)] if run else find_runs()
    if as_json:
        print_json([told(one) for one in found])
        return
    if run:
        print_run(found[0])
        return
    if not found:
        console.print("No runs yet. Start one with `lora-studio train`, or see `lora-studio demo`.")
        return
    print_runs(found)


def told(run: Run) -> dict[str, Any]:
    """A run as JSON: its status, where it lies, and the epochs that are saved."""
    epochs = [{"number": epoch.number, "file": str(epoch.path)} for epoch in run.epochs()]
    return {"name": run.name, "folder": str(run.path), **asdict(run.status), "epochs": epochs}
