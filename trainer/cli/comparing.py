"""Epochs side by side, the vote, the export, and what is in a LoRA file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trainer import presets
from trainer.cli.app import Json, RunArgument, app, once, print_json
from trainer.errors import UserError
from trainer.run import Run
from trainer.terminal import bar, console, plain, table
from trainer.texts import file_size


@app.command()
def evaluate(
    run: RunArgument,
    prompts: Annotated[str, typer.Option(help="A prompt set's name or file; the run's own if left out.")] = "",
    epochs: Annotated[str, typer.Option(help="Which epochs: 1,3,5-10. All if left out.")] = "",
    strengths: Annotated[str, typer.Option(help="LoRA weights: 0.6,0.8,1.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds: 1,2,3.")] = "",
    against: Annotated[str, typer.Option(help="A second run, whose epochs are put below.")] = "",
    against_epochs: Annotated[str, typer.Option(help="Which of its epochs: 1,3,5-10. All if left out.")] = "",
    x: Annotated[str, typer.Option(help="A free axis: any field of a cell, such as cfg=5,7 or epoch=1,5.")] = "",
    y: Annotated[str, typer.Option(help="A second one, such as sampler=Euler,DPM++ 2M Karras.")] = "",
    z: Annotated[str, typer.Option(help="A third one, such as hires.denoise=0.4,0.6 or strength=0.6,1.")] = "",
    clip: Annotated[str, typer.Option(help="Folder (or fetched hub id) of a CLIP model, for likeness scores.")] = "",
    dino: Annotated[str, typer.Option(help="Folder (or fetched hub id) of a DINO model, for a second opinion.")] = "",
    aesthetic: Annotated[str, typer.Option(help="File of an aesthetic predictor made for that CLIP.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="How it is rendered, over the run's own: evaluation.steps=30.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="While the run trains: each epoch as it comes.")] = False,
    device: Annotated[str, typer.Option(help="cuda, cpu, …; the best there is if left out.")] = "",
):
    """Render the prompt set with the base and every epoch, side by side."""
    from trainer import axes, processes
    from trainer.evaluate import evaluate as evaluate_run
    from trainer.evaluate import wait_for_epoch

    def asked() -> dict:
        """What is to be compared, read by one of the processes that are to render it."""
        found = Run.open(run)
        across = [axes.parse(text) for text in (x, y, z) if text]
        chosen = {"prompts": prompts, "strengths": strengths or axes.values_of(across, "strength"), "seeds": seeds}
        overrides = dict(map(presets.parse_override, set_ or []))
        if other := [path for path in overrides if not path.startswith("evaluation.")]:
            raise UserError(f"--set {other[0]}: the run was trained so; only evaluation.… can be changed here.")
        overrides |= dict(presets.parse_override(f"evaluation.{key}={value}") for key, value in chosen.items() if value)
        config = presets.layer(presets.flatten(found.config.model_dump()), overrides)
        return {
            "run": found,
            "settings": config.evaluation,
            "epochs": parse_numbers(epochs or axes.values_of(across, "epoch")),
            "against": Run.open(against) if against else None,
            "against_epochs": parse_numbers(against_epochs, "--against-epochs"),
            "across": across,
        }

    wanted = once(asked)
    if follow and not once(wanted["run"].epochs):
        wait_for_epoch(wanted["run"], [])
    more = True
    while more:
        known = once(wanted["run"].epochs)
        with bar("Rendering") as advance:
            models = {"clip": clip, "dino": dino, "aesthetic": aesthetic}
            result = evaluate_run(**wanted, **models, device=device, progress=advance)
        print_rows(result.evaluation)
        more = follow and wait_for_epoch(wanted["run"], known)
    processes.leave()
    if unread := result.evaluation.about.get("Embeddings not used"):
        console.print(f"[yellow]Note[/] Read as words, not as embeddings: {plain(unread)}")
    console.print(f"Grid    {plain(str(result.folder / 'grid.png'))}")
    console.print(f"Report  {plain(str(result.folder / 'report.html'))}")


def parse_numbers(text: str, option: str = "--epochs") -> list[int] | None:
    """ "1,3,5-10" -> [1, 3, 5, 6, 7, 8, 9, 10]; empty -> None, which means all."""
    if not text:
        return None
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(first) > int(last or first):
            raise UserError(f"{option} {text}: write numbers and ranges, for example 1,3,5-10.")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def print_rows(evaluation) -> None:
    """One line per row of the grid with its scores, the recommended one marked."""
    from trainer.cells import is_base
    from trainer.grid import row_label

    names = list(dict.fromkeys(name for row in evaluation.rows for name in row.scores))
    rows = table("", "Epoch", *(">" + name for name in names))
    best = evaluation.recommended or {}
    for row in evaluation.rows:
        chosen = (row.epoch, row.strength) == (best.get("epoch"), best.get("strength"))
        label = row_label(row.epoch, evaluation.labels)[0]
        label += f" × {row.strength:g}" if not is_base(row.epoch) and len(evaluation.strengths) > 1 else ""
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
    print_ranking(ranking, evaluation.labels)
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


def print_ranking(ranking, labels) -> None:
    """The candidates, best first, with how often each is preferred to the average one."""
    several = len({one.strength for one in ranking.standings}) > 1
    rows = table("Epoch", ">Preferred", ">95 % interval", ">Seen", ">Both bad")
    for one in ranking.standings:
        label = labels.get(one.epoch, f"epoch {one.epoch}") + (f" × {one.strength:g}" if several else "")
        rows.add_row(label, f"{one.preferred:.0%}", f"{one.low:.0%}–{one.high:.0%}", str(one.shown), str(one.bad))
    console.print(rows)
    console.print(plain(ranking.sentence(labels)))


@app.command()
def export(
    run: RunArgument,
    epoch: Annotated[int | None, typer.Option(help="Which epoch.")] = None,
    to: Annotated[Path, typer.Option(help="A folder, or a file name ending in .safetensors.")] = Path("models"),
    name: Annotated[str, typer.Option(help="File name without ending; the run's name if left out.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of that name.")] = False,
    strength: Annotated[float, typer.Option(help="Baked in: at 1 the file then is what the epoch is at this.")] = 1.0,
    rank: Annotated[int, typer.Option(help="Cut every module to this rank (SVD), as a plain LoRA; 0 keeps it.")] = 0,
    dtype: Annotated[str, typer.Option(help="fp32, fp16 or bf16; as it was trained if left out.")] = "",
    merge: Annotated[
        str, typer.Option(help="Several with weights, in place of --epoch: 4:0.5,6:0.5; other LoRAs by name or file.")
    ] = "",
    device: Annotated[str, typer.Option(help="cuda, cpu, …; the best there is if left out.")] = "",
):
    """Write the chosen epoch to models/, ready for A1111, Forge, ComfyUI and diffusers."""
    from trainer.export import export as export_run

    changes = {"strength": strength, "rank": rank, "dtype": dtype, "merge": parse_merge(merge)}
    result = export_run(Run.open(run), epoch, to=to, name=name, overwrite=overwrite, device=device, **changes)
    console.print(f"Exported to [bold]{plain(str(result.path))}[/] ({file_size(result.path)})")
    console.print(plain(result.verification))
    console.print(plain(f"In your prompt: <lora:{result.path.stem}:1>" + (f" {result.trigger}" * bool(result.trigger))))


def parse_merge(text: str) -> list[tuple[int | str, float]]:
    """ "4:0.5,6:0.3,hat:0.2" -> [(4, 0.5), (6, 0.3), ("hat", 0.2)]; empty -> []."""
    parts: list[tuple[int | str, float]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = part.rpartition(":")
        try:
            parts.append((int(name) if name.isdecimal() else name, float(weight)))
        except ValueError:
            name = ""
        if not name:
            raise UserError(f"--merge {text}: write epochs with weights, for example 4:0.5,6:0.5.") from None
    return parts


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="Any LoRA file.")], as_json: Json = False):
    """Say what a LoRA file is: family, size, trigger words, settings, and which tools load it."""
    from trainer import kohya

    found = kohya.describe(file)
    if as_json:
        print_json({**asdict(found), "path": str(found.path)})
        return
    for label, value in found.lines():
        console.print(f"{label:<18} {plain(value)}")
