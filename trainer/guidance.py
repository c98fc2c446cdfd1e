"""What a sampler sees of a base: x0 predicted under classifier-free guidance, for a batch of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.cells import Cell
from trainer.families.base import Conditioning
from trainer.stack import Loras
from trainer.webui import samplers
from trainer.webui.encode import pad_to

if TYPE_CHECKING:
    from trainer.render import Renderer


@dataclass(frozen=True)
class Branch:
    """One side of an AND: its weight, and the conditioning in force at each model call."""

    weight: float
    conditionings: list[Conditioning]  # one row each
    at: list[int]  # model call -> index into `conditionings`

    def now(self, call: int) -> Conditioning:
        return self.conditionings[self.at[min(call, len(self.at) - 1)]]


@dataclass(frozen=True)
class Pass:
    """One pass of the sampler over some cells: the first, or the hires fix's second."""

    plan: samplers.Plan
    width: int
    height: int
    calls: int  # model calls over which the prompts' schedules are read
    before: int | None = None  # those of the first pass, where this is the second


@dataclass(frozen=True)
class Carried:
    """For each cell of a batch: which of the stack's sets it has, and what is in it."""

    indices: list[int]
    sets: list[Loras]

    def __getitem__(self, cell: int) -> tuple[int, Loras]:
        return self.indices[cell], self.sets[cell]


class Guided:
    """The denoiser that a sampler sees: classifier-free guidance over the cells' prompts and negatives."""

    def __init__(self, renderer: Renderer, cells: Sequence[Cell], carried: Carried, how: Pass):
        self.model, self.stack, self.carried = renderer.model, renderer.stack, carried
        self.plan, self.model_sigmas = how.plan, renderer.model_sigmas
        self.scale = cells[0].cfg_scale
        both = list(enumerate(cells))
        self.prompts = [renderer.branches(cell.prompt, cell, how, carried[index]) for index, cell in both]
        self.negatives = [renderer.negative(cell, how, carried[index]) for index, cell in both]
        side = (how.height, how.width)
        self.sizes = torch.tensor([[*side, 0, 0, *side]], device=self.model.device)
        self.call = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Predicted x0 for noisy latents x [B, 4, h, w] at σ [B]: uncond + scale · Σ weight · (cond − uncond)."""
        # Every row of the forward pass: which cell it belongs to, its weight, and what it is told.
        rows = [(cell, *one) for cell, prompt in enumerate(self.prompts) for one in _equally_long(prompt, self.call)]
        if self.scale != 1:
            rows += [(cell, None, branch.now(self.call)) for cell, branch in enumerate(self.negatives)]
        self.call += 1
        denoised = self._denoise(x, sigma, rows)
        if self.scale == 1:
            return self._sum(x, rows, denoised, torch.zeros_like(x), 1.0)
        count = len(rows) - len(x)
        return self._sum(x, rows[:count], denoised[:count], torch.stack(denoised[count:]), self.scale)

    def _sum(self, x: Tensor, rows: list, denoised: list[Tensor], base: Tensor, scale: float) -> Tensor:
        result = base.clone()
        for (cell, weight, _), value in zip(rows, denoised):
            result[cell] += scale * weight * (value - base[cell])
        return result

    def _denoise(self, x: Tensor, sigma: Tensor, rows: list) -> list[Tensor]:
        """x0 of each row [4, h, w]; rows whose prompts have the same number of chunks share a forward pass."""
        denoised: dict[int, Tensor] = {}
        by_length: dict[int, list[int]] = {}
        for index, (_, _, conditioning) in enumerate(rows):
            by_length.setdefault(conditioning.hidden.shape[1], []).append(index)
        for indices in by_length.values():
            cells = [rows[index][0] for index in indices]
            conditioning = Conditioning.cat([rows[index][2] for index in indices])
            with self.stack.rows([self.carried.indices[cell] for cell in cells]):
                predicted = self._predict(x[cells], sigma[cells], conditioning)
            denoised |= dict(zip(indices, predicted))
        return [denoised[index] for index in range(len(rows))]

    def _predict(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's output as x0, by the prediction type's definition at noise level σ (x = x0 + σ·ε)."""
        model, wide = self.model, sigma.view(-1, 1, 1, 1)
        timesteps = samplers.times(self.model_sigmas, sigma, self.plan.sampler.quantize)
        scaled = (x / (wide**2 + 1).sqrt()).to(model.dtype)
        sizes = self.sizes.expand(len(x), -1)
        output = model.family.predict(model, scaled, timesteps, conditioning.to(dtype=model.dtype), sizes).float()
        if model.prediction_type == "epsilon":
            return x - wide * output
        return x / (wide**2 + 1) - output * wide / (wide**2 + 1).sqrt()


def _equally_long(branches: Sequence[Branch], call: int) -> list[tuple[float, Conditioning]]:
    """(weight, conditioning) of a prompt's branches at a model call: A1111 brings those of an AND to one length."""
    now = [branch.now(call) for branch in branches]
    longest = max(one.hidden.shape[1] for one in now)
    padded = [replace(one, hidden=pad_to(one.hidden, longest)) for one in now]
    return [(branch.weight, one) for branch, one in zip(branches, padded)]
