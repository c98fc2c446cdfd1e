"""How it learns: optimizer, learning rates, schedule and loss."""

from __future__ import annotations

from collections.abc import Iterator

from trainer import blocks
from trainer.checks.problem import Problem
from trainer.config import LossConfig, TrainConfig
from trainer.errors import UserError, nearest
from trainer.examples import Example, count_steps
from trainer.schedules import SCHEDULES

HIGH = 5e-3  # learning rates above it are for few optimizers; LoHa, LoKr and miniature bases take more than 1e-3


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


def average_of_averages(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    from trainer.optimizers import OPTIMIZERS

    name = config.optimizer.name
    if config.loop.ema_decay and hasattr(OPTIMIZERS.get(name), "averages"):
        yield Problem("loop.ema_decay", "error", f"{name} already saves an average of its weights.", 0)


def schedule_beside_averaging(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    from trainer.optimizers import OPTIMIZERS

    if hasattr(OPTIMIZERS.get(config.optimizer.name), "averages") and config.optimizer.schedule != "constant":
        reason = f"{config.optimizer.name} averages instead of lowering the rate; a schedule on top slows it twice."
        yield Problem("optimizer.schedule", "warning", reason, "constant")


def unknown_schedule(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    if config.optimizer.schedule not in SCHEDULES:
        reason = f"there is no schedule {config.optimizer.schedule!r}; {nearest(config.optimizer.schedule, SCHEDULES)}"
        yield Problem("optimizer.schedule", "error", reason)


def warm_up_to_the_end(config: TrainConfig, examples: list[Example]) -> Iterator[Problem]:
    steps, warmup = count_steps(examples, config)[0], config.optimizer.warmup
    if 1 < steps <= warmup:
        reason = f"the run has {steps} steps, all of them warm-up: the learning rate never reaches what was set."
        yield Problem("optimizer.warmup", "warning", reason, 0.1)


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


def loss_of_the_other_prediction(loss: LossConfig, prediction_type: str) -> Iterator[Problem]:
    """Settings that are made for bases of the other kind. No rule of its own: it wants to know the base."""
    if prediction_type == "v_prediction":
        if loss.v_prediction_like > 0:
            reason = "this base predicts v itself, which is weighted so anyway."
            yield Problem("loss.v_prediction_like", "error", reason, 0)
        return
    if loss.zero_terminal_snr:
        reason = (
            "this base predicts the noise (or else see model.prediction), which is no task where there is only noise."
        )
        yield Problem("loss.zero_terminal_snr", "error", reason, "false")
    if loss.noise_prediction_like:
        reason = "this base predicts the noise itself (or else see model.prediction)."
        yield Problem("loss.noise_prediction_like", "error", reason, "false")
