"""Where the cells of a comparison stand, and the missing pictures rendered, by one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from trainer import kohya, processes, upscalers
from trainer.cells import BASE_EPOCH, Cell, Prompt
from trainer.config import EvaluationConfig, TrainConfig
from trainer.errors import UserError
from trainer.files import write_bytes
from trainer.render import Renderer, infotext_of
from trainer.run import Epoch, Run
from trainer.shelf import Shelf

Advance = Callable[..., None]


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
    config: TrainConfig,
    settings: EvaluationConfig,
    columns: list[Prompt],
    epochs: list[Epoch],
    base: str,
    row_of_base: int = BASE_EPOCH,
) -> Iterator[Place]:
    """Every place of the grid, row by row: the base first, then epoch by strength, each over prompts and seeds."""
    rows = [(None, 1.0)] + [(epoch, strength) for epoch in epochs for strength in settings.strengths]
    hashes = {epoch.number: kohya.tensor_hash(epoch.path) for epoch in epochs}
    for epoch, strength in rows:
        for column in columns:
            for seed in (column.seed,) if column.seed is not None else settings.seeds:
                cell = replace(make_cell(config, settings, column, seed, base), epoch=row_of_base)
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
    cell = Cell(
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
        noise_source=column.noise_source or settings.noise_source,
        ensd=column.ensd or 0,
        eta=column.eta,
        emphasis=column.emphasis or "Original",
    )
    second = cell.second_pass
    return replace(cell, files=shelf.named([cell.prompt, second.prompt], [cell.negative, second.negative], upscaler))


def shelf_of(settings: EvaluationConfig) -> Shelf:
    """Where the files that prompts name are looked for."""
    return Shelf(tuple(filter(None, settings.model_folders)), tuple(filter(None, settings.embedding_folders)))


def render_missing(renderer: Renderer, places: list[Place], folder: Path, progress: Advance) -> None:
    """Render and write the pictures that are not there yet; one batch may hold pictures of several rows.

    Several processes share them: each has its part of one list, and helps the others when it is done. That a file
    is there is all that they need to know of each other, since it is whole from its first moment on.
    """

    def left(some: Iterable[Place]) -> list[Place]:
        return [place for place in some if not (folder / place.file).exists()]

    wanted = set(processes.on_main(lambda: [place.file for place in left(places)]))
    missing = list({place.file: place for place in places if place.file in wanted}.values())
    total = len(places)
    for share in processes.shares(missing):
        for batch in renderer.batches(left(share)):
            if not (batch := left(batch)):
                continue
            progress(total - len(left(missing)), total, _row_names(batch))
            pictures = renderer.render([place.cell for place in batch], [place.lora for place in batch])
            for place, picture in zip(batch, pictures):
                write_bytes(folder / place.file, png(picture, infotext_of(place.cell, renderer, place.epoch)))
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
