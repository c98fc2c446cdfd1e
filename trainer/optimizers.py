"""Optimizers: one function per member, giving the class it is made from. Cheap to list: imports are inside.

A member's docstring is its help. What the rest of the trainer must know about one stands at its head as a
decorator: `finds_its_rate` for those that take the learning rate as a factor of a rate of their own, `averages`
for those whose good weights are an average that exists only while the optimizer is in eval mode.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from typing import Any

from trainer.errors import UserError, nearest

Member = Callable[[], Any]


def finds_its_rate(member: Member) -> Member:
    """Mark a member that estimates the step size itself and wants a learning rate of 1, the same for all parts."""
    member.finds_its_rate = True
    return member


def averages(member: Member) -> Member:
    """Mark a member that needs no schedule, because the average of its weights is what counts."""
    member.averages = True
    return member


def adamw():
    """AdamW in full precision (Loshchilov & Hutter, 2019). Suggested: weight_decay=0.01 betas=0.9,0.999"""
    from torch.optim import AdamW

    return AdamW


def adamw_8bit():
    """AdamW whose state takes a quarter of the memory (Dettmers et al., 2022). Suggested: weight_decay=0.01"""
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit


def paged_adamw_8bit():
    """AdamW8bit whose state moves to main memory when the card is full. Suggested: weight_decay=0.01"""
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit


def lion():
    """Lion: only the sign of the momentum counts (Chen et al., 2023). Wants a third to a tenth of AdamW's learning
    rate. Suggested: weight_decay=0.1 betas=0.9,0.99"""
    from pytorch_optimizer import Lion

    return Lion


def lion_8bit():
    """Lion with its state in 8 bits: the smallest of all. Suggested: weight_decay=0.1 betas=0.9,0.99"""
    from bitsandbytes.optim import Lion8bit

    return Lion8bit


def adafactor():
    """Adafactor keeps sums of rows and columns instead of a value per weight (Shazeer & Stern, 2018). Here it takes
    the learning rate as set, as kohya's users set it. Suggested: scale_parameter=false weight_decay=0"""
    from transformers.optimization import Adafactor

    # transformers' own defaults would put a rate of its own in place of the one that was set.
    return partial(Adafactor, scale_parameter=False, relative_step=False)


@finds_its_rate
def prodigy():
    """Prodigy finds the learning rate itself: leave it at 1 (Mishchenko & Defazio, 2023). d_coef scales what it finds.
    Suggested: decouple=true weight_decay=0.01 d_coef=1 use_bias_correction=true safeguard_warmup=true"""
    from prodigyopt import Prodigy

    return Prodigy


@finds_its_rate
def dadapt_adam():
    """D-Adaptation for Adam finds the learning rate itself: leave it at 1 (Defazio & Mishchenko, 2023).
    Suggested: weight_decouple=true weight_decay=0.01 growth_rate=1.02"""
    from pytorch_optimizer import DAdaptAdam

    return DAdaptAdam


@averages
def adamw_schedule_free():
    """AdamW that averages its weights instead of lowering the rate: take the schedule constant and a somewhat higher
    learning rate (Defazio et al., The Road Less Scheduled, 2024). Suggested: betas=0.9,0.999 warmup_steps=50"""
    from schedulefree import AdamWScheduleFree

    return AdamWScheduleFree


def came():
    """CAME: Adafactor's memory with a confidence for each update (Luo et al., 2023).
    Suggested: weight_decay=0.01 betas=0.9,0.999,0.9999"""
    from pytorch_optimizer import CAME

    return CAME


def sgd():
    """Plain stochastic gradient descent, without any state: wants a far higher learning rate. Suggested: momentum=0"""
    from torch.optim import SGD

    return SGD


def sgd_nesterov():
    """Gradient descent with Nesterov's momentum (Sutskever et al., 2013). Suggested: momentum=0.9 weight_decay=0"""
    from torch.optim import SGD

    return partial(SGD, momentum=0.9, nesterov=True)


# Under kohya's names, so that what people have in their files and heads can be typed here.
OPTIMIZERS: dict[str, Member] = {
    "AdamW": adamw,
    "AdamW8bit": adamw_8bit,
    "PagedAdamW8bit": paged_adamw_8bit,
    "Lion": lion,
    "Lion8bit": lion_8bit,
    "AdaFactor": adafactor,
    "Prodigy": prodigy,
    "DAdaptAdam": dadapt_adam,
    "AdamWScheduleFree": adamw_schedule_free,
    "CAME": came,
    "SGD": sgd,
    "SGDNesterov": sgd_nesterov,
}


def grouped(
    parts: dict[tuple[str, str, bool], list], rate: Callable[[str, str], float], lora_plus_ratio: float
) -> list[dict[str, Any]]:
    """Parameter groups from an adapter's weights by (component, block, whether upper): what shares a component and a
    learning rate is one group. A component's further groups are called unet.2, unet.3 …

    LoRA+ (Hayou et al., 2024): the upper matrices learn `lora_plus_ratio` times as fast.
    """
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for (component, block, upper), weights in parts.items():
        own = rate(component, block) * (lora_plus_ratio if upper else 1)
        if (component, own) not in groups:
            number = 1 + sum(name == component for name, _ in groups)
            name = component + (f".{number}" if number > 1 else "")
            groups[component, own] = {"params": [], "lr": own, "base_lr": own, "name": name}
        groups[component, own]["params"] += weights
    return list(groups.values())


def build(name: str, groups: list[dict], args: str = ""):
    """An optimizer over parameter groups that carry their own `lr`.

    Raises UserError for an unknown name, and for an argument that the optimizer does not have or refuses.
    """
    make, values = check_args(name, args)
    try:
        with redirect_stdout(io.StringIO()):  # Prodigy prints what it was told
            # Also as the default, so that an argument which sets the rate aside is refused and not obeyed in silence.
            return make(groups, lr=groups[0]["lr"], **{**_fused(make, groups, values), **values})
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"optimizer.args: {name} refuses {args!r}: {error}.") from None


def resume(optimizer, state: dict[str, Any]) -> None:
    """Take back a `state_dict` exactly. torch gives it the dtype of the weights, and some optimizers keep float32
    beside weights in bfloat16."""
    import torch

    optimizer.load_state_dict(state)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, weight in zip(numbers, weights, strict=True):
        for name, saved in state["state"].get(number, {}).items():
            now = optimizer.state[weight].get(name)  # none where bitsandbytes has packed its own together
            if isinstance(now, torch.Tensor) and now.dtype != saved.dtype:
                optimizer.state[weight][name] = saved.to(now.device)


def _fused(make: Callable[..., Any], groups: list[dict], values: dict[str, Any]) -> dict[str, bool]:
    """torch's own optimizers can update all weights in one kernel: asked for where there is one, unless the
    arguments say how it is done. benchmarks/RESULTS.md has what it saves."""
    kind = make.func if isinstance(make, partial) else make
    chosen = {"fused", "foreach", "differentiable", "capturable"} & values.keys()
    devices = {weight.device.type for group in groups for weight in group["params"]}
    there = kind.__module__.startswith("torch.optim.") and "fused" in _arguments(make) and devices <= {"cpu", "cuda"}
    return {"fused": True} if there and not chosen else {}


def check_args(name: str, args: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """(what makes the optimizer, its typed arguments), held against the optimizer's own signature.

    Raises UserError for an unknown optimizer or argument, naming the nearest, and for a value of another type.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer.name: there is no optimizer {name!r}; {nearest(name, OPTIMIZERS)}")
    make, values = OPTIMIZERS[name](), parse_args(args)
    known = _arguments(make)
    for key, value in values.items():
        if key not in known:
            raise UserError(f"optimizer.args: {name} has no argument {key!r}; {nearest(key, known)}")
        if not _fits(value, known[key]):
            raise UserError(f"optimizer.args: {name} cannot take {key}={value!r}; it wants one like {known[key]!r}.")
    return make, values


def class_path(name: str) -> str:
    """Where the optimizer's class lives, as sd-scripts writes it into a file: torch.optim.adamw.AdamW."""
    made = OPTIMIZERS[name]()
    kind = made.func if isinstance(made, partial) else made
    return f"{kind.__module__}.{kind.__qualname__}"


def parse_args(text: str) -> dict[str, Any]:
    """`weight_decay=0.1 betas=0.9,0.99 decouple=true` -> typed values; words that are no Python literals stay text.

    Spaces part the arguments, except between brackets or quotes. Raises UserError for what is not name=value.
    """
    values: dict[str, Any] = {}
    for part in re.findall(r"""(?:\([^)]*\)|\[[^]]*\]|"[^"]*"|'[^']*'|\S)+""", text):
        name, equals, value = part.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"optimizer.args: {part!r} should read name=value, for example weight_decay=0.1.")
        values[name] = _literal(value)
    return values


def _literal(text: str) -> Any:
    named = {"true": True, "false": False, "none": None, "inf": float("inf")}
    if text.lower() in named:
        return named[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _arguments(make: Callable[..., Any]) -> dict[str, Any]:
    """The optimizer's arguments and their defaults, without those that the trainer gives itself."""
    found = inspect.signature(make).parameters.values()
    # A collector of further keywords is no argument: it is how a typing mistake gets lost.
    named = [parameter for parameter in found if parameter.kind != parameter.VAR_KEYWORD]
    return {parameter.name: parameter.default for parameter in named if parameter.name not in ("params", "lr")}


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of its default's kind. Not every optimizer looks before its first step."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, tuple):
        return isinstance(value, (tuple, list)) and len(value) == len(default)
    return True
