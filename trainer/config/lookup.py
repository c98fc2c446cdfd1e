"""What others derive from the declarations: the list of settings, their names, a checked configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from trainer.config.declare import Part
from trainer.config.train import TrainConfig
from trainer.errors import UserError, nearest


@dataclass(frozen=True)
class Setting:
    """One declared setting as the form, the command line and the documentation see it."""

    path: str  # "adapter.rank"
    type: Any
    default: Any
    label: str
    help: str
    unit: str
    front: bool
    kohya: tuple[str, ...]
    limits: dict[str, Any]  # ge, gt, le, lt, multiple_of, as declared

    @property
    def choices(self) -> tuple[str, ...]:
        return get_args(self.type) if get_origin(self.type) is Literal else ()


def settings(part: type[Part] = TrainConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting in the order of declaration, parts unfolded into dotted paths."""
    return iter(_declared(part, prefix))


@cache  # a page with a form asks some hundred times
def _declared(part: type[Part], prefix: str) -> tuple[Setting, ...]:
    found: list[Setting] = []
    for name, field in part.model_fields.items():
        path = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Part):
            found += _declared(field.annotation, path + ".")
        else:
            found.append(_setting(path, field))
    return tuple(found)


def _setting(path: str, field: FieldInfo) -> Setting:
    extra = field.json_schema_extra
    limits = {}
    for constraint in field.metadata:
        for key in ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern"):
            if getattr(constraint, key, None) is not None:
                limits[key] = getattr(constraint, key)
    return Setting(
        path,
        field.annotation,
        field.default,
        extra["label"],
        field.description,
        extra["unit"],
        extra["front"],
        tuple(extra["kohya"]),
        limits,
    )


@cache
def setting_paths() -> Mapping[str, str]:
    """Every name under which a setting may be addressed -> its path; kohya's names are taken as aliases."""
    names = {entry.path: entry.path for entry in settings()}
    for entry in settings():
        for alias in entry.kohya:
            names.setdefault(alias, entry.path)
    return MappingProxyType(names)


def find_path(name: str, where: str) -> str:
    """The path of the setting called `name` (its own path or kohya's name). Raises UserError when there is none."""
    names = setting_paths()
    if name not in names:
        raise UserError(f"{where}: there is no setting {name!r}; {_nearest_setting(name)}")
    return names[name]


def _nearest_setting(name: str) -> str:
    """Also compares the part after the last dot alone: people forget or mistype the group's name."""
    last = {path.rsplit(".")[-1]: path for path in (entry.path for entry in settings())}
    close = get_close_matches(name.rsplit(".")[-1], last, n=2, cutoff=0.6)
    return nearest(name, setting_paths()) if not close else f"did you mean {' or '.join(last[key] for key in close)}?"


def validate(values: dict[str, Any], where: str) -> TrainConfig:
    """Nested plain values -> a checked TrainConfig. `where` names the file or option in the error.

    Raises UserError naming the setting, what was given, and what is allowed.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(error.errors()[0])}") from None


def _sentence(problem: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {path!r}; {_nearest_setting(path)}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{path} = {problem['input']!r}: {message}. See `lora-studio settings {path}`."
