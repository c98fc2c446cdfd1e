"""The denoising loss of every row of a comparison, at noise and time steps that never change.

The loss of a training step depends mostly on the luck of its time step and noise. Here both are fixed for each
picture, and the time steps of all pictures together are spread evenly (stratified), so that rows can be compared.
What was measured is kept in losses.json beside the cells, by content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer import processes
from trainer.augment import Variant, load_pixels
from trainer.examples import Example
from trainer.families.base import BaseModel, Conditioning
from trainer.files import write_json
from trainer.render import Renderer
from trainer.stack import Lora, Loras

FILE = "losses.json"
STEPS_EACH = 4  # time steps of each picture
VERSION = 1  # raise when the same content would give another number


@dataclass(frozen=True)
class Row:
    """A row of the grid: its place, and the LoRA that makes it with its hash; None is the base."""

    epoch: int
    strength: float
    lora: Path | None
    digest: str


@dataclass(frozen=True)
class Sample:
    """One picture at one time step under noise of its own."""

    example: Example
    timestep: int
    seed: int


def measure(
    renderer: Renderer,
    rows: Sequence[Row],
    pictures: dict[str, Sequence[Example]],
    count: int,
    clip_skip: int,
    to: Path,
) -> dict[tuple[int, float], dict[str, float]]:
    """(epoch, strength) -> {name: mean squared error} for each set of `pictures` ({"training": …}).

    At most `count` of a set are used, evenly spread. Several processes share the rows; the first one writes.
    """
    known = processes.on_main(lambda: _known(to / FILE))
    samples = {name: samples_of(examples, count) for name, examples in pictures.items()}
    keys = {(name, row): _key(renderer.model, row, samples[name], clip_skip) for name in samples for row in rows}
    missing = list({key: place for place, key in keys.items() if key not in known}.items())
    latents: dict[str, dict[str, Tensor]] = {}
    for key, (name, row) in processes.shares(missing)[0]:
        if name not in latents:
            latents = {name: _latents(renderer.model, samples[name])}  # of one set at a time
        loras = () if row.lora is None else (Lora(row.lora, row.strength, row.strength),)
        known[key] = _loss(renderer, loras, samples[name], latents[name], clip_skip)
        _write(to, known)
    if missing:
        known = processes.merged(known)
        _write(to, known)
    found: dict[tuple[int, float], dict[str, float]] = {}
    for (name, row), key in keys.items():
        found.setdefault((row.epoch, row.strength), {})[name] = known[key]
    return found


def _write(to: Path, known: dict[str, float]) -> None:
    if processes.is_main():
        write_json(to / FILE, known)


def samples_of(examples: Sequence[Example], count: int) -> list[Sample]:
    """`STEPS_EACH` time steps of each of at most `count` pictures; together they cover all of them evenly."""
    spread = [examples[index * len(examples) // count] for index in range(count)] if len(examples) > count else examples
    total = len(spread) * STEPS_EACH
    return [
        Sample(example, int((step * len(spread) + index + 0.5) / total * 1000), _seed(example.digest, step))
        for index, example in enumerate(spread)
        for step in range(STEPS_EACH)
    ]


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def _known(path: Path) -> dict[str, float]:
    try:
        return {str(key): float(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # measured again; nothing else depends on it


def _key(model: BaseModel, row: Row, samples: Sequence[Sample], clip_skip: int) -> str:
    parts = [VERSION, model.sha256(), row.digest, row.strength if row.lora else "", clip_skip]
    parts += [(one.example.digest, one.example.placement, one.example.caption, one.timestep) for one in samples]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _latents(model: BaseModel, samples: Sequence[Sample]) -> dict[str, Tensor]:
    examples = {sample.example.digest: sample.example for sample in samples}
    return {digest: _encoded(model, example) for digest, example in examples.items()}


def _encoded(model: BaseModel, example: Example) -> Tensor:
    """Mean of the latents of a picture as it stands, [1, 4, h, w]."""
    pixels = load_pixels(example, Variant(example.placement))[None]
    return model.family.encode_images(model, pixels)[0]


@torch.no_grad()
def _loss(
    renderer: Renderer, loras: Loras, samples: Sequence[Sample], latents: dict[str, Tensor], clip_skip: int
) -> float:
    model, (index,) = renderer.model, renderer.carry([loras])
    errors = []
    for batch in _alike(renderer, samples, latents, clip_skip, (index, loras)):
        clean = torch.cat([latents[sample.example.digest] for sample, _ in batch])
        noise = torch.cat([_noise(sample, clean.shape[1:]) for sample, _ in batch]).to(clean)
        timesteps = torch.tensor([sample.timestep for sample, _ in batch])
        kept = model.alphas_cumprod.cpu()[timesteps].float().to(clean.device).view(-1, 1, 1, 1)
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        wanted = noise if model.prediction_type == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * clean
        conditioning = Conditioning.cat([said for _, said in batch])
        sizes = torch.tensor([_sizes(sample.example) for sample, _ in batch], device=model.device)
        with renderer.stack.rows([index]):
            said = model.family.predict(model, noisy, timesteps.to(model.device), conditioning, sizes)
        errors += (said.float() - wanted).square().mean(dim=(1, 2, 3)).tolist()
    return sum(errors) / len(errors)


def _alike(
    renderer: Renderer,
    samples: Sequence[Sample],
    latents: dict[str, Tensor],
    clip_skip: int,
    carried: tuple[int, Loras],
) -> Iterator[list[tuple[Sample, Conditioning]]]:
    """Batches of samples with equal latent sizes and text lengths, each with what the UNet is told."""
    groups: dict[tuple, list[tuple[Sample, Conditioning]]] = {}
    for sample in samples:
        said = renderer.encode(((sample.example.caption, 1.0),), clip_skip, carried)
        shape = (latents[sample.example.digest].shape[2:], said.hidden.shape[1])
        groups.setdefault(shape, []).append((sample, said))
    size = 2 * renderer.batch_size  # no second half for guidance here
    for group in groups.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _noise(sample: Sample, shape: torch.Size) -> Tensor:
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(sample.seed))


def _sizes(example: Example) -> tuple[int, ...]:
    """SDXL's size conditioning as in training."""
    left, top = example.placement.crop[:2]
    width, height = example.placement.bucket
    return (example.height, example.width, top, left, height, width)
