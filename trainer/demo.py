"""The whole main job in one go on the toybox: what `make demo` shows a newcomer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer import presets
from trainer.cells import Evaluation
from trainer.errors import UserError, nearest
from trainer.files import write_bytes
from trainer.run import Run
from trainer.terminal import bar, console, plain, table, training_bar
from trainer.texts import duration


def demo(family: str = "sd15", character: str = "moss") -> Path:
    """Tag, train, compare and export a character that the toybox's base has never seen; returns the LoRA's path."""
    from trainer.toybox import CHARACTERS, PARTS, PICTURES

    if family not in ("sd15", "sdxl"):
        raise UserError(f"--family {family}: {nearest(family, ['sd15', 'sdxl'])}")
    if character not in CHARACTERS:
        raise UserError(f"--character {character}: {nearest(character, CHARACTERS)}")
    started = time.time()
    console.print(f"Teaching the toybox's {family} base [bold]{character}[/], which it has never seen.\n")
    folder = copy_pictures(PICTURES[character], Path("datasets") / f"demo-{character}")
    with stage("Tag", str(folder)):
        tag(folder, PARTS["tagger"], character)
    with stage("Train", "every epoch is saved"):
        run = train(family, folder, character)
    with stage("Compare", "the base and every epoch, same prompts, same seeds"):
        result = compare(run, PARTS["clip"])
    best = choose(result.evaluation)
    with stage("Export", f"epoch {best}"):
        exported = export(run, best, f"demo-{character}-{family}")
    show(result.evaluation, fidelities(result.evaluation, result.folder, character))
    console.print(f"\n★ {plain((result.evaluation.recommended or {}).get('reason', ''))}")
    for label, path in (
        ("Grid", result.folder / "grid.png"),
        ("Report", result.folder / "report.html"),
        ("LoRA", exported.path),
    ):
        console.print(f"{label:<8} {plain(str(path))}")
    console.print(plain(exported.verification))
    console.print(f"All of it took {duration(time.time() - started)}.")
    return exported.path


@contextmanager
def stage(name: str, note: str) -> Iterator[None]:
    """One line for each step of the way, with the time it took."""
    started = time.time()
    yield
    console.print(f"✔ {name:<8} {duration(time.time() - started):>12}   [dim]{plain(note)}[/]")


def copy_pictures(source: Path, folder: Path) -> Path:
    """The drawn pictures as a dataset of the user's own; what is there already stays."""
    for path in sorted(source.glob("*.png")):
        if not (folder / path.name).exists():
            write_bytes(folder / path.name, path.read_bytes())
    if not folder.is_dir():
        raise UserError(f"The toybox has no pictures in {source}: install the project again.")
    return folder


def tag(folder: Path, tagger: Path, trigger: str) -> None:
    from trainer.tag import tag_folder

    with bar("Tagging") as advance:
        tag_folder(folder, f"wd14:{tagger}", trigger=trigger, progress=advance)


def train(family: str, folder: Path, character: str) -> Run:
    from trainer.loop import train as train_run

    preset = presets.load(str(presets.SHIPPED / "toybox.toml"))
    own = {
        "name": f"demo-{character}",
        "model.base": f"toybox/{family}",
        "data.folder": str(folder),
        "data.trigger": character,
        "data.validation_split": 2,  # of twelve: their loss tells when learning becomes learning by heart
        "evaluation.prompts": str(presets.SHIPPED / "prompts" / "toybox.toml"),
    }
    run = Run.create(presets.layer(preset.values, own))
    with training_bar() as listener:
        train_run(run, listener)
    return run


def compare(run: Run, clip: Path):
    from trainer.evaluate import evaluate

    with bar("Rendering") as advance:
        return evaluate(run, run.config.evaluation, clip=str(clip), progress=advance)


def choose(evaluation: Evaluation) -> int:
    """The recommended epoch; the last one when the scores do not separate them."""
    return (evaluation.recommended or {}).get("epoch") or evaluation.epochs[-1]


def export(run: Run, epoch: int, name: str):
    from trainer.export import export as export_run

    return export_run(run, epoch, name=name, overwrite=True)  # the demo replaces only what a demo made


def fidelities(evaluation: Evaluation, folder: Path, character: str) -> dict[int, float]:
    """Epoch -> how much its pictures are the character, by the world's own drawing: 0 nothing of it, 1 as drawn.

    Only a drawn world knows this; the recommendation is made without it.
    """
    from PIL import Image

    from trainer.toybox.measure import fidelity
    from trainer.toybox.scene import attributes_of

    asked = {prompt.name: attributes_of(prompt.prompt) for prompt in evaluation.prompts if not prompt.leak}
    found: dict[int, list[float]] = {}
    for cell in evaluation.cells:
        if cell.column in asked:
            with Image.open(folder / cell.file) as picture:
                found.setdefault(cell.epoch, []).append(fidelity(picture, character, asked[cell.column]))
    return {epoch: sum(values) / len(values) for epoch, values in found.items()}


def show(evaluation: Evaluation, fidelity: dict[int, float]) -> None:
    """The demo's table: fidelity of every epoch beside the scores that any base has."""
    names = [name for name in ("likeness", "bleed", "diversity") if any(name in row.scores for row in evaluation.rows)]
    rows = table("", "Epoch", ">Fidelity", "", *(">" + name.capitalize() for name in names))
    best = choose(evaluation)
    for row in evaluation.rows:
        value = fidelity[row.epoch]
        scores = [f"{row.scores[name]:.2f}" if name in row.scores else "–" for name in names]
        label = "base" if row.epoch == 0 else str(row.epoch)
        rows.add_row("★" if row.epoch == best else "", label, f"{value:.2f}", "█" * round(value * 20), *scores)
    console.print(rows)
