"""What makes a run fit that would not: the changes of its settings that it needs, and none that can be spared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trainer import presets
from trainer.config import TrainConfig
from trainer.estimate import Estimate, estimate
from trainer.examples import Example

Change = dict[str, object]


def _changes(config: TrainConfig) -> Iterator[Change]:
    """What saves memory, from what costs least to what costs most."""
    if config.optimizer.name == "AdamW":
        yield {"optimizer.name": "AdamW8bit"}
    if not config.model.gradient_checkpointing:
        yield {"model.gradient_checkpointing": True}
    if config.evaluation.batch_size > 1:
        yield {"evaluation.batch_size": 1}
    if config.loop.batch_size > 1:
        yield {"loop.batch_size": 1, "loop.gradient_accumulation": min(256, _gathered(config))}
    if config.data.shuffle_tags:
        yield {"data.shuffle_tags": False}
    if config.model.precision == "fp32":
        yield {"model.precision": "bf16"}
    if config.model.quantize == "none":
        yield {"model.quantize": "fp8"}
    if config.adapter.text_encoder:
        yield {"adapter.text_encoder": False}
    for share in (0.75, 0.5):
        side = int(config.data.resolution * share) // 64 * 64
        if side >= 64:
            yield {"data.resolution": side}


def _gathered(config: TrainConfig) -> int:
    return config.loop.gradient_accumulation * config.loop.batch_size


def cheapest_change(
    config: TrainConfig, load: Callable[[TrainConfig], list[Example]], capacity: int, device: str = ""
) -> tuple[Change, Estimate] | None:
    """Those changes that make the run fit and of which none can be spared; None when nothing does, or only the
    rendering stays too large.

    `load` gives the pictures for changed settings, since another resolution has other buckets.
    """
    given = presets.flatten(config.model_dump())

    def merged(changes: list[Change]) -> Change:
        return dict(item for change in changes for item in change.items())

    def tried(changes: list[Change]) -> Estimate:
        changed = presets.layer(given, merged(changes))
        return estimate(changed, load(changed), capacity, device)

    kept = list(_changes(config))
    found = tried(kept)
    renders = found.fits
    if not kept or not found.trains:
        return None
    for change in reversed(kept):  # what costs most goes first, where the others are enough
        fewer = [one for one in kept if one is not change]
        with_fewer = tried(fewer)
        if with_fewer.fits if renders else with_fewer.trains:
            kept, found = fewer, with_fewer
    return (merged(kept), found) if kept else None
