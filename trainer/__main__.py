"""The command line: one verb per story. `lora-studio --help` lists them."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer import presets
from trainer.config import TrainConfig, settings
from trainer.errors import UserError
from trainer.run import Run, find_runs
from trainer.terminal import bar, console, plain, print_plan, print_run, print_runs, table, training_bar
from trainer.texts import file_size

app = typer.Typer(
    name="lora-studio",
    help="Tag a folder of pictures, train a LoRA, compare its epochs, export the one you chose.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DEFAULT_TAGGER = "wd14:SmilingWolf/wd-swinv2-tagger-v3"
RunArgument = Annotated[str, typer.Argument(help="The run's folder, or its name in runs/.")]


# ── tag ─────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def tag(
    folder: Annotated[Path, typer.Argument(help="The folder with the pictures.")],
    tagger: Annotated[
        str, typer.Option(help="wd14:FOLDER or wd14:OWNER/MODEL of the hub; wd14:toybox/tagger for drawn creatures.")
    ] = DEFAULT_TAGGER,
    trigger: Annotated[str, typer.Option(help="Trigger word, written first into each caption.")] = "",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Tags less sure than this are left out.")] = 0.35,
    append: Annotated[bool, typer.Option("--append", help="Add to captions that are already there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace captions; the old go to a journal.")] = False,
):
    """Write a caption beside each picture."""
    from trainer.tag import tag_folder

    if append and overwrite:
        raise UserError("--append and --overwrite exclude each other: choose one.")
    mode = "append" if append else "overwrite" if overwrite else "skip"
    with bar(f"Tagging {folder}") as advance:
        report = tag_folder(folder, tagger, trigger=trigger, threshold=threshold, mode=mode, progress=advance)
    console.print(f"Wrote {len(report.written)} captions in {plain(str(folder))}.")
    if report.skipped:
        console.print(
            f"Left {len(report.skipped)} captions as they are; --append adds to them, --overwrite replaces them."
        )


# ── train ───────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def train(
    preset: Annotated[str, typer.Option(help="A preset's name or file; `lora-studio presets` lists them.")] = "",
    base: Annotated[str, typer.Option(help="Base model: a .safetensors file, a diffusers folder or a hub id.")] = "",
    data: Annotated[str, typer.Option(help="The folder with pictures and captions.")] = "",
    name: Annotated[str, typer.Option(help="Name of the LoRA; the data folder's name if left out.")] = "",
    trigger: Annotated[str, typer.Option(help="Trigger word; the first tag that all captions share if left out.")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any setting: adapter.rank=16.")] = None,
):
    """Train a LoRA; every epoch is saved as a finished file."""
    config = configure(preset, base, data, name, trigger, set_ or [])
    start(config)


def configure(preset: str, base: str, data: str, name: str, trigger: str, overrides: list[str]) -> TrainConfig:
    """Layer defaults < preset < options, and fill in what follows from the pictures."""
    from trainer.examples import common_first_tag

    chosen = presets.load(preset).values if preset else {}
    given = {"model.base": base, "data.folder": data, "name": name, "data.trigger": trigger}
    said = {path: value for path, value in given.items() if value} | dict(map(presets.parse_override, overrides))
    config = presets.layer(chosen, said)
    filled: dict[str, Any] = {}
    if not config.name and config.data.folder:
        filled["name"] = Path(config.data.folder).resolve().name
    if not config.data.trigger and config.data.folder:
        filled["data.trigger"] = common_first_tag(Path(config.data.folder))
    return presets.layer(chosen, said, filled)


def start(config: TrainConfig) -> Run:
    """Check, show the plan, make the run folder and train in this process."""
    from trainer import checks
    from trainer.examples import load_examples

    examples = load_examples(config.data)
    problems = checks.check(config, examples)
    checks.require(problems)
    print_plan(examples, config)
    for problem in problems:
        console.print(f"[yellow]Note[/] {plain(str(problem))}")
    run = Run.create(config)
    console.print(f"Run [bold]{plain(str(run.path))}[/]")
    work(run)
    return run


def work(run: Run) -> None:
    """Train or resume a run with a progress bar, then say where things are."""
    from trainer.loop import train as train_run

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
    found = Run.open(run)
    if found.status.state == "finished":
        console.print(f"{plain(found.name)} is finished; there is nothing left to train.")
        return
    work(found)


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
def status(run: Annotated[str, typer.Argument(help="A run; all runs if left out.")] = ""):
    """Show the runs, or one of them."""
    if run:
        print_run(Run.open(run))
        return
    found = find_runs()
    if not found:
        console.print("No runs yet. Start one with `lora-studio train`, or see `lora-studio demo`.")
        return
    print_runs(found)


# ── compare and export ──────────────────────────────────────────────────────────────────────────────────


@app.command()
def evaluate(
    run: RunArgument,
    prompts: Annotated[str, typer.Option(help="A prompt set's name or file; the run's own if left out.")] = "",
    epochs: Annotated[str, typer.Option(help="Which epochs: 1,3,5-10. All if left out.")] = "",
    strengths: Annotated[str, typer.Option(help="LoRA weights: 0.6,0.8,1.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds: 1,2,3.")] = "",
    clip: Annotated[str, typer.Option(help="Folder of a CLIP model, for likeness scores.")] = "",
    device: Annotated[str, typer.Option(help="cuda, cpu, …; the best there is if left out.")] = "",
):
    """Render the prompt set with the base and every epoch, side by side."""
    from trainer.evaluate import evaluate as evaluate_run

    found = Run.open(run)
    chosen = {"prompts": prompts, "strengths": strengths, "seeds": seeds}
    overrides = [f"evaluation.{key}={value}" for key, value in chosen.items() if value]
    config = presets.layer(presets.flatten(found.config.model_dump()), dict(map(presets.parse_override, overrides)))
    with bar("Rendering") as advance:
        result = evaluate_run(
            found, config.evaluation, epochs=parse_numbers(epochs), clip=clip, device=device, progress=advance
        )
    print_rows(result.evaluation)
    console.print(f"Grid    {plain(str(result.folder / 'grid.png'))}")
    console.print(f"Report  {plain(str(result.folder / 'report.html'))}")


def parse_numbers(text: str) -> list[int] | None:
    """ "1,3,5-10" -> [1, 3, 5, 6, 7, 8, 9, 10]; empty -> None, which means all."""
    if not text:
        return None
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UserError(f"--epochs {text}: write numbers and ranges, for example 1,3,5-10.")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def print_rows(evaluation) -> None:
    """One line per row of the grid with its scores, the recommended one marked."""
    names = list(dict.fromkeys(name for row in evaluation.rows for name in row.scores))
    rows = table("", "Epoch", *(">" + name for name in names))
    best = evaluation.recommended or {}
    for row in evaluation.rows:
        chosen = (row.epoch, row.strength) == (best.get("epoch"), best.get("strength"))
        label = "base" if row.epoch == 0 else f"epoch {row.epoch}"
        label += f" × {row.strength:g}" if row.epoch and len(evaluation.strengths) > 1 else ""
        values = [f"{row.scores[name]:.3f}" if name in row.scores else "–" for name in names]
        rows.add_row("★" if chosen else "", label, *values)
    console.print(rows)
    if best:
        console.print(f"★ Recommended: {plain(best['reason'])}")


@app.command()
def vote(
    run: RunArgument,
    prompts: Annotated[str, typer.Option(help="Which comparison, by its prompt set; the newest if left out.")] = "",
    strength: Annotated[float | None, typer.Option(help="Vote at this LoRA weight; else the one nearest 1.")] = None,
    show: Annotated[bool, typer.Option("--ranking", help="Only print what the votes say so far.")] = False,
):
    """Judge the epochs blind: two pictures, no labels, which one is better?"""
    from trainer import voting
    from trainer.vote import Ballot

    evaluation, folder = voting.find(Run.open(run), prompts)
    ballot = Ballot(evaluation, folder, strength=voting.nearest_strength(evaluation, strength))
    ranking = ballot.ranking() if show else voting.session(ballot, ask_in_browser(), console.print)
    print_ranking(ranking)
    if not show and ballot.votes:
        voting.recommend_again(evaluation, folder)
        if evaluation.recommended:
            console.print(f"★ Recommended: {plain(evaluation.recommended['reason'])}")


def ask_in_browser():
    """A question at the terminal about the pair on a page, which is opened in the browser once, where there is one."""
    import webbrowser

    from trainer.voting import QUESTION

    opened = False

    def ask(_, page: Path) -> str:
        nonlocal opened
        if not opened:
            opened = True
            if not webbrowser.open(page.resolve().as_uri()):
                console.print(f"Open {plain(str(page))} in a browser; it shows each pair in turn.")
            console.print(QUESTION + ".")
        try:
            return input("Which is better? ")
        except EOFError:
            return "q"

    return ask


def print_ranking(ranking) -> None:
    """The candidates, best first, with how often each is preferred to the average one."""
    several = len({one.strength for one in ranking.standings}) > 1
    rows = table("Epoch", ">Preferred", ">95 % interval", ">Seen", ">Both bad")
    for one in ranking.standings:
        label = f"epoch {one.epoch}" + (f" × {one.strength:g}" if several else "")
        rows.add_row(label, f"{one.preferred:.0%}", f"{one.low:.0%}–{one.high:.0%}", str(one.shown), str(one.bad))
    console.print(rows)
    console.print(plain(ranking.sentence()))


@app.command()
def export(
    run: RunArgument,
    epoch: Annotated[int | None, typer.Option(help="Which epoch.")] = None,
    to: Annotated[Path, typer.Option(help="A folder, or a file name ending in .safetensors.")] = Path("models"),
    name: Annotated[str, typer.Option(help="File name without ending; the run's name if left out.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of that name.")] = False,
    strength: Annotated[float, typer.Option(help="Baked in: at 1 the file then is what the epoch is at this.")] = 1.0,
    rank: Annotated[int, typer.Option(help="Cut every module to this rank (SVD); 0 keeps the rank.")] = 0,
    dtype: Annotated[str, typer.Option(help="fp32, fp16 or bf16; as it was trained if left out.")] = "",
    merge: Annotated[str, typer.Option(help="Several epochs with weights, in place of --epoch: 4:0.5,6:0.5.")] = "",
    device: Annotated[str, typer.Option(help="cuda, cpu, …; the best there is if left out.")] = "",
):
    """Write the chosen epoch to models/, ready for A1111, Forge, ComfyUI and diffusers."""
    from trainer.export import export as export_run

    changes = {"strength": strength, "rank": rank, "dtype": dtype, "merge": parse_merge(merge)}
    result = export_run(Run.open(run), epoch, to=to, name=name, overwrite=overwrite, device=device, **changes)
    console.print(f"Exported [bold]{plain(str(result.path))}[/] ({file_size(result.path)})")
    console.print(plain(result.verification))
    console.print(plain(f"In your prompt: <lora:{result.path.stem}:1>" + (f" {result.trigger}" * bool(result.trigger))))


def parse_merge(text: str) -> list[tuple[int, float]]:
    """ "4:0.5,6:0.5" -> [(4, 0.5), (6, 0.5)]; empty -> []."""
    parts = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        epoch, _, weight = part.partition(":")
        try:
            parts.append((int(epoch), float(weight)))
        except ValueError:
            raise UserError(f"--merge {text}: write epochs with weights, for example 4:0.5,6:0.5.") from None
    return parts


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="Any LoRA file.")]):
    """Say what a LoRA file is: family, size, trigger words, settings, and which tools load it."""
    from trainer import kohya

    for label, value in kohya.describe(file).lines():
        console.print(f"{label:<18} {plain(value)}")


# ── the conventions of other tools ──────────────────────────────────────────────────────────────────────


@app.command(name="png-info")
def png_info(
    image: Annotated[Path, typer.Argument(help="A picture from A1111, Forge, ComfyUI, InvokeAI or from here.")],
    to: Annotated[Path | None, typer.Option(help="Append it to this prompt set, a .toml file.")] = None,
    name: Annotated[str, typer.Option(help="The prompt's name there; the picture's if left out.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
):
    """Say what a picture was made with, and carry it into a prompt set."""
    from trainer import pnginfo

    found = pnginfo.read(image)
    print_explained(found.as_json(), pnginfo.lines(found), as_json)
    if to is None:
        return
    added = pnginfo.append(found.info, to, name or image.stem)
    notes = [f"Added to {to} as '{added.name}'.", *added.notes]
    for note in notes:
        if as_json:  # what is printed stays JSON
            print(note, file=sys.stderr)
        else:
            console.print(plain(note))


@app.command()
def prompt(
    text: Annotated[str, typer.Argument(help="A prompt as it would stand in A1111.")],
    steps: Annotated[int, typer.Option(help="Sampling steps, which schedules are read over.")] = 20,
    hires_steps: Annotated[int | None, typer.Option(help="Explain the hires pass of so many steps.")] = None,
    base: Annotated[str, typer.Option(help="Count tokens with this base's tokenizer; else the toybox's.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
):
    """Take a prompt apart: networks, AND, schedule, weights, and how it fills its chunks of 75 tokens."""
    from trainer import explain

    explained = explain.explain(text, steps, hires_steps, base=base)
    print_explained(explained.as_json(), explain.lines(explained), as_json)


def print_explained(value: dict[str, Any], lines, as_json: bool) -> None:
    """A finding as JSON for programs, or as labelled lines for people."""
    if as_json:
        import json

        print(json.dumps(value, ensure_ascii=False, indent=2))
        return
    for label, text in lines:
        console.print(f"{plain(label):<18} {plain(text)}")


# ── around it ───────────────────────────────────────────────────────────────────────────────────────────


@app.command(name="presets")
def list_presets(name: Annotated[str, typer.Argument(help="A preset to look into.")] = ""):
    """List the presets, or show what one of them changes."""
    if not name:
        rows = table("Preset", "What it is for")
        for preset in map(presets.load, presets.find()):
            rows.add_row(preset.name, plain(" ".join(preset.about.split())))
        console.print(rows)
        return
    preset = presets.load(name)
    console.print(plain(" ".join(preset.about.split())) + "\n")
    rows = table("Setting", ">Default", ">Here")
    for path, (default, value) in presets.differences(presets.layer(preset.values)).items():
        rows.add_row(path, plain(str(default)), plain(str(value)))
    console.print(rows)


@app.command(name="settings")
def list_settings(name: Annotated[str, typer.Argument(help="A setting or the beginning of its path.")] = ""):
    """Explain every setting, or those whose path begins with NAME."""
    for entry in settings():
        if not entry.path.startswith(name) and name not in entry.kohya:
            continue
        limits = ", ".join(f"{key} {value}" for key, value in entry.limits.items())
        kohya = f"  kohya: {', '.join(entry.kohya)}" if entry.kohya else ""
        console.print(f"[bold]{entry.path}[/] = {plain(str(entry.default))}  [dim]{plain(limits)}{plain(kohya)}[/]")
        console.print("    " + plain(entry.help))


@app.command()
def doctor():
    """Check this machine and installation, and say what to do about what is not right."""
    from trainer.doctor import examine

    marks = {"ok": "[green]✔[/]", "note": "[yellow]·[/]", "problem": "[red]✖[/]"}
    findings = examine()
    for finding in findings:
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
def ui(port: Annotated[int, typer.Option(help="Where it listens, on this machine only.")] = 8501):
    """Serve the studio in the browser, for this machine only, over the folder that it is started in."""
    import subprocess

    page = Path(__file__).resolve().parent.parent / "studio" / "app.py"
    command = [sys.executable, "-m", "streamlit", "run", str(page), f"--server.port={port}"]
    # Also in studio/.streamlit/config.toml; said here again because a user's own configuration must not open it up.
    safe = ["--server.address=127.0.0.1", "--server.enableXsrfProtection=true", "--browser.gatherUsageStats=false"]
    console.print(f"The studio opens at [bold]http://127.0.0.1:{port}[/]; Ctrl-C ends it, what it started goes on.")
    raise typer.Exit(subprocess.call([*command, *safe]))


def main() -> None:
    """Entry point: what a person can mend is one sentence and exit code 2, never a traceback."""
    # bitsandbytes tells at import which of its kernels are not here; `doctor` says what matters.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # A console that cannot show a character (older Windows) must not end a training run.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(f"lora-studio: {error}", file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except typer.TyperException as error:
        error.show()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
