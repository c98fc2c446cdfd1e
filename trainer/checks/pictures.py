"""The pictures, their captions and masks, and how often they are seen."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from trainer import presets
from trainer.checks.problem import Problem
from trainer.config import TrainConfig
from trainer.dataset import masks
from trainer.dataset.names import count as counted
from trainer.errors import UserError
from trainer.examples import Example, count_epochs, trained
from trainer.webui import samplers


def few_pictures(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    count = sum(example.role == "training" for example in examples)
    if 0 < count < 4:
        reason = f"{counted(count, 'picture')}: pose and background are learned by heart with it; 10 or more are usual."
        yield Problem("data.folder", "warning", reason)


def unusual_length(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    """Pictures seen in the whole run. Outside the field's few hundred to some ten thousand something is mistyped."""
    pictures = [example for example in examples if example.role == "training"]
    an_epoch = sum(example.repeats for example in pictures)
    epochs = config.loop.epochs
    if config.loop.max_steps and an_epoch:
        epochs = count_epochs(examples, config)
    seen = an_epoch * epochs
    if not pictures or 200 <= seen <= 30_000:
        return
    once, rounds = counted(len(pictures), "picture"), counted(epochs, "epoch")
    count = f"{once} with their repeats and {rounds} are {seen:,} pictures seen"
    if seen < 200:
        reason = f"{count}, too few to learn from: 1,000 to 5,000 are usual."
        if not config.loop.max_steps and all(example.repeats == config.data.repeats for example in pictures):
            yield Problem("data.repeats", "warning", reason, math.ceil(1500 / (len(pictures) * epochs)))
        elif config.loop.max_steps:
            yield Problem("loop.max_steps", "warning", reason, math.ceil(config.loop.max_steps * 1500 / seen))
        else:
            yield Problem("loop.epochs", "warning", reason, math.ceil(1500 / an_epoch))
    else:
        reason = f"{count}, far more than the usual 1,000 to 5,000: it takes long and overfits."
        if config.loop.max_steps:
            yield Problem("loop.max_steps", "warning", reason, max(1, config.loop.max_steps * 5000 // seen))
        else:
            yield Problem("loop.epochs", "warning", reason, max(1, 5000 // an_epoch))


def bucket_bounds(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    if config.data.bucket_max < config.data.resolution:
        reason = f"buckets of at most {config.data.bucket_max} px cannot hold pictures of {config.data.resolution} px."
        yield Problem("data.bucket_max", "error", reason, config.data.resolution)


def batch_larger_than_bucket(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    counts: dict[tuple[int, int], int] = {}
    for example in trained(examples):
        bucket = example.placement.bucket
        counts[bucket] = counts.get(bucket, 0) + example.repeats
    for bucket, count in sorted(counts.items()):
        if count < config.loop.batch_size:
            pictures = counted(count, "picture")
            reason = (
                f"bucket {bucket[0]}×{bucket[1]} holds {pictures}, fewer than the batch of "
                f"{config.loop.batch_size}: it is trained in a smaller batch, nothing is left out."
            )
            yield Problem("loop.batch_size", "warning", reason)


def missing_captions(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    bare = [example.path.name for example in examples if example.caption.strip() in ("", config.data.trigger)]
    if bare:
        names = ", ".join(bare[:3]) + (f" and {len(bare) - 3} more" if len(bare) > 3 else "")
        said = f"only the trigger word {config.data.trigger!r}" if config.data.trigger else "no caption at all"
        yield Problem("data.folder", "warning", f"{names}: {said} to learn from: tag or caption them first.")


def captions_never_seen(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    if config.data.caption_dropout_every == 1:
        reason = "every epoch would leave all captions empty: nothing could be called by its name."
        yield Problem("data.caption_dropout_every", "error", reason, 0)


def braces_that_stay_text(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    written = [e.path.name for e in examples if re.search(r"\{[^{}]*\|[^{}]*\}", e.caption)]
    if written and not config.data.wildcards:
        reason = f"the caption of {written[0]} has words like {{a|b}}, which are trained as they stand."
        yield Problem("data.wildcards", "warning", reason, "true")


def large_crops(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    for example in examples:
        if example.placement.lost > 0.2:
            share, bucket = f"{example.placement.lost:.0%}", "×".join(map(str, example.placement.bucket))
            reason = f"{example.path.name} loses {share} of its area to bucket {bucket}; crop it yourself to choose."
            yield Problem("data.folder", "warning", reason)


def one_version_of_each(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    data = config.data
    if data.variants == 1 and (data.random_crop or data.colour_shift):
        what = "data.random_crop" if data.random_crop else "data.colour_shift"
        yield Problem("data.variants", "warning", f"1 is the plain picture alone, so {what} has no effect.", 4)


def renderings(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    """What would be said only when the run is over."""
    settings = config.evaluation
    try:
        samplers.resolve(settings.sampler)
    except UserError as error:
        yield Problem("evaluation.sampler", "error", str(error))
    try:
        presets.locate(settings.prompts, "prompts")
    except UserError as error:
        yield Problem("evaluation.prompts", "warning", str(error))


def masks_without_effect(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    data = config.data
    if data.alpha_mask and data.mask_folder:
        reason = f"the masks are taken from {data.mask_folder}, so transparency is not looked at."
        yield Problem("data.alpha_mask", "warning", reason, "false")
    elif data.alpha_mask and examples and not any(example.mask for example in examples):
        yield Problem("data.alpha_mask", "warning", "no picture has transparent parts: everything is learned.")
    elif not data.mask_folder and any(masks.folder(Path(data.folder)).rglob("*.png")):
        reason = f"the masks painted in {data.folder} would not be looked at: all of each picture is learned."
        yield Problem("data.mask_folder", "warning", reason, masks.folder(Path(data.folder)).as_posix())
    elif config.loss.mask_normalised and not (data.alpha_mask or data.mask_folder):
        reason = "there are no masks: set data.alpha_mask or data.mask_folder."
        yield Problem("loss.mask_normalised", "warning", reason, "false")


def more_regularisation_than_pictures(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    seen = {role: sum(e.repeats for e in examples if e.role == role) for role in ("training", "regularisation")}
    if seen["regularisation"] > seen["training"]:
        reason = (
            f"{seen['regularisation']} of them stand beside {seen['training']} pictures of yours in an epoch: more "
            "repeats of yours, or fewer of them, leave the LoRA more to learn."
        )
        yield Problem("data.regularisation", "warning", reason)
