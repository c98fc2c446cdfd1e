"""A look at a run while it trains: a few pictures of its prompt set, from a LoRA file of the step where it stands.

samples/
  moss-step00000512.safetensors     what had been learned by then; it loads like an epoch
  step00000512-1-portrait.png …     the prompt set's first columns, infotext inside
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trainer import environment, kohya, presets, processes
from trainer.cells import BASE_EPOCH, Cell
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.families.base import BaseModel
from trainer.files import write_bytes
from trainer.places import make_cell, png, shelf_of
from trainer.prompt_sets import read_prompts
from trainer.render import Renderer, infotext_of, load_base
from trainer.run import Epoch, slug

PICTURES = 4  # columns of the prompt set, from its first on


@dataclass(frozen=True)
class Wanted:
    """A picture to be rendered, and where it goes."""

    cell: Cell
    lora: Path
    file: Path


def sample(lora: Path, config: TrainConfig, training: BaseModel, step: int, stopping: Callable[[], bool]) -> list[Path]:
    """Pictures of the run's first prompts at its first seed, beside the file that they are rendered from.

    They have a base of their own, and the LoRA comes from the file, as after the training. Looks before each batch
    whether it is to stop. Raises UserError with the reason where they cannot be rendered.
    """
    # What bitsandbytes has packed stays where it is, since not every version of it can be moved, and so does a share
    # of a base: both are small.
    stays = config.model.quantize in ("nf4", "int8") or processes.sharers() > 1
    device = training.unet.device
    with _aside([] if stays else list(training.modules().values()), device):
        try:
            return _render(lora, config, training.sha256(), step, str(device), stopping)
        except (UserError, torch.OutOfMemoryError) as error:
            # The error itself holds the pictures' base, which has to go before the training is back.
            reason = str(error)
    raise UserError(reason)


def _render(
    lora: Path, config: TrainConfig, base: str, step: int, device: str, stopping: Callable[[], bool]
) -> list[Path]:
    settings = config.evaluation
    columns = read_prompts(presets.locate(settings.prompts, "prompts"), config.data.trigger, config.data.class_word)
    wanted = []
    for number, column in enumerate(columns[:PICTURES], 1):
        seed = settings.seeds[0] if column.seed is None else column.seed
        cell = make_cell(config, settings, column, seed, base)
        file = lora.with_name(f"step{step:08d}-{number}-{slug(column.name)}.png")
        wanted.append(Wanted(replace(cell, lora=kohya.tensor_hash(lora)), lora, file))
    model = load_base(config, device)
    renderer, made = Renderer(model, settings.batch_size, shelf_of(settings)), []
    for batch in renderer.batches(wanted):
        if stopping():
            break
        pictures = renderer.render([one.cell for one in batch], [one.lora for one in batch])
        for one, picture in zip(batch, pictures):
            text = infotext_of(one.cell, renderer, Epoch(BASE_EPOCH, one.lora))
            made.append(write_bytes(one.file, png(picture, text)))
    return made


@contextmanager
def _aside(modules: list[torch.nn.Module], device: torch.device) -> Iterator[None]:
    """What trains waits in main memory: the pictures' base and the training's need not fit on the device together.

    The parameters stay the same objects, so the optimizer still knows them, and come back bit for bit.
    """
    there = [module for module in modules if next(module.parameters()).device == device]
    try:
        for module in there:
            module.to("cpu")
        yield
    finally:
        environment.release_memory()
        for module in there:
            module.to(device)
