"""Widgets made from the declared settings: a setting that is added to trainer.config is in the form at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_origin

import streamlit as st

from studio import state
from studio.language import _
from studio.text import escape
from trainer import presets
from trainer.config import Setting, TrainConfig, settings
from trainer.errors import UserError
from trainer.optimizers import OPTIMIZERS
from trainer.schedules import SCHEDULES
from trainer.texts import about
from trainer.webui.samplers import SAMPLERS

# Settings whose values are the names in a registry.
REGISTRIES: dict[str, Callable[[], Iterable[str]]] = {
    "optimizer.name": lambda: OPTIMIZERS,
    "optimizer.schedule": lambda: SCHEDULES,
    "evaluation.prompts": lambda: presets.find("prompts"),
    "evaluation.sampler": lambda: SAMPLERS,
}
# Settings that are explained by what was chosen, here or in another one.
MEMBERS = {
    "optimizer.name": ("optimizer.name", OPTIMIZERS),
    "optimizer.args": ("optimizer.name", OPTIMIZERS),
    "optimizer.schedule": ("optimizer.schedule", SCHEDULES),
}
PARTS = {name: field.annotation.__doc__ for name, field in TrainConfig.model_fields.items() if name != "name"}
TITLES = {
    "model": "Base model",
    "data": "Pictures and captions",
    "adapter": "The LoRA",
    "optimizer": "Learning",
    "loss": "Loss",
    "loop": "Length and batches",
    "evaluation": "Comparison of the epochs",
}


def by_path() -> dict[str, Setting]:
    return {setting.path: setting for setting in settings()}


def show(paths: Sequence[str], preset: dict[str, Any], columns: int = 2) -> None:
    """Widgets for these settings, side by side."""
    known = by_path()
    for at in range(0, len(paths), columns):
        for column, path in zip(st.columns(columns), paths[at : at + columns]):
            with column:
                widget(known[path], preset)


def widget(setting: Setting, preset: dict[str, Any], scope: str = "") -> None:
    """The widget of one setting; what it is set to goes into the draft where it differs from the preset.

    Another `scope` is another widget: for a setting whose usual value follows from something else.
    """
    draft = state.draft()
    usual = preset.get(setting.path, setting.default)
    value = draft.get(setting.path, usual)
    changed = setting.path in draft
    arguments = {
        "label": label(setting, changed),
        "help": "\n\n".join(filter(None, [explain(setting, usual, changed), _chosen(setting, preset)])),
        "key": f"set {state.generation()} {scope} {setting.path}",
    }
    given = _ask(setting, value, arguments)
    if given is None or same(given, usual):
        draft.pop(setting.path, None)
    else:
        draft[setting.path] = given
    if changed != (setting.path in draft):
        st.rerun()  # the mark stands in the label, which was drawn before the answer was known


def label(setting: Setting, changed: bool) -> str:
    unit = f" ({_(setting.unit)})" if setting.unit else ""
    return ("● " if changed else "") + _(setting.label) + unit  # not escaped: it is read aloud as it stands


def explain(setting: Setting, usual: Any, changed: bool) -> str:
    """The help text with limits, kohya's name and, when changed, what the preset says."""
    parts = [escape(_(setting.help))]
    if limits := _limits(setting):
        parts.append(_("Range: {range}.").format(range=escape(limits)))
    if setting.kohya:
        parts.append(_("In kohya:") + " " + ", ".join(f"`{name}`" for name in setting.kohya) + ".")
    if changed:
        parts.append(_("● differs from the preset, which has {value}.").format(value=escape(shown(usual))))
    return "\n\n".join(parts)


def _chosen(setting: Setting, preset: dict[str, Any]) -> str:
    """What the chosen optimizer or schedule says of itself; nothing for other settings."""
    path, members = MEMBERS.get(setting.path, ("", {}))
    name = state.draft().get(path, preset.get(path, by_path()[path].default)) if path else ""
    return f"{escape(name)}: {escape(_(about(members[name])))}" if name in members else ""


def shown(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return _("on") if value else _("off")
    if isinstance(value, (tuple, list)):
        return ", ".join(shown(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value) or _("nothing")


def same(one: Any, other: Any) -> bool:
    """Whether two values of a setting mean the same; lists from TOML are tuples in the configuration."""
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return list(one) == list(other)
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(float(one), float(other), rel_tol=1e-9)
    return one == other


def _ask(setting: Setting, value: Any, arguments: dict[str, Any]) -> Any:
    if setting.choices or setting.path in REGISTRIES:
        return _ask_choice(list(setting.choices or REGISTRIES[setting.path]()), value, arguments)
    if setting.type is bool:
        st.space("small")  # a toggle has no label above it, its neighbours do
        return st.toggle(value=bool(value), **arguments)
    if setting.type in (int, float):
        return _ask_number(setting, value, arguments)
    if get_origin(setting.type) is tuple:
        return _ask_list(setting, value, arguments)
    return st.text_input(value=str(value), **arguments).strip()


def _ask_choice(choices: list[str], value: str, arguments: dict[str, Any]) -> str:
    if value not in choices:
        choices = [value, *choices]  # a typo in a preset is shown and reported, not replaced in silence
    return st.selectbox(options=choices, index=choices.index(value), **arguments)


def _ask_number(setting: Setting, value: float, arguments: dict[str, Any]) -> float | None:
    kind, limits = setting.type, setting.limits
    low = limits.get("ge", limits.get("gt"))
    high = limits.get("le", limits["lt"] - 1 if kind is int and "lt" in limits else limits.get("lt"))
    step = limits.get("multiple_of", 1) if kind is int else _step(float(setting.default))
    return st.number_input(
        value=kind(value),
        min_value=None if low is None else kind(low),
        max_value=None if high is None else kind(high),
        step=kind(step),
        format="%d" if kind is int else "%g",
        **arguments,
    )


def _step(value: float) -> float:
    """A step that suits the size of a default: 1e-4 goes up by 1e-5, 7 by 0.5."""
    if value >= 1:
        return 0.5
    return 10.0 ** (math.floor(math.log10(value)) - 1) if 0 < value < 0.01 else 0.05


def _ask_list(setting: Setting, value: Any, arguments: dict[str, Any]) -> Any:
    text = st.text_input(value=shown(value), **arguments)
    try:
        return tuple(presets.parse_override(f"{setting.path}={text}")[1])
    except UserError as error:
        st.caption(escape(error))
        return value


def _limits(setting: Setting) -> str:
    limits = setting.limits
    if get_origin(setting.type) is tuple or not {"ge", "gt", "le", "lt"} & limits.keys():
        return ""
    low = _("from {n}") if "ge" in limits else _("above {n}") if "gt" in limits else ""
    high = _("to {n}") if "le" in limits else _("below {n}") if "lt" in limits else ""
    ends = [
        text.format(n=f"{limits[next(key for key in keys if key in limits)]:g}")
        for text, keys in ((low, ("ge", "gt")), (high, ("le", "lt")))
        if text
    ]
    multiple = ", " + _("in steps of {n}").format(n=limits["multiple_of"]) if "multiple_of" in limits else ""
    return " ".join(ends) + multiple
