"""The loss on pictures that are held back, at the same noise and noise levels after every epoch.

Beside it the loss on as many pictures that are trained, measured in the same way: where the two part, the LoRA
learns its pictures by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trainer import processes
from trainer.batches import Batch, Batches
from trainer.config import LossConfig
from trainer.examples import Example

STRATA = 4  # noise levels in the range that is trained, each in the middle of an equal part of it
NAMES = {"validation": "loss/validation", "training": "loss/validation_trained"}


class Validation:
    """What is measured is fixed when the run begins; nothing is drawn, so nothing that follows is changed."""

    def __init__(self, examples: list[Example], batches: Batches, settings: LossConfig):
        held = [at for at, example in enumerate(examples) if example.role == "validation"]
        trained = [at for at, example in enumerate(examples) if example.role == "training"]
        # By content: which pictures are compared does not depend on how they are called.
        trained = sorted(trained, key=lambda at: examples[at].digest)[: len(held)]
        first, last = settings.min_timestep, min(settings.max_timestep, 1000)
        steps = [first + int((last - first) * (number + 0.5) / STRATA) for number in range(STRATA)]
        self._batches = batches
        self._work = [
            (kind, index, step)
            for kind, indices in (("validation", held), ("training", trained))
            for index in indices
            for step in steps
        ]

    def __bool__(self) -> bool:
        return bool(self._work)

    @property
    def captions(self) -> list[str]:
        """What the measured pictures are described with: as written, however captions change in the steps."""
        return [self._batches.fixed([index], 0).captions[0] for index in {index for _, index, _ in self._work}]

    def measure(
        self, accelerator: Accelerator, modules: list[nn.Module], loss: Callable[[Batch], Tensor]
    ) -> dict[str, float]:
        """Mean `loss` of each kind by its name in metrics.jsonl."""
        sums = {kind: torch.zeros(2, dtype=torch.float64) for kind in NAMES}
        with torch.no_grad(), _undisturbed(modules):
            for (kind, index, step), counts in processes.turns(accelerator, self._work):
                value = loss(self._batches.fixed([index], step).to(accelerator.device)).sum().cpu().double()
                sums[kind] += torch.stack([value, torch.ones_like(value)]) * counts
        both = torch.stack([sums[kind] for kind in NAMES]).to(accelerator.device, torch.float32)
        both = processes.total(accelerator, both).tolist()
        return {name: total / count for name, (total, count) in zip(NAMES.values(), both)}


@contextmanager
def _undisturbed(modules: list[nn.Module]) -> Iterator[None]:
    """Without dropout, and with torch's own generator left as it was."""
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    state = torch.get_rng_state()
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        torch.set_rng_state(state)
        for part, mode in zip(parts, modes):
            part.training = mode
