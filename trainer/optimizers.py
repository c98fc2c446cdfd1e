"""Optimizers: one function per member. Each takes parameter groups and checked arguments and is cheap to list."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

from trainer.errors import UserError, nearest


def adamw(groups: list[dict], **args: Any):
    """AdamW in full precision (Loshchilov & Hutter, 2019). Suggested: weight_decay=0.01 betas=0.9,0.999"""
    import torch

    return torch.optim.AdamW(groups, **args)


def adamw_8bit(groups: list[dict], **args: Any):
    """AdamW whose state takes a quarter of the memory (Dettmers et al., 2022). Suggested: weight_decay=0.01"""
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(groups, **args)


OPTIMIZERS: dict[str, Callable[..., Any]] = {"AdamW": adamw, "AdamW8bit": adamw_8bit}


def build(name: str, groups: list[dict], args: str = ""):
    """An optimizer over parameter groups that carry their own `lr`.

    Raises UserError for an unknown name, and for an argument that the optimizer does not have.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer.name: there is no optimizer {name!r}; {nearest(name, OPTIMIZERS)}")
    values = parse_args(args)
    try:
        optimizer = OPTIMIZERS[name](groups, **values)
    except TypeError as error:
        unknown = next((key for key in values if repr(key) in str(error)), None)
        if unknown is None:
            raise
        known = [key for key in _signature(name, groups) if key not in ("params", "lr")]
        raise UserError(f"optimizer.args: {name} has no argument {unknown!r}; {nearest(unknown, known)}") from None
    except ValueError as error:
        raise UserError(f"optimizer.args: {name} refuses {args!r}: {error}.") from None
    return optimizer


def parse_args(text: str) -> dict[str, Any]:
    """`weight_decay=0.1 betas=0.9,0.99 fused=true` -> typed values; words that are no Python literals stay text."""
    values: dict[str, Any] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"optimizer.args: {part!r} should read name=value, for example weight_decay=0.1.")
        values[name] = _literal(value)
    return values


def _literal(text: str) -> Any:
    named = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _signature(name: str, groups: list[dict]) -> list[str]:
    return list(inspect.signature(type(OPTIMIZERS[name](groups)).__init__).parameters)[1:]
