"""Settings by block as sd-scripts takes them: lists in a fixed order (kohya-ss/sd-scripts, networks/lora.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer import blocks
from trainer.config import TrainConfig
from trainer.kohya.arguments import Said, Values, is_off

# Blocks before, in and after the middle, in the order of down_lr_weight, mid_lr_weight and up_lr_weight.
_SIDES = {
    False: (blocks.NAMES[:12], ("MID",), blocks.NAMES[13:]),
    True: (blocks.XL_NAMES[1:10], ("MID",) * 3, blocks.XL_NAMES[13:22]),
}
_WEIGHTS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")


def read(said: Callable[[str], Any]) -> Values:
    """kohya's lists by block where they say more than ours would by themselves."""
    found: Values = {}
    dims = _numbers(said("block_dims"))
    if dims and is_off(said("block_alphas")):
        # Without alphas of their own all blocks have the network's there, and the same proportion here.
        found["block_alphas"] = ",".join([str(said("network_alpha") or 1)] * len(dims))
    weights = [_numbers(said(name)) for name in _WEIGHTS]
    if not any(weights):
        return found
    down, middle, up = weights
    sides = _SIDES[len(middle) == 3 or max(len(down), len(up)) == 9]
    # sd-scripts takes 1 for what a list leaves out.
    filled = [(given + ["1"] * len(names))[: len(names)] for given, names in zip(weights, sides, strict=True)]
    factors = dict(zip(sum(sides, ()), sum(filled, []), strict=True))
    path = "optimizer.block_learning_rates"
    found[path] = ", ".join(f"{name}={factor}" for name, factor in factors.items())
    return found | {name: Said(path) for name, given in zip(_WEIGHTS, weights, strict=True) if given}


def write(config: TrainConfig, *, xl: bool) -> Values:
    """A run's settings by block as sd-scripts' arguments. Raises UserError for what cannot be read."""
    found: Values = {}
    adapter = config.adapter
    if dims := blocks.parse(adapter.block_ranks, "adapter.block_ranks"):
        alphas = blocks.parse(adapter.block_alphas, "adapter.block_alphas")
        ranks = [dims.get(name, adapter.rank) for name in _names(xl)]
        share = adapter.alpha / adapter.rank
        found["block_dims"] = _text(ranks)
        found["block_alphas"] = _text(
            alphas.get(name, rank * share) for name, rank in zip(_names(xl), ranks, strict=True)
        )
    return found | rates(config, xl=xl)


def rates(config: TrainConfig, *, xl: bool) -> Values:
    """The learning rates by block as sd-scripts' three lists; a block that is not named has 1. {} without any."""
    factors = blocks.parse(config.optimizer.block_learning_rates, "optimizer.block_learning_rates")
    sides = zip(_WEIGHTS, _SIDES[xl], strict=True) if factors else ()
    return {argument: _text(factors.get(name, 1) for name in names) for argument, names in sides}


def _names(xl: bool) -> tuple[str, ...]:
    return blocks.XL_NAMES if xl else blocks.NAMES


def _text(values: Any) -> str:
    return ",".join(f"{value:g}" for value in values)


def _numbers(value: Any) -> list[str]:
    """A list of numbers from 0 up; empty for everything else, such as kohya's "cosine"."""
    parts = [part.strip() for part in str(value).split(",")] if isinstance(value, (str, int, float)) else []
    try:
        return parts if all(0 <= float(part) < 1e6 for part in parts) else []
    except ValueError:
        return []
