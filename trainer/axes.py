"""Free axes of a comparison, as A1111's X/Y/Z plot has them: any field of a cell over a list of values.

Epochs are the rows of a grid and strengths its blocks, so those two choose which are rendered. Every other field
puts columns side by side: each prompt once for each value, named after it. A cell stays what it is by content,
so a picture that is already there is not rendered again.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from trainer.cells import Hires, Prompt
from trainer.errors import UserError, nearest
from trainer.prompt_sets import HIRES_VALUES, VALUES, require_sampler

ROWS = ("epoch", "strength")
# Names that A1111's script and its users have for a field.
ALIASES = {
    "cfg": "cfg_scale", "cfg scale": "cfg_scale", "clip skip": "clip_skip", "negative prompt": "negative",
    "prompt s/r": "prompt", "denoise": "hires.denoise", "hires steps": "hires.steps", "denoising": "hires.denoise",
    "hires upscaler": "hires.upscaler", "hires sampler": "hires.sampler", "epochs": "epoch", "strengths": "strength",
}  # fmt: skip
FIELDS = [name for name in VALUES if name not in ("name", "leak", "hires", "styles", "width", "height")]
FIELDS += ["size", *(f"hires.{name}" for name in HIRES_VALUES), *ROWS]


@dataclass(frozen=True)
class Axis:
    """One field and the values it takes, as the user wrote them."""

    field: str
    values: tuple[str, ...]


def parse(text: str) -> Axis:
    """ "cfg=5,7" -> Axis("cfg_scale", ("5", "7")); a value with a comma stands in double quotes.

    Raises UserError for a field that does not exist or one without values (`epoch` alone means all of them).
    """
    name, _, rest = text.partition("=")
    field = ALIASES.get(name.strip().lower(), name.strip().lower())
    if field not in FIELDS:
        raise UserError(f"There is no field {name.strip()!r} for an axis; {nearest(field, FIELDS)}")
    rows = list(csv.reader([rest], skipinitialspace=True))
    values = tuple(value.strip() for value in rows[0] if value.strip()) if rows else ()
    if not values and field != "epoch":
        raise UserError(f"The axis {field} has no values: write them as {field}=first,second.")
    return Axis(field, values)


def folder_suffix(axes: Sequence[Axis]) -> str:
    """What tells the comparison's folder apart from the one without axes; rows alone need none."""
    names = [axis.field.replace(".", "_") for axis in axes if axis.field not in ROWS]
    return f"-by-{'-'.join(names)}" if names else ""


def values_of(axes: Sequence[Axis], field: str) -> str:
    """The values of an axis over rows as the options --epochs and --strengths take them; empty when there is none."""
    return ",".join(value for axis in axes if axis.field == field for value in axis.values)


def spread(columns: Sequence[Prompt], axes: Sequence[Axis]) -> list[Prompt]:
    """Each prompt once for every combination of values, the first axis changing fastest.

    Raises UserError for a value that a prompt set would refuse.
    """
    chosen = [axis for axis in axes if axis.field not in ROWS]
    made = []
    for column in columns:
        for values in product(*(axis.values for axis in reversed(chosen))):
            one = column
            for axis, value in zip(chosen, reversed(values), strict=True):
                one = _with(one, axis, value)
            made.append(one)
    return made


def _with(column: Prompt, axis: Axis, value: str) -> Prompt:
    name = f"{column.name} · {axis.field.rpartition('.')[2].replace('_', ' ')} {value}"
    if axis.field in ("prompt", "negative"):
        # A1111's search and replace: the first value is looked for, each takes its place.
        old = getattr(column, axis.field)
        if axis.values[0] not in old:
            return replace(column, name=name)
        return replace(column, name=name, **{axis.field: old.replace(axis.values[0], value)})
    if axis.field == "size":
        width, _, height = value.lower().replace("×", "x").partition("x")
        sides = {"width": width, "height": height or width}
        return replace(column, name=name, **{side: _typed(side, text, VALUES) for side, text in sides.items()})
    group, dot, key = axis.field.partition(".")
    if dot:
        hires = {**asdict(column.hires or Hires()), key: _typed(key, value, HIRES_VALUES)}
        return replace(column, name=name, hires=Hires(**hires))
    return replace(column, name=name, **{group: _typed(group, value, VALUES)})


def _typed(key: str, text: str, table: dict[str, tuple]) -> Any:
    fits, wanted = table[key]
    for kind in (int, float, str):
        try:
            value = kind(text)
        except ValueError:
            continue
        if fits(value):
            if key == "sampler":
                require_sampler(value, "The axis")
            return value
    raise UserError(f"The axis {key} has {text!r}, which is not {wanted}.")
