"""Presets: find, load and layer them. Defaults < preset < what the user said."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from trainer.config import TrainConfig, find_path, settings, validate
from trainer.errors import UserError, nearest

SHIPPED = Path(__file__).resolve().parent.parent / "presets"


@dataclass(frozen=True)
class Preset:
    """A named set of settings: `values` maps setting paths to values; only what differs from the defaults."""

    name: str
    about: str
    values: dict[str, Any]


def folders() -> list[Path]:
    """Where presets are looked for, nearest first: presets/ in the current folder, then the shipped ones."""
    return list(dict.fromkeys([Path("presets").resolve(), SHIPPED]))


def find(kind: str = "") -> dict[str, Path]:
    """Name -> file of every preset, or with kind="prompts" of every prompt set. The nearer folder wins."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted((folder / kind).glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def locate(name: str, kind: str = "") -> Path:
    """A preset's file by its name or path. Raises UserError with the nearest names when there is none."""
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UserError(f"There is no file {name}: give an existing .toml file or one of {', '.join(find(kind))}.")
        return Path(name)
    found = find(kind)
    if name not in found:
        what = "prompt set" if kind == "prompts" else "preset"
        raise UserError(f"There is no {what} called {name!r}; {nearest(name, found)}")
    return found[name]


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content. Raises UserError naming the file (and the line) when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def load(name: str) -> Preset:
    """Read a preset by name or path. Raises UserError for an unknown key (with the nearest valid name)."""
    path = locate(name)
    values = read_toml(path)
    about = values.pop("about", "")
    return Preset(path.stem, about, {find_path(key, str(path)): value for key, value in flatten(values).items()})


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"adapter": {"rank": 8}} -> {"adapter.rank": 8}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """{"adapter.rank": 8} -> {"adapter": {"rank": 8}}."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, name = path.split(".")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
        target[name] = value
    return nested


def parse_override(text: str) -> tuple[str, Any]:
    """`adapter.rank=16` or kohya's `network_dim=16` -> ("adapter.rank", value in the setting's own type)."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: write it as name=value, for example --set adapter.rank=16.")
    path = find_path(name.strip(), "--set")
    kind = next(entry.type for entry in settings() if entry.path == path)
    return path, _typed(value.strip(), kind)


def _typed(text: str, kind: Any) -> Any:
    """Text from a command line as the declared type wants it; what does not fit is left to the validation."""
    if kind is bool:
        return {"true": True, "1": True, "yes": True, "on": True}.get(text.lower(), False) if (
            text.lower() in ("true", "false", "1", "0", "yes", "no", "on", "off")
        ) else text
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        parts = (part.strip() for part in text.strip("[]()").split(","))
        return [_typed(part, getattr(item, "__origin__", item)) for part in parts if part]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def layer(*layers: dict[str, Any], where: str = "settings") -> TrainConfig:
    """Lay flat {path: value} layers over the defaults, later ones on top, and check the result."""
    merged: dict[str, Any] = {}
    for values in layers:
        merged |= values
    return validate(nest(merged), where)


def differences(config: TrainConfig, other: TrainConfig = TrainConfig()) -> dict[str, tuple[Any, Any]]:  # noqa: B008
    """Settings that differ: {path: (other's value, config's value)}."""
    ours, theirs = flatten(config.model_dump()), flatten(other.model_dump())
    return {path: (theirs[path], value) for path, value in ours.items() if value != theirs[path]}


def to_toml(values: dict[str, Any], about: str = "") -> str:
    """Nested settings as TOML: strings, booleans, numbers, and lists of these are all that settings hold."""
    lines = [f"about = {_toml(about)}"] if about else []
    lines += [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, group in values.items():
        if isinstance(group, dict):
            lines += ["", f"[{key}]", *(f"{name} = {_toml(value)}" for name, value in group.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # JSON's string escapes are TOML's, except that TOML also refuses a bare DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
