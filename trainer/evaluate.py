"""The comparison: a fixed prompt set with fixed seeds, rendered by the base and by every saved epoch.

Each row is rendered from the epoch's *file*, the way A1111, Forge and ComfyUI will load it. Only cells whose
picture is missing are rendered, so a stopped comparison goes on where it was and a new epoch costs one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from trainer import axes, denoising, environment, kohya, metrics, presets, report, toybox, upscalers
from trainer.axes import Axis
from trainer.cells import BASE_EPOCH, Cell, Evaluation, Prompt, Rendered, read_prompts
from trainer.config import EvaluationConfig, TrainConfig
from trainer.dataset import images
from trainer.errors import UserError
from trainer.examples import Example, as_recorded, load_examples
from trainer.files import write_bytes
from trainer.grid import save_grid
from trainer.render import Renderer, infotext_of, load_base
from trainer.run import Epoch, Run
from trainer.shelf import Shelf
from trainer.voting import settle

Advance = Callable[..., None]


@dataclass(frozen=True)
class Result:
    folder: Path
    evaluation: Evaluation


@dataclass(frozen=True)
class Place:
    """Where a cell stands in the grid, and where its picture lies."""

    cell: Cell
    column: Prompt
    epoch: Epoch | None  # None: the base

    @property
    def file(self) -> str:
        return f"cells/{self.cell.key}.png"

    @property
    def lora(self) -> Path | None:
        return self.epoch.path if self.epoch else None


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
    device: str = "",
    progress: Advance = lambda *_, **__: None,
) -> Result:
    """Render what is missing, score everything, and write grid, scores and report into the run's folder.

    `against` puts a second run's epochs below; `across` are free axes. Raises UserError for an epoch that was
    not saved, an unknown prompt set or sampler, or a second comparison at work in the same folder.
    """
    path = presets.locate(settings.prompts, "prompts")
    sides = [_side(run, settings, path, epochs, across)]
    if against is not None:
        sides.append(_second(sides[0], against, path, against_epochs, across))
    name = path.stem + (f"-against-{against.name}" if against else "") + axes.folder_suffix(across)
    folder = run.evaluation_folder(name)
    config = run.config
    with _held(folder):
        places, losses, bases = _render(sides, folder, device or environment.default_device(), progress)
        evaluation = index(sides, places, folder)
        evaluation.about |= bases
        pictures = images.find(Path(config.data.folder)) if Path(config.data.folder).is_dir() else []
        metrics.score(
            evaluation,
            folder,
            pictures,
            toybox.located(clip) if clip else None,
            config.data.trigger,
            dino=toybox.located(dino) if dino else None,
            losses=losses,
        )
        settle(evaluation, folder)
        evaluation.save(folder)
        save_grid(evaluation, folder)
        report.write_report(evaluation, folder)
    return Result(folder, evaluation)


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
    """The places of all sides with their pictures rendered, their losses, and what there is to say about the bases.

    There is one set of base weights in memory: a second base is loaded once the first one's pictures are there.
    """
    places, losses, about, model, loaded = [], {}, {}, None, None
    for side in sides:
        wanted = (side.config.model.base, side.config.model.vae, side.config.model.precision)
        if wanted != loaded:
            model = None  # frees the first
            model, loaded = load_base(side.config, device), wanted
        own = list(layout(side.config, side.settings, side.columns, side.epochs, model.sha256()))
        own = [place for place in own if place.epoch is not None or side is sides[0]]
        if side is not sides[0] and own and own[0].cell.base != places[0].cell.base:
            about["Second base"] = f"{side.config.model.base}; the base row and bleed are the first one's"
        shelf = shelf_of(side.settings)
        renderer = Renderer(model, side.settings.batch_size, shelf)
        render_missing(renderer, own, folder, progress)
        if unread := renderer.unread([text for one in side.columns for text in (one.prompt, one.negative)]):
            about["Embeddings not used"] = ", ".join(unread)
        losses |= _losses(renderer, side, own, folder)
        places += own
    return places, losses, about


def _losses(renderer: Renderer, side: Side, places: list[Place], folder: Path) -> metrics.Losses:
    """The denoising losses of a side's rows on its own training pictures and the held-out ones, as far as there are."""
    settings = side.settings
    pictures = _pictures(side) if settings.loss_pictures else {}
    if not pictures:
        return {}
    rows = dict.fromkeys((place.cell.epoch, place.cell.strength, place.lora, place.cell.lora) for place in places)
    found = [denoising.Row(*row) for row in rows]
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


def choose_epochs(run: Run, numbers: list[int] | None) -> list[Epoch]:
    """The saved epochs with these numbers, all of them for None. Raises UserError for one that is not there."""
    saved = {epoch.number: epoch for epoch in run.epochs()}
    if not saved:
        raise UserError(f"{run.name} has no saved epoch yet: train it first, or resume it.")
    missing = [number for number in numbers or [] if number not in saved]
    if missing:
        there = ", ".join(map(str, saved))
        raise UserError(f"{run.name} has no epoch {missing[0]}; it has saved {there}.")
    return [saved[number] for number in sorted(set(numbers))] if numbers is not None else list(saved.values())


def layout(
    config: TrainConfig, settings: EvaluationConfig, columns: list[Prompt], epochs: list[Epoch], base: str
) -> Iterator[Place]:
    """Every place of the grid, row by row: the base first, then epoch by strength, each over prompts and seeds."""
    rows = [(None, 1.0)] + [(epoch, strength) for epoch in epochs for strength in settings.strengths]
    hashes = {epoch.number: kohya.tensor_hash(epoch.path) for epoch in epochs}
    for epoch, strength in rows:
        for column in columns:
            for seed in (column.seed,) if column.seed is not None else settings.seeds:
                cell = make_cell(config, settings, column, seed, base)
                if epoch is not None:
                    cell = replace(cell, epoch=epoch.number, strength=strength, lora=hashes[epoch.number])
                yield Place(cell, column, epoch)


def make_cell(config: TrainConfig, settings: EvaluationConfig, column: Prompt, seed: int, base: str) -> Cell:
    """A cell of the base row: what the prompt pins, else the evaluation's settings."""
    side = settings.size or config.data.resolution
    shelf = shelf_of(settings)
    upscaler = None
    if column.hires and upscalers.is_model(column.hires.upscaler):
        upscaler = shelf.upscaler(column.hires.upscaler)
    return Cell(
        prompt=column.prompt,
        negative=column.negative,
        seed=seed,
        epoch=BASE_EPOCH,
        strength=1.0,
        width=column.width or side,
        height=column.height or side,
        sampler=column.sampler or settings.sampler,
        steps=column.steps or settings.steps,
        cfg_scale=settings.cfg_scale if column.cfg_scale is None else column.cfg_scale,
        clip_skip=column.clip_skip or config.model.clip_skip,
        base=base,
        hires=column.hires,
        files=shelf.named(column.prompt, column.negative, upscaler),
    )


def shelf_of(settings: EvaluationConfig) -> Shelf:
    """Where the files that prompts name are looked for."""
    return Shelf(tuple(filter(None, settings.model_folders)), tuple(filter(None, settings.embedding_folders)))


def render_missing(renderer: Renderer, places: list[Place], folder: Path, progress: Advance) -> None:
    """Render and write the pictures that are not there yet; one batch may hold pictures of several rows."""
    missing = {place.file: place for place in places if not (folder / place.file).exists()}
    done, total = len(places) - len(missing), len(places)
    for batch in renderer.batches(missing.values()):
        progress(done, total, _row_names(batch))
        pictures = renderer.render([place.cell for place in batch], [place.lora for place in batch])
        for place, picture in zip(batch, pictures):
            write_bytes(folder / place.file, png(picture, infotext_of(place.cell, renderer, place.epoch)))
        done += len(batch)
    progress(total, total)


def _row_names(batch: list[Place]) -> str:
    """ "base", "epoch 3" or "epochs 3–5": whose pictures are being rendered."""
    numbers = sorted({place.cell.epoch for place in batch})
    if len(numbers) == 1:
        return f"epoch {numbers[0]}" if numbers[0] != BASE_EPOCH else "base"
    first, last = ("base" if number == BASE_EPOCH else str(number) for number in (numbers[0], numbers[-1]))
    return f"{first}–{last}" if first == "base" else f"epochs {first}–{last}"


def png(picture, text: str) -> bytes:
    """A picture as PNG with its infotext where A1111's PNG Info looks for it."""
    import io

    from trainer.webui import infotext

    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=infotext.pnginfo(infotext.parse(text)))
    return buffer.getvalue()


def index(sides: Sequence[Side], places: list[Place], folder: Path) -> Evaluation:
    """The index of the comparison, infotext read back from the pictures themselves."""
    first = sides[0]
    config, settings = first.config, first.settings
    about = {
        "Base model": Path(config.model.base).stem if config.model.base.endswith(".safetensors") else config.model.base,
        "Trigger word": config.data.trigger or "none",
        "Sampling": f"{settings.sampler}, {settings.steps} steps, CFG {settings.cfg_scale:g}",
        "LoRA": f"dim {config.adapter.rank}, alpha {config.adapter.alpha:g}",
        "Pictures": Path(config.data.folder).name,
    }
    labels = {number: label for side in sides for number, label in side.labels.items()}
    if labels:
        about["Against"] = sides[1].run.name
    return Evaluation(
        run=first.run.name,
        title=" against ".join(side.name or side.config.name for side in sides),
        about=about,
        prompts=first.columns,
        seeds=list(dict.fromkeys(place.cell.seed for place in places)),
        strengths=list(settings.strengths),
        epochs=[BASE_EPOCH, *(epoch.number for side in sides for epoch in side.epochs)],
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
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is already being rendered: wait for it to end.") from None
    try:
        yield
    finally:
        lock.release()
