"""What is trained, and on which base."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from trainer import blocks
from trainer.checks.problem import Problem
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.examples import Example


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


def block_alpha_above_rank(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    settings = config.adapter
    try:
        ranks, alphas = (blocks.parse(text, "") for text in (settings.block_ranks, settings.block_alphas))
    except UserError:
        return  # another rule says so
    high = [block for block, alpha in alphas.items() if alpha > ranks.get(block, settings.rank) > 0]
    if high and not settings.rslora:
        rank = ranks.get(high[0], settings.rank)
        reason = f"alpha {alphas[high[0]]:g} of {high[0]} is above its dim {rank:g}: this block is scaled up and burns."
        yield Problem("adapter.block_alphas", "warning", reason)


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
