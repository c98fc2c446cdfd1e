"""Learning-rate schedules: pure functions of progress, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from trainer.config import OptimizerConfig


@dataclass(frozen=True)
class Shape:
    """What bends a schedule. The lengths are shares of the steps that follow the warm-up."""

    cycles: int = 1
    power: float = 1.0
    decay: float = 0.2
    timescale: float = 1.0


def constant(progress: float, shape: Shape) -> float:
    """The same learning rate from the first step to the last."""
    return 1.0


def linear(progress: float, shape: Shape) -> float:
    """Falls from full to zero in a straight line."""
    return 1 - progress


def cosine(progress: float, shape: Shape) -> float:
    """Falls from full to zero along half a cosine (Loshchilov & Hutter, SGDR, 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def cosine_with_restarts(progress: float, shape: Shape) -> float:
    """Falls along half a cosine as often as there are cycles, each from full again (SGDR, 2017)."""
    return 0.0 if progress >= 1 else 0.5 * (1 + math.cos(math.pi * (shape.cycles * progress % 1)))


def polynomial(progress: float, shape: Shape) -> float:
    """(1 − progress) to a power: above 1 it falls early, below 1 late."""
    return (1 - progress) ** shape.power


def inverse_sqrt(progress: float, shape: Shape) -> float:
    """Falls with the root of the steps, counted in lengths of the warm-up (Vaswani et al., 2017); never zero."""
    return math.sqrt(shape.timescale / (shape.timescale + progress))


def rex(progress: float, shape: Shape) -> float:
    """Stays high for long and falls steeply at the end (Chen et al., REX, 2021): (1 − p) / (1 − p/2)."""
    return (1 - progress) / (1 - progress / 2)


def warmup_stable_decay(progress: float, shape: Shape) -> float:
    """Full until the last part, which falls along half a cosine (Hu et al., MiniCPM, 2024)."""
    falling = (progress - (1 - shape.decay)) / shape.decay if shape.decay > 0 else 0.0
    return cosine(max(0.0, falling), shape)


# kohya's names; constant_with_warmup is its name for constant with a warm-up, which any schedule here may have.
SCHEDULES: dict[str, Callable[[float, Shape], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "cosine_with_restarts": cosine_with_restarts,
    "polynomial": polynomial,
    "inverse_sqrt": inverse_sqrt,
    "rex": rex,
    "warmup_stable_decay": warmup_stable_decay,
    "constant_with_warmup": constant,
}
UNWARMED_TIMESCALE = 10_000  # steps of inverse_sqrt without a warm-up, as transformers has it


def factor(settings: OptimizerConfig, step: int, steps: int) -> float:
    """What the learning rate is multiplied with in update `step` (from 0) of `steps`.

    The rate rises linearly in the warm-up, and the schedule proper runs over what is left, down to the lowest rate.
    """
    rising = _updates(settings.warmup, steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    left = max(1, steps - rising)
    shape = Shape(
        cycles=settings.schedule_cycles,
        power=settings.schedule_power,
        decay=min(1.0, _updates(settings.schedule_decay, steps) / left),
        timescale=(rising or UNWARMED_TIMESCALE) / left,
    )
    floor = settings.schedule_floor
    return floor + (1 - floor) * SCHEDULES[settings.schedule]((step - rising) / left, shape)


def _updates(length: float, steps: int) -> int:
    """A length given as a share of all steps, below 1, or as a number of steps, from 1 on."""
    return round(length * steps) if length < 1 else min(round(length), steps)
