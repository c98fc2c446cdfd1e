"""The comparison: a fixed prompt set with fixed seeds, rendered by the base and by every saved epoch.

Each row is rendered from the epoch's *file*, the way A1111, Forge and ComfyUI will load it. Only cells whose
picture is missing are rendered, so a stopped comparison goes on where it was and a new epoch costs one row.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from trainer import axes, denoising, environment, metrics, presets, processes, report, toybox
from trainer.axes import Axis
from trainer.cells import BASE_EPOCH, SECOND_BASE, Evaluation, Prompt, Rendered
from trainer.config import EvaluationConfig, TrainConfig
from trainer.drawing import save_grid
from trainer.errors import UserError
from trainer.examples import Example, as_recorded, load_examples
from trainer.places import Advance, Place, choose_epochs, layout, render_missing, shelf_of
from trainer.prompt_sets import read_prompts
from trainer.render import Renderer, load_base
from trainer.run import Epoch, Run
from trainer.texts import base_name
from trainer.voting import settle


@dataclass(frozen=True)
class Result:
    folder: Path
    evaluation: Evaluation


@dataclass(frozen=True)
class Side:
    """A run in a comparison: its prompts as columns and its epochs as rows, numbered from `offset` on."""

    run: Run
    config: TrainConfig
    settings: EvaluationConfig
    columns: list[Prompt]
    epochs: list[Epoch]
    offset: int = 0
    name: str = ""  # of a second run, as its rows are called

    @property
    def labels(self) -> dict[int, str]:
        """What the rows of a second run are called; the first one's are epochs."""
        if not self.name:
            return {}
        return {epoch.number: f"{self.name} epoch {epoch.number - self.offset}" for epoch in self.epochs}


def evaluate(
    run: Run,
    settings: EvaluationConfig,
    *,
    epochs: list[int] | None = None,
    against: Run | None = None,
    against_epochs: list[int] | None = None,
    across: Sequence[Axis] = (),
    clip: str = "",
    dino: str = "",
    aesthetic: str = "",
    device: str = "",
    progress: Advance = lambda *_, **__: None,
) -> Result:
    """Render what is missing, score everything, and write grid, scores and report into the run's folder.

    `against` puts a second run's epochs below; `across` are free axes. Of several processes (`accelerate launch`)
    all render, the first one does the rest, and the others' result is without scores. Raises UserError for an
    epoch that was not saved, an unknown prompt set or sampler, or a second comparison at work in the same folder.
    """
    # Read by one process: while a run trains, another might already see one epoch more.
    sides = processes.on_main(lambda: _sides(run, settings, epochs, against, against_epochs, across))
    name = Path(settings.prompts).stem + (f"-against-{against.name}" if against else "") + axes.folder_suffix(across)
    folder = run.evaluation_folder(name)
    folders = {"clip": clip, "dino": dino, "aesthetic": aesthetic}
    with _held(folder):
        places, losses, about = _render(sides, folder, processes.device(device, environment.default_device), progress)
        evaluation = index(sides, places, folder)
        evaluation.about |= about
        if processes.is_main():
            models = {name: toybox.located(path) for name, path in folders.items() if path}
            _conclude(evaluation, folder, sides[0], losses, models)
    return Result(folder, evaluation)


def wait_for_epoch(run: Run, known: list[Epoch], poll: float = 2.0) -> bool:
    """Until the run has an epoch that is not among those `known`; False when it ends, or stands still, without one."""
    while True:
        still = run.status.final  # looked at first: what was saved before the end is seen
        if run.epochs() != known:
            return True
        if still:
            return False
        time.sleep(poll)


def _conclude(
    evaluation: Evaluation, folder: Path, side: Side, losses: metrics.Losses, models: dict[str, Path]
) -> None:
    """Scores, recommendation, grid and report of what has been rendered."""
    pictures = [example.path for example in _pictures(side).get("training", ())]
    metrics.score(evaluation, folder, pictures, trigger=side.config.data.trigger, losses=losses, **models)
    settle(evaluation, folder)
    evaluation.save(folder)
    save_grid(evaluation, folder)
    report.write_report(evaluation, folder)


def _sides(
    run: Run,
    settings: EvaluationConfig,
    epochs: list[int] | None,
    against: Run | None,
    against_epochs: list[int] | None,
    across: Sequence[Axis],
) -> list[Side]:
    path = presets.locate(settings.prompts, "prompts")
    sides = [_side(run, settings, path, epochs, across)]
    if against is not None:
        sides.append(_second(sides[0], against, path, against_epochs, across))
    return sides


def _side(
    run: Run, settings: EvaluationConfig, path: Path, epochs: list[int] | None, across: Sequence[Axis], offset: int = 0
) -> Side:
    config = run.config
    columns = axes.spread(read_prompts(path, config.data.trigger, config.data.class_word), across)
    chosen = [replace(epoch, number=epoch.number + offset) for epoch in choose_epochs(run, epochs)]
    return Side(run, config, settings, columns, chosen, offset)


def _second(first: Side, run: Run, path: Path, epochs: list[int] | None, across: Sequence[Axis]) -> Side:
    """The other run at the first one's size: the same prompts with its own trigger word, so that pictures compare."""
    if run.path.resolve() == first.run.path.resolve():
        raise UserError(f"{run.name} cannot be compared against itself: name another run.")
    settings = first.settings.model_copy(update={"size": first.settings.size or first.config.data.resolution})
    side = _side(run, settings, path, epochs, across, offset=max(epoch.number for epoch in first.epochs))
    return replace(side, name=run.name if side.config.name == first.config.name else side.config.name)


def _render(
    sides: list[Side], folder: Path, device: str, progress: Advance
) -> tuple[list[Place], metrics.Losses, dict[str, str]]:
    """The places of all sides with their pictures rendered, their losses, and what there is to say about them.

    There is one set of base weights in memory: a second base is loaded once the first one's pictures are there. It
    gets a row of its own.
    """
    places, losses, about, model, renderer, loaded = [], {}, {}, None, None, None
    for side in sides:
        base = side.config.model
        wanted = (base.base, base.vae, base.precision, base.prediction, side.config.loss.zero_terminal_snr)
        if wanted != loaded:
            model = renderer = None
            gc.collect()  # the first one and its hooks know each other
            model, loaded = load_base(side.config, device), wanted
        row = SECOND_BASE if places else BASE_EPOCH
        own = list(layout(side.config, side.settings, side.columns, side.epochs, model.sha256(), row))
        if places and own[0].cell.base == places[0].cell.base:
            own = [place for place in own if place.epoch is not None]
        renderer = Renderer(model, side.settings.batch_size, shelf_of(side.settings))
        render_missing(renderer, own, folder, progress)
        if unread := renderer.unread([text for one in side.columns for text in one.texts]):
            about["Embeddings not used"] = ", ".join(unread)
        losses |= _losses(renderer, side, own, row, folder)
        places += own
    processes.wait()
    return places, losses, about


def _losses(renderer: Renderer, side: Side, places: list[Place], base: int, folder: Path) -> metrics.Losses:
    """The denoising losses of a side's rows on its own training pictures and the held-out ones, as far as there are.

    Those of its base are among them, under the number `base`, whether or not it has a row.
    """
    settings = side.settings
    pictures = _pictures(side) if settings.loss_pictures else {}
    if not pictures:
        return {}
    rows = dict.fromkeys((place.cell.epoch, place.cell.strength, place.lora, place.cell.lora) for place in places)
    found = [denoising.Row(*row) for row in {(base, 1.0, None, ""): None} | rows]
    count, clip_skip = settings.loss_pictures, side.config.model.clip_skip
    return denoising.measure(renderer, found, pictures, count, clip_skip, folder)


def _pictures(side: Side) -> dict[str, list[Example]]:
    """What the run was trained on, and what it was not: a folder that is named, or else what the run held back."""
    data, other = side.config.data, side.settings.held_out
    own = as_recorded(data, side.run.path / "dataset.json") if Path(data.folder).is_dir() else []
    held = [example for example in own if example.role == "validation"]
    if other:
        alone = {"folder": other, "more_folders": (), "regularisation": "", "mask_folder": "", "validation_split": 0.0}
        held = load_examples(data.model_copy(update=alone))
    found = {"training": [example for example in own if example.role == "training"], "held_out": held}
    return {name: examples for name, examples in found.items() if examples}


def index(sides: Sequence[Side], places: list[Place], folder: Path) -> Evaluation:
    """The index of the comparison, infotext read back from the pictures themselves."""
    first = sides[0]
    config, settings = first.config, first.settings
    about = {
        "Base model": base_name(config.model.base),
        "Trigger word": config.data.trigger or "none",
        "Sampling": f"{settings.sampler}, {settings.steps} steps, CFG {settings.cfg_scale:g}",
        "LoRA": f"dim {config.adapter.rank}, alpha {config.adapter.alpha:g}",
        "Pictures": Path(config.data.folder).name,
    }
    numbers = list(dict.fromkeys(place.cell.epoch for place in places))
    labels = {number: label for side in sides for number, label in side.labels.items()}
    if labels:
        about["Against"] = sides[1].run.name
    if SECOND_BASE in numbers:
        labels[SECOND_BASE] = f"{sides[1].name} base"
        about["Second base"] = base_name(sides[1].config.model.base)
    return Evaluation(
        run=first.run.name,
        title=" against ".join(side.name or side.config.name for side in sides),
        about=about,
        prompts=first.columns,
        seeds=list(dict.fromkeys(place.cell.seed for place in places)),
        strengths=list(settings.strengths),
        epochs=numbers,
        cells=[_rendered(place, folder) for place in places],
        rendering=settings.model_dump(mode="json"),
        settings=(first.run.path / "config.toml").read_text(encoding="utf-8"),
        labels=labels,
    )


def _rendered(place: Place, folder: Path) -> Rendered:
    from PIL import Image

    with Image.open(folder / place.file) as picture:
        text = picture.info.get("parameters", "")
    cell = place.cell
    return Rendered(place.column.name, cell.epoch, cell.strength, cell.seed, place.file, text)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder's lock, held by the first process."""
    lock = FileLock(folder / "lock")

    def take() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{folder} is already being rendered: wait for it to end.") from None

    processes.on_main(take)
    try:
        yield
    finally:
        lock.release()
