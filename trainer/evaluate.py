"""The comparison: a fixed prompt set with fixed seeds, rendered by the base and by every saved epoch.

Each row is rendered from the epoch's *file*, the way A1111, Forge and ComfyUI will load it. Only cells whose
picture is missing are rendered, so a stopped comparison goes on where it was and a new epoch costs one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from trainer import environment, kohya, metrics, presets, report, toybox, upscalers, vote
from trainer.cells import BASE_EPOCH, Cell, Evaluation, Prompt, Rendered, read_prompts
from trainer.config import EvaluationConfig, TrainConfig
from trainer.dataset import images
from trainer.errors import UserError
from trainer.files import write_bytes
from trainer.grid import save_grid
from trainer.recommend import recommend
from trainer.render import Renderer, infotext_of, load_base
from trainer.run import Epoch, Run
from trainer.shelf import Shelf

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


def evaluate(
    run: Run,
    settings: EvaluationConfig,
    *,
    epochs: list[int] | None = None,
    clip: str = "",
    device: str = "",
    progress: Advance = lambda *_, **__: None,
) -> Result:
    """Render what is missing, score everything, and write grid, scores and report into the run's folder.

    Raises UserError for an epoch that was not saved, an unknown prompt set or sampler, or a second comparison
    at work in the same folder.
    """
    config = run.config
    path = presets.locate(settings.prompts, "prompts")
    folder = run.evaluation_folder(path.stem)
    columns = read_prompts(path, config.data.trigger, config.data.class_word)
    chosen = choose_epochs(run, epochs)
    with _held(folder):
        model = load_base(config, device or environment.default_device())
        places = list(layout(config, settings, columns, chosen, model.sha256()))
        render_missing(Renderer(model, settings.batch_size, shelf_of(settings)), places, folder, progress)
        evaluation = index(run, config, settings, columns, chosen, places, folder)
        pictures = images.find(Path(config.data.folder)) if Path(config.data.folder).is_dir() else []
        metrics.score(evaluation, folder, pictures, toybox.located(clip) if clip else None, config.data.trigger)
        evaluation.recommended = recommend(evaluation.rows, vote.ranking(evaluation, folder))
        evaluation.save(folder)
        save_grid(evaluation, folder)
        report.write_report(evaluation, folder)
    return Result(folder, evaluation)


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
    return Shelf(settings.model_folders, settings.embedding_folders)


def render_missing(renderer: Renderer, places: list[Place], folder: Path, progress: Advance) -> None:
    """Render and write the pictures that are not there yet; one batch may hold pictures of several rows."""
    missing = {place.file: place for place in places if not (folder / place.file).exists()}
    done, total = len(places) - len(missing), len(places)
    for batch in renderer.batches(missing.values()):
        progress(done, total, _row_names(batch))
        pictures = renderer.render([place.cell for place in batch], [place.lora for place in batch])
        for place, picture in zip(batch, pictures):
            write_bytes(folder / place.file, png(picture, infotext_of(place.cell, renderer.model, place.epoch)))
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


def index(
    run: Run,
    config: TrainConfig,
    settings: EvaluationConfig,
    columns: list[Prompt],
    epochs: list[Epoch],
    places: list[Place],
    folder: Path,
) -> Evaluation:
    """The index of the comparison, infotext read back from the pictures themselves."""
    about = {
        "Base model": Path(config.model.base).stem if config.model.base.endswith(".safetensors") else config.model.base,
        "Trigger word": config.data.trigger or "none",
        "Sampling": f"{settings.sampler}, {settings.steps} steps, CFG {settings.cfg_scale:g}",
        "LoRA": f"dim {config.adapter.rank}, alpha {config.adapter.alpha:g}",
        "Pictures": Path(config.data.folder).name,
    }
    return Evaluation(
        run=run.name,
        title=config.name,
        about=about,
        prompts=columns,
        seeds=list(dict.fromkeys(place.cell.seed for place in places)),
        strengths=list(settings.strengths),
        epochs=[BASE_EPOCH, *(epoch.number for epoch in epochs)],
        cells=[_rendered(place, folder) for place in places],
        rendering=settings.model_dump(mode="json"),
        settings=(run.path / "config.toml").read_text(encoding="utf-8"),
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
