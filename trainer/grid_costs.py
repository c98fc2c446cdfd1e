"""What a comparison takes beyond the weights: its passes over the prompts, the VAE's work, the losses of its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from trainer import presets, upscalers
from trainer.cells import Prompt
from trainer.config import EvaluationConfig, TrainConfig
from trainer.costs import Cost, Dummy
from trainer.denoising import STEPS_EACH
from trainer.errors import UserError
from trainer.places import shelf_of
from trainer.prompt_sets import read_prompts
from trainer.webui import samplers

Size = tuple[int, int]  # (width, height), px


@dataclass(frozen=True)
class Pass:
    """One way of the sampler through the UNet."""

    size: Size
    calls: int  # of the UNet
    rows: int  # a picture has in a call: two where guidance needs the negative prompt's answer


@dataclass(frozen=True)
class Column:
    """What each picture of one column goes through."""

    passes: tuple[Pass, ...]
    decoded: tuple[Size, ...]
    encoded: tuple[Size, ...]  # by a hires fix that enlarges pixels
    seeds: int
    upscaler: int = 0  # bytes of its network


@dataclass(frozen=True)
class Work:
    """Of a whole comparison: what is alive at once, and the arithmetic."""

    unet: int  # bytes, as the following
    vae: int
    upscalers: int
    pictures: int
    flops: int


def columns(config: TrainConfig) -> list[Column]:
    """Those of the run's prompt set. One with nothing of its own where it cannot be read, which rendering will say."""
    settings = config.evaluation
    try:
        prompts = read_prompts(presets.locate(settings.prompts, "prompts"))
    except UserError:
        prompts = [Prompt("", "")]
    return [_column(prompt, settings, config.data.resolution) for prompt in prompts]


def work(config: TrainConfig, dummy: Dummy, learned: Size, pictures: int, epochs: int) -> Work:
    """`learned`: the largest of the `pictures` that were trained on, whose losses are measured in every row."""
    settings, asked = config.evaluation, columns(config)
    rows = 1 + epochs * len(settings.strengths)
    batch = settings.batch_size
    unet = cache(dummy.rendering)  # counting one takes a second
    decode, encode = cache(dummy.decoding), cache(dummy.caching)
    losses = min(settings.loss_pictures, pictures) * STEPS_EACH
    shapes = {(batch * one.rows, one.size) for column in asked for one in column.passes}
    shapes |= {(2 * batch, learned)} if settings.loss_pictures else set()
    encoded = {size for column in asked for size in column.encoded} | ({learned} if settings.loss_pictures else set())
    coded = [decode(size) for column in asked for size in column.decoded] + [encode(size) for size in encoded]

    def flops(column: Column) -> float:
        own = sum(one.calls * unet(batch * one.rows, one.size).flops / batch for one in column.passes)
        return own + _sum(decode, column.decoded) + _sum(encode, column.encoded)

    measured = losses * unet(2 * batch, learned).flops / (2 * batch) if losses else 0
    return Work(
        unet=max(unet(*shape).peak for shape in shapes),
        vae=max(cost.peak for cost in coded),
        upscalers=sum({column.upscaler for column in asked}),
        pictures=rows * sum(column.seeds for column in asked),
        flops=round(rows * (measured + sum(column.seeds * flops(column) for column in asked))),
    )


def _sum(cost: Callable[[Size], Cost], sizes: tuple[Size, ...]) -> int:
    return sum(cost(size).flops for size in sizes)


def _column(prompt: Prompt, settings: EvaluationConfig, resolution: int) -> Column:
    side = (settings.size or resolution) // 8 * 8
    sampler, steps = prompt.sampler or settings.sampler, prompt.steps or settings.steps
    cfg_scale = settings.cfg_scale if prompt.cfg_scale is None else prompt.cfg_scale
    seeds = len(settings.seeds) if prompt.seed is None else 1
    first = _pass((prompt.width or side, prompt.height or side), sampler, steps, cfg_scale)
    hires = prompt.hires
    if hires is None:
        return Column((first,), (first.size,), (), seeds)
    to, kept = hires.sizes(*first.size)
    second = _pass(kept, hires.sampler or sampler, hires.steps or steps, hires.cfg_scale or cfg_scale)
    passes = (first, second) if hires.denoise > 0 else (first,)
    if hires.upscaler in upscalers.LATENT:
        return Column(passes, (kept,), (), seeds)
    return Column(passes, (first.size, kept), (to,), seeds, _network(hires.upscaler, settings))


def _pass(size: Size, sampler: str, steps: int, cfg_scale: float) -> Pass:
    return Pass(size, samplers.resolve(sampler)[0].model_calls(steps), 1 if cfg_scale == 1 else 2)


def _network(upscaler: str, settings: EvaluationConfig) -> int:
    """Bytes of an upscaler's file. At work it goes tile by tile, with far less than the VAE needs for the picture."""
    try:
        return shelf_of(settings).upscaler(upscaler).stat().st_size if upscalers.is_model(upscaler) else 0
    except UserError:
        return 0  # there is none: rendering will say so
