"""Moving in: the settings of kohya's tools and of OneTrainer as ours, each one accounted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.config import setting_paths, settings, validate
from trainer.errors import UserError
from trainer.kohya import arguments as known
from trainer.kohya import blockwise
from trainer.kohya.arguments import Differing, Said, Values
from trainer.kohya.sources import Source
from trainer.presets import flatten, nest, to_toml


@dataclass(frozen=True)
class Line:
    """What became of one argument."""

    name: str  # as it stands in the file
    value: str
    what: str  # the setting it became, or why it became none


@dataclass(frozen=True)
class Migration:
    """A file's settings as ours: {path: value}, and where each of its arguments went."""

    values: Values
    mapped: list[Line]
    ignored: list[Line]  # without effect, there or here
    unequal: list[Line]  # had an effect there, and has none here

    def as_toml(self, about: str) -> str:
        return to_toml(nest(self.values), about)


def translate(source: Source) -> Migration:
    """Every argument of a file, sorted into mapped, ignored and without equal; none is dropped."""
    made = Migration({}, [], [], [])
    for name, reason in source.left.items():
        made.ignored.append(Line(name, "", reason))
    seen: set[str] = set()
    given = {name: value for name, value in source.values.items() if name not in source.left}
    for name, value in _expanded(given, source.called):
        argument = _argument(name, source.called)
        seen.add(argument)
        _sort(made, name, argument, value, given)
    if "optimizer_type" in seen and "optimizer.name" not in made.values:
        _without_its_optimizer(made)
    _fill(made, source, seen)
    return made


def _without_its_optimizer(made: Migration) -> None:
    """Arguments of an optimizer that is not there go with it."""
    if made.values.pop("optimizer.args", ""):
        (line,) = (line for line in made.mapped if line.what.startswith("optimizer.args ="))
        made.mapped.remove(line)
        made.unequal.append(Line(line.name, line.value, "they belong to the optimizer, which is not there"))


def _argument(name: str, called: dict[str, str]) -> str:
    return called.get(name) or known.RENAMED.get(name, name)


def _expanded(values: Values, called: dict[str, str]) -> list[tuple[str, Any]]:
    """With network_args as arguments of their own, and what several arguments say together in one of them."""
    found = dict(values)
    for pair in known.words(found.pop("network_args", None) or []):
        name, _, value = pair.partition("=")
        found[name] = value
    by_argument = {_argument(name, called): name for name in found}

    def said(argument: str) -> Any:
        return found.get(by_argument.get(argument, argument))

    def say(argument: str, value: Any) -> None:
        found[by_argument.get(argument, argument)] = value

    for argument, value in (_kind(said) | blockwise.read(said) | _rates(said)).items():
        say(argument, value)
    if schedule := known.SCHEDULE_CLASSES.get(str(said("lr_scheduler_type")).rpartition(".")[2]):
        say("lr_scheduler", schedule)
        say("lr_scheduler_type", Said("optimizer.schedule"))
    if names := known.OPTIMIZER_ARGS.get(str(known.optimizer(said("optimizer_type")))):
        say("optimizer_args", known.called_otherwise(known.words(said("optimizer_args") or []), names))
    return list(found.items())


def _kind(said: Callable[[str], Any]) -> Values:
    """Which kind it is and what of it learns. LyCORIS' own LoRA covers the convolutions as well, and all of its kinds
    do unless a preset leaves them out (KohakuBlueleaf/LyCORIS, lycoris/kohya.py)."""
    if said("network_module") != "lycoris.kohya":
        return {"algo": "locon"} if said("algo") is None and not known.is_off(said("conv_dim")) else {}
    algo = str(said("algo") or "lora").lower()
    linear = str(said("preset")) in known.LINEAR_PRESETS
    found: Values = {"algo": algo}
    if algo in ("lora", "locon"):
        found["algo"] = "lora" if linear else "locon"
    if known.flag(said("dora_wd")):
        plain = algo in ("lora", "locon")
        found |= {"algo": "dora", "dora_wd": Said("adapter.kind")} if plain else {"dora_wd": known.NOT_A_DORA}
    if linear:
        found |= {name: 0 for name in ("conv_dim", "conv_alpha") if said(name) is not None}
    elif found["algo"] in ("loha", "lokr", "dora") and known.is_off(said("conv_dim")):
        found["conv_dim"] = said("network_dim") or known.DEFAULTS["network_dim"]
        found["conv_alpha"] = said("conv_alpha") or said("network_alpha") or known.DEFAULTS["network_alpha"]
    if algo == "lokr":
        # A dim beyond all measure is how the second factor is asked for whole, which has no alpha.
        for dim, alpha in (("network_dim", "network_alpha"), ("conv_dim", "conv_alpha")):
            if (size := str(found.get(dim, said(dim)))).isdigit() and int(size) > known.WHOLE:
                found |= {dim: known.WHOLE, alpha: known.WHOLE}
    return found


def _rates(said: Callable[[str], Any]) -> Values:
    """The one learning rate as one for each part, and the second of several text encoders' as its own."""
    found: Values = {}
    rates = known.numbers(said("text_encoder_lr"))
    if len(rates) > 1 and rates[1] != rates[0]:
        found["learning_rate_te2"] = rates[1]
    common = said("learning_rate")
    if known.is_off(common):
        return found
    if known.is_off(said("unet_lr")):
        found["unet_lr"] = common
    if said("text_encoder_lr") in (None, "") and not known.flag(said("network_train_unet_only")):
        found["text_encoder_lr"] = common
    return found


def _sort(made: Migration, name: str, argument: str, value: Any, all_values: Values) -> None:
    stands = all_values.get(name, value)
    shown = _short("" if isinstance(stands, Said) else stands)
    if argument in known.SECRETS and not known.is_off(value):
        shown = "***"
    path, wanted = _setting_of(argument, value)
    if argument == "learning_rate" and not known.is_off(value):
        made.ignored.append(Line(name, shown, "unet_lr and text_encoder_lr, which it stands for, are mapped"))
    elif argument == "max_train_steps" and not known.is_off(_either(all_values, "max_train_epochs")):
        made.ignored.append(Line(name, shown, "the number of epochs says it"))
    elif argument == "name":
        made.ignored.append(Line(name, shown, known.NEEDLESS[argument]))
    elif isinstance(value, Said):
        made.ignored.append(Line(name, shown, f"{value} says it"))
    elif isinstance(value, Differing):
        made.unequal.append(Line(name, shown, value.why))
    elif value is None or value == "" or value == []:
        made.ignored.append(Line(name, shown, "empty"))
    elif argument == "class_tokens":
        _class_tokens(made, name, str(value))
    elif path:
        _map(made, name, shown, path, wanted, value)
    elif reason := _without_effect(argument, value):
        made.ignored.append(Line(name, shown, reason))
    else:
        made.unequal.append(Line(name, shown, known.NO_EQUAL.get(argument, known.NOTHING_LIKE_IT)))


def _either(values: Values, argument: str) -> Any:
    """An argument's value under any of its names."""
    return next((value for name, value in values.items() if known.RENAMED.get(name, name) == argument and value), None)


def _setting_of(argument: str, value: Any) -> tuple[str, Any]:
    """(path of the setting that this argument is, its value as we write it); ("", None) when there is none."""
    if argument in known.READ:
        path, read = known.READ[argument]
        try:
            return path, read(value)
        except (ValueError, TypeError, OverflowError):
            return path, value  # the validation says what is wrong with it
    return ("" if argument == "name" else setting_paths().get(argument, "")), value  # what a folder is called, there


def _map(made: Migration, name: str, shown: str, path: str, wanted: Any, value: Any) -> None:
    entry = next(entry for entry in settings() if entry.path == path)
    if entry.type is str and not isinstance(wanted, str):
        wanted = str(wanted)
    try:
        config = validate(nest({path: wanted}), name)
        if path == "optimizer.name":
            _require_optimizer(str(wanted))
        if path == "optimizer.schedule":
            _require_schedule(str(wanted))
    except UserError as error:
        if known.is_off(value):  # 0 is how the GUI writes "not set"
            made.ignored.append(Line(name, shown, "not set"))
        else:
            made.unequal.append(Line(name, shown, str(error).removeprefix(f"{name}: ")))
        return
    if path == "model.attention" and made.values.get(path, "auto") != "auto" and wanted == "auto":
        made.ignored.append(Line(name, shown, "the other kind of attention is on"))
        return
    made.values[path] = flatten(config.model_dump())[path]
    made.mapped.append(Line(name, shown, f"{path} = {_short(made.values[path])}"))


def _require_optimizer(name: str) -> None:
    if name not in known.OPTIMIZERS:
        raise UserError(f"there is no such optimizer here; there are {', '.join(known.OPTIMIZERS)}")


def _require_schedule(name: str) -> None:
    from trainer.schedules import SCHEDULES

    if name == "adafactor":
        raise UserError("AdaFactor takes the rate that is set here, so set one: optimizer.learning_rate=1e-4")
    if name not in SCHEDULES:
        raise UserError(f"there is no such schedule here; there are {', '.join(SCHEDULES)}")


def _class_tokens(made: Migration, name: str, value: str) -> None:
    """kohya's "moss girl": what calls it, and what it is."""
    trigger, _, rest = value.strip().partition(" ")
    for path, word in {"data.trigger": trigger, "data.class_word": rest.strip()}.items():
        if word:
            made.values[path] = word
            made.mapped.append(Line(name, value, f"{path} = {word}"))


def _without_effect(argument: str, value: Any) -> str:
    if argument == "network_module" and value == "networks.lora":
        return "a plain LoRA, as here"
    if argument == "network_module" and value == "lycoris.kohya":
        return "algo says which of its kinds"
    if argument == "caption_extension" and str(value) == ".txt":
        return "as here"
    if argument == "enable_bucket" and known.flag(value):
        return "pictures always keep their shape here"
    if argument in ("enable_bucket", "caption_extension"):
        return ""
    if argument in known.NEEDLESS:
        return known.NEEDLESS[argument]
    return "off" if known.is_off(value) else ""


def _fill(made: Migration, source: Source, seen: set[str]) -> None:
    """What a file leaves out is its own tool's default, not ours."""
    defaults = dict(source.defaults)
    if "learning_rate" in defaults and made.values.get("adapter.text_encoder", True):
        defaults["text_encoder_lr"] = defaults["learning_rate"]
    if not known.is_off(_either(source.values, "max_train_epochs")):
        defaults.pop("max_train_steps", None)
    for name, value in defaults.items():
        path, wanted = _setting_of(name, value)
        if path in made.values:
            continue
        if name in seen and not known.is_off(_either(source.values, name)):
            continue  # said, but of no use here
        made.values[path] = wanted
        made.mapped.append(Line(name, "(left out)", f"{path} = {_short(wanted)}, which is the default there"))


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "…"
