"""What is wrong with a configuration before anything runs: one function a rule, each naming setting and remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from trainer import blocks
from trainer.config import TrainConfig
from trainer.dataset import masks
from trainer.dataset.names import count as counted
from trainer.errors import UserError, nearest
from trainer.examples import Example, count_epochs, trained
from trainer.schedules import SCHEDULES

HIGH = 5e-3  # learning rates above it are for few optimizers; LoHa, LoKr and miniature bases take more than 1e-3


@dataclass(frozen=True)
class Problem:
    """One thing to look at. An *error* keeps the run from starting; a *warning* is said and left to the user."""

    setting: str  # path of the setting to change
    severity: Literal["error", "warning"]
    reason: str
    suggestion: Any = None  # a value that would mend it

    def __str__(self) -> str:
        remedy = "" if self.suggestion is None else f" Try {self.setting}={self.suggestion}."
        return f"{self.setting}: {self.reason}{remedy}"


Rule = Callable[[TrainConfig, list[Example]], Iterator[Problem]]


def alpha_above_rank(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    settings = config.adapter
    rank, alpha = settings.rank, settings.alpha
    if settings.rslora and alpha > rank**0.5:
        reason = f"with rslora alpha {alpha:g} at dim {rank} scales the LoRA up by {alpha / rank**0.5:.2g}."
        yield Problem("adapter.alpha", "warning", reason, f"{rank**0.5 / 2:.2g}")
    elif alpha > rank:
        reason = f"alpha {alpha:g} is above dim {rank}, which scales the LoRA up by {alpha / rank:g} and burns it."
        yield Problem("adapter.alpha", "error", reason, f"{rank / 2:g}")
    if settings.conv_alpha > (settings.conv_rank or rank) and not settings.rslora:
        reason = f"convolution alpha {settings.conv_alpha:g} is above its dim {settings.conv_rank or rank}."
        yield Problem("adapter.conv_alpha", "error", reason, f"{(settings.conv_rank or rank) / 2:g}")


def unused_by_this_kind(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    """Settings that the chosen adapter has no use for: nothing is set in vain."""
    adapter, optimizer = config.adapter, config.optimizer
    plain, pairs = adapter.kind in ("lora", "locon"), adapter.kind in ("lora", "locon", "dora")
    if adapter.conv_rank and adapter.kind == "lora":
        yield Problem("adapter.conv_rank", "error", "lora trains no 3×3 convolutions; set adapter.kind=locon.", 0)
    if adapter.conv_alpha and not adapter.conv_rank and adapter.kind != "locon":
        yield Problem("adapter.conv_alpha", "error", "no convolutions are trained without a convolution dim.", 0)
    if adapter.lokr_factor and adapter.kind != "lokr":
        yield Problem("adapter.lokr_factor", "error", f"{adapter.kind} has no factor, only lokr has.", 0)
    if adapter.dropout and not pairs:
        reason = f"{adapter.kind} has no place for it; rank_dropout and module_dropout work."
        yield Problem("adapter.dropout", "error", reason, 0)
    if optimizer.lora_plus_ratio > 1 and not pairs:
        reason = f"{adapter.kind} has no upper and lower matrix to tell apart."
        yield Problem("optimizer.lora_plus_ratio", "error", reason, 1)
    if config.model.compile and (not pairs or adapter.module_dropout):
        what = "module dropout" if pairs else adapter.kind
        reason = f"{what} throws dice in every layer, and compiled code stops for each: little is gained."
        yield Problem("model.compile", "warning", reason, "false")
    if config.model.cuda_graphs and (adapter.text_encoder or adapter.module_dropout):
        what = "a text encoder that is trained" if adapter.text_encoder else "module dropout"
        reason = f"with {what} every step does something else, and a recording cannot be replayed."
        yield Problem("model.cuda_graphs", "error", reason, "false")
    if config.model.quantize == "nf4" and not pairs:
        reason = f"{adapter.kind} needs the base's weights whole; fp8 and int8 keep their shape."
        yield Problem("model.quantize", "error", reason, "fp8")
    if optimizer.text_encoder_2_learning_rate > 0 and not adapter.text_encoder:
        reason = "no text encoder is trained while adapter.text_encoder is off, so this rate has no effect."
        yield Problem("optimizer.text_encoder_2_learning_rate", "warning", reason, -1)
    if adapter.start_resize and not plain:
        yield Problem("adapter.start_resize", "error", f"a {adapter.kind} cannot be cut to another dim.", "false")
    if adapter.start_resize and not adapter.start_from:
        yield Problem("adapter.start_resize", "warning", "there is no adapter.start_from to fit.", "false")


def unreadable_blocks(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    for path, text in {
        "adapter.block_ranks": config.adapter.block_ranks,
        "adapter.block_alphas": config.adapter.block_alphas,
        "optimizer.block_learning_rates": config.optimizer.block_learning_rates,
    }.items():
        try:
            values = blocks.parse(text, path)
        except UserError as error:
            yield Problem(path, "error", str(error).removeprefix(f"{path}: "))
            continue
        if path == "adapter.block_ranks" and any(value % 1 for value in values.values()):
            yield Problem(path, "error", f"a dim is a whole number; {text!r} has another.")


def full_bf16_without_bf16(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    if config.model.full_bf16 and config.model.precision != "bf16":
        reason = f"the LoRA's weights cannot be bf16 while the base computes in {config.model.precision}."
        yield Problem("model.precision", "error", reason, "bf16")


def attention_that_is_not_there(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    if config.model.attention == "xformers" and find_spec("xformers") is None:
        reason = "xformers is not installed, so attention would run on torch's own SDPA all the same."
        yield Problem("model.attention", "warning", reason, "auto")


def missing_base(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    """Of what can only be a path; anything else may be a model of the hub."""
    base = config.model.base
    path = Path(base).expanduser()
    if (path.suffix in (".safetensors", ".ckpt") or path.is_absolute()) and not path.exists():
        yield Problem("model.base", "error", f"there is no base model at {base}: choose one that is there.")


def missing_start(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    file = config.adapter.start_from
    if file and not Path(file).expanduser().is_file():
        yield Problem("adapter.start_from", "error", f"there is no file {file}.")


def average_of_averages(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    from trainer.optimizers import OPTIMIZERS

    name = config.optimizer.name
    if config.loop.ema_decay and hasattr(OPTIMIZERS.get(name), "averages"):
        yield Problem("loop.ema_decay", "error", f"{name} already saves an average of its weights.", 0)


def learning_rate_of_one(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    """Near 1 burns everything, except with the optimizers that find their own rate: there it must be 1."""
    from trainer.optimizers import OPTIMIZERS

    name = config.optimizer.name
    adapts = hasattr(OPTIMIZERS.get(name), "finds_its_rate")
    for path, rate in _rates(config).items():
        if adapts and rate != 1:
            reason = f"{name} finds its own rate and wants a learning rate of 1, not {rate:g}."
            yield Problem(path, "warning", reason, 1)
        elif not adapts and rate >= 0.5:
            reason = f"{rate:g} destroys the model within a few steps: {name} takes the rate as it is."
            yield Problem(path, "error", reason, "1e-4")
        elif not adapts and rate > HIGH and not name.startswith("SGD"):
            reason = f"{rate:g} is far above what is usual for {name} (1e-5 to 1e-3): the first epochs burn."
            yield Problem(path, "warning", reason, "1e-4")
    one = f"{name} finds one rate for everything it trains, so all learning rates must be the same."
    if adapts and len(set(_rates(config).values())) > 1:
        path = next(path for path, rate in _rates(config).items() if rate != config.optimizer.learning_rate)
        yield Problem(path, "error", one, f"{config.optimizer.learning_rate:g}")
    if adapts and config.optimizer.lora_plus_ratio > 1:
        yield Problem("optimizer.lora_plus_ratio", "error", one, 1)
    if adapts and any(factor not in (0, 1) for factor in _factors(config)):
        yield Problem("optimizer.block_learning_rates", "error", one)


def _rates(config: TrainConfig) -> dict[str, float]:
    """The learning rates that this run uses, by the path of their setting."""
    paths = {
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "optimizer.text_encoder_learning_rate": config.learning_rate("text_encoder"),
        "optimizer.text_encoder_2_learning_rate": config.learning_rate("text_encoder_2"),
    }
    if config.optimizer.text_encoder_2_learning_rate < 0:
        del paths["optimizer.text_encoder_2_learning_rate"]
    return {path: rate for path, rate in paths.items() if rate > 0}


def _factors(config: TrainConfig) -> list[float]:
    """Of the blocks' learning rates; none when they cannot be read, which another rule says."""
    try:
        path = "optimizer.block_learning_rates"
        return list(blocks.parse(config.optimizer.block_learning_rates, path).values())
    except UserError:
        return []


def schedule_beside_averaging(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    from trainer.optimizers import OPTIMIZERS

    if hasattr(OPTIMIZERS.get(config.optimizer.name), "averages") and config.optimizer.schedule != "constant":
        reason = f"{config.optimizer.name} averages instead of lowering the rate; a schedule on top slows it twice."
        yield Problem("optimizer.schedule", "warning", reason, "constant")


def unknown_schedule(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    if config.optimizer.schedule not in SCHEDULES:
        reason = f"there is no schedule {config.optimizer.schedule!r}; {nearest(config.optimizer.schedule, SCHEDULES)}"
        yield Problem("optimizer.schedule", "error", reason)


def unknown_optimizer(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    from trainer.optimizers import OPTIMIZERS

    if config.optimizer.name not in OPTIMIZERS:
        reason = f"there is no optimizer {config.optimizer.name!r}; {nearest(config.optimizer.name, OPTIMIZERS)}"
        yield Problem("optimizer.name", "error", reason)


def unreadable_optimizer_arguments(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    """Their form only: what the optimizer itself knows costs an import, and is asked for when the run begins."""
    from trainer.optimizers import parse_args

    try:
        parse_args(config.optimizer.args)
    except UserError as error:
        yield Problem("optimizer.args", "error", str(error).removeprefix("optimizer.args: "))


def empty_timestep_range(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    first, last = config.loss.min_timestep, config.loss.max_timestep
    if first >= last:
        yield Problem("loss.max_timestep", "error", f"there is no time step from {first} to below {last}.", 1000)


def two_weightings(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    """Min-SNR is on unless it is turned off, and each of the others is meant in its place."""
    loss = config.loss
    others = {"debiased": loss.debiased, "p2_gamma": loss.p2_gamma, "noise_prediction_like": loss.noise_prediction_like}
    for name, on in others.items():
        if on and loss.min_snr_gamma:
            reason = f"it is multiplied with loss.{name}, which weighs the noise levels too: use one of the two."
            yield Problem("loss.min_snr_gamma", "warning", reason, 0)


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
        yield Problem("data.folder", "warning", f"{names}: {said} to learn from; `lora-studio tag` writes captions.")


def large_crops(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    for example in examples:
        if example.placement.lost > 0.2:
            share, bucket = f"{example.placement.lost:.0%}", "×".join(map(str, example.placement.bucket))
            reason = f"{example.path.name} loses {share} of its area to bucket {bucket}; crop it yourself to choose."
            yield Problem("data.folder", "warning", reason)


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


def captions_never_seen(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    if config.data.caption_dropout_every == 1:
        reason = "every epoch would leave all captions empty: nothing could be called by its name."
        yield Problem("data.caption_dropout_every", "error", reason, 0)


def braces_that_stay_text(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    written = [e.path.name for e in examples if re.search(r"\{[^{}]*\|[^{}]*\}", e.caption)]
    if written and not config.data.wildcards:
        reason = f"the caption of {written[0]} has words like {{a|b}}, which are trained as they stand."
        yield Problem("data.wildcards", "warning", reason, "true")


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


RULES: list[Rule] = [
    few_pictures,
    unusual_length,
    captions_never_seen,
    braces_that_stay_text,
    masks_without_effect,
    more_regularisation_than_pictures,
    alpha_above_rank,
    unused_by_this_kind,
    unreadable_blocks,
    full_bf16_without_bf16,
    attention_that_is_not_there,
    missing_base,
    missing_start,
    average_of_averages,
    learning_rate_of_one,
    unknown_optimizer,
    unreadable_optimizer_arguments,
    unknown_schedule,
    schedule_beside_averaging,
    empty_timestep_range,
    two_weightings,
    bucket_bounds,
    batch_larger_than_bucket,
    missing_captions,
    large_crops,
]


def check(config: TrainConfig, examples: list[Example]) -> list[Problem]:
    """Every problem of this configuration with these pictures, errors first."""
    problems = [problem for rule in RULES for problem in rule(config, examples)]
    return sorted(problems, key=lambda problem: problem.severity)


def require(problems: list[Problem]) -> None:
    """Raise UserError with the first problem that keeps the run from starting, if there is one."""
    for problem in problems:
        if problem.severity == "error":
            raise UserError(str(problem))
