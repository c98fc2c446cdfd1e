"""Learning-rate schedules: pure functions of progress, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(progress: float) -> float:
    """The same learning rate from the first step to the last."""
    return 1.0


def cosine(progress: float) -> float:
    """Falls from full to zero along half a cosine (Loshchilov & Hutter, SGDR, 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine}


def factor(name: str, step: int, steps: int, warmup: float = 0.0) -> float:
    """What the learning rate is multiplied with in update `step` (from 0) of `steps`.

    `warmup` is a share of all steps below 1 and a number of steps from 1 on; the rate rises linearly and
    the schedule proper runs over what is left.
    """
    rising = round(warmup * steps) if warmup < 1 else min(round(warmup), steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return SCHEDULES[name]((step - rising) / max(1, steps - rising))
