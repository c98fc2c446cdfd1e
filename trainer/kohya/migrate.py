"""Moving in from kohya: its settings as ours, each one accounted for, and our settings as a call of sd-scripts."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import blocks
from trainer.config import Setting, TrainConfig, settings, validate
from trainer.dataset import images
from trainer.errors import UserError
from trainer.examples import named_by_folder, repeats_in, weighted_folders
from trainer.kohya import arguments as known
from trainer.kohya.sources import Differing, Source, Values
from trainer.presets import flatten, nest, to_toml

WHOLE = 1024  # dims from which on a LoKr's second factor is whole, so that more of them say the same


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
    for name, value in _expanded({name: value for name, value in source.values.items() if name not in source.left}):
        argument = known.RENAMED.get(name, name)
        seen.add(argument)
        _sort(made, name, argument, value, source.values)
    _fill(made, source, seen)
    return made


def _expanded(values: Values) -> list[tuple[str, Any]]:
    """With network_args as arguments of their own, and the one learning rate as one for each part."""
    found = dict(values)
    for pair in known.words(found.pop("network_args", None) or []):
        name, _, value = pair.partition("=")
        found[name] = value
    found |= _kind(found)
    sides = [known.numbers(found.get(f"{side}_lr_weight")) for side in ("down", "mid", "up")]
    if any(sides):
        found["down_lr_weight"] = blocks.joined(*sides)
    rates = known.rates(found.get("text_encoder_lr"))
    if len(rates) > 1 and rates[1] != rates[0]:
        found["learning_rate_te2"] = rates[1]
    common = found.get("learning_rate")
    if not known.is_off(common):
        if known.is_off(found.get("unet_lr")):
            found["unet_lr"] = common
        if found.get("text_encoder_lr") in (None, "") and not known.flag(found.get("network_train_unet_only")):
            found["text_encoder_lr"] = common
    return list(found.items())


def _kind(values: Values) -> Values:
    """LyCORIS' `algo`, where it follows from other arguments: its own LoRA covers the convolutions as well."""
    kind, convolutions = values.get("algo"), not known.is_off(values.get("conv_dim"))
    lycoris = values.get("network_module") == "lycoris.kohya" or values.get("LoRA_type") == "lycoris.kohya"
    everything = lycoris and str(values.get("preset") or "full") == "full"
    if known.flag(values.get("dora_wd")):
        kind = "dora"
    elif kind == "lora" and str(values.get("preset") or "full") == "full" or kind is None and convolutions:
        kind = "locon"
    found = {"algo": kind} if kind else {}
    if everything and not convolutions and kind in ("dora", "loha", "lokr"):
        sizes = {"conv_dim": "network_dim", "conv_alpha": "network_alpha"}
        found |= {name: values.get(like) or known.DEFAULTS[like] for name, like in sizes.items()}
    if kind == "lokr":
        dims = {name: (values | found).get(name) for name in ("network_dim", "conv_dim")}
        found |= {name: WHOLE for name, dim in dims.items() if re.fullmatch(r"\d{4,}", str(dim)) and int(dim) > WHOLE}
    return found


def _sort(made: Migration, name: str, argument: str, value: Any, all_values: Values) -> None:
    shown = "***" if argument in known.SECRETS and not known.is_off(value) else _short(value)
    path, wanted = _setting_of(argument, value)
    if argument == "learning_rate" and not known.is_off(value):
        made.ignored.append(Line(name, shown, "unet_lr and text_encoder_lr, which it stands for, are mapped"))
    elif argument == "max_train_steps" and not known.is_off(_either(all_values, "max_train_epochs")):
        made.ignored.append(Line(name, shown, "the number of epochs says it"))
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
    path = _declared().get(argument, "")
    return path, value


def _declared() -> dict[str, str]:
    """kohya's name -> path, as the settings declare it."""
    return {alias: entry.path for entry in settings() for alias in entry.kohya}


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
        if path in ("optimizer.block_learning_rates", "adapter.block_ranks", "adapter.block_alphas"):
            blocks.parse(str(wanted), name)
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
    if argument == "dora_wd" and known.flag(value):
        return "adapter.kind = dora says it"
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
    """What a file leaves out is sd-scripts' own default, not ours."""
    defaults = dict(known.DEFAULTS)
    if made.values.get("adapter.text_encoder", True):
        defaults["text_encoder_lr"] = known.DEFAULTS["learning_rate"]
    for name, value in defaults.items():
        path, wanted = _setting_of(name, value)
        if path in made.values or not (source.whole or path.startswith("data.")):
            continue
        if name in seen and not known.is_off(_either(source.values, name)):
            continue  # said, but of no use here
        made.values[path] = wanted
        made.mapped.append(Line(name, "(left out)", f"{path} = {_short(wanted)}, which is sd-scripts' default"))


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "…"


# ── the other way ───────────────────────────────────────────────────────────────────────────────────────


def as_kohya(config: TrainConfig, *, xl: bool) -> str:
    """A shell script that trains the same with sd-scripts: its dataset file, its call, and what it cannot say.

    Settings without a name there are listed in the script's comments. Raises UserError when data.more_folders says a
    number of times that is none.
    """
    arguments, lost = _arguments(config)
    subset = {name: arguments.pop(name) for name in list(arguments) if name in known.SUBSET_ARGS}
    dataset = {name: arguments.pop(name) for name in list(arguments) if name in known.DATASET_ARGS}
    subsets = [subset | place for place in _places(config)] or [subset]
    regular = arguments.pop("reg_data_dir", "")
    subsets += [{"is_reg": True, "image_dir": place.as_posix()} for place in _inside(Path(regular)) if regular]
    if rates := blocks.parse(config.optimizer.block_learning_rates, "optimizer.block_learning_rates"):
        arguments |= blocks.sides(rates, xl)
        del lost["optimizer.block_learning_rates"]
    network = {name: arguments.pop(name) for name in list(arguments) if name in known.NETWORK_ARGS}
    if preset := known.lycoris_preset(config.adapter):
        network["preset"] = preset
    if network.get("algo") == "dora":
        network |= {"algo": "lora", "dora_wd": True, "wd_on_output": False}
    if preset == "attn-only" and config.adapter.targets == "attention":
        del lost["adapter.targets"]
    if "learning_rate_te2" in arguments:
        arguments["text_encoder_lr"] = [arguments["text_encoder_lr"], arguments.pop("learning_rate_te2")]
    file = f"{_plain(config.name) or 'lora'}-dataset.toml"
    lines = ["# Captions: sd-scripts does not add the trigger word; it must stand in each of them."]
    lines += [f"# Nothing in sd-scripts is like {path} = {_short(value)}" for path, value in lost.items()]
    lines += [f"cat > {file} <<'TOML'", _dataset_toml(dataset, subsets), "TOML"]
    fixed = {
        "dataset_config": file,
        "network_module": "lycoris.kohya" if "algo" in network else "networks.lora",
        **({"network_args": [f"{name}={value}" for name, value in network.items()]} if network else {}),
        "cache_latents": True,
        "save_model_as": "safetensors",
        "save_every_n_epochs": 1,
        "output_dir": "output",
        **({"no_half_vae": True} if xl else {}),
    }
    script = "sdxl_train_network.py" if xl else "train_network.py"
    call = [f"accelerate launch --num_cpu_threads_per_process 1 {script}"]
    call += [_option(name, value) for name, value in {**arguments, **fixed}.items() if value is not False]
    return "\n".join([*lines, " \\\n  ".join(call)]) + "\n"


def _arguments(config: TrainConfig) -> tuple[Values, Values]:
    """(sd-scripts' arguments, settings that it has no name for and that are not at their default)."""
    given = flatten(config.model_dump())
    arguments: Values = {}
    lost: Values = {}
    for entry in settings():
        value = given[entry.path]
        if entry.path.startswith("evaluation."):
            continue  # sd-scripts does not compare epochs
        if entry.path == "data.more_folders":
            continue  # folders of the dataset file
        said = known.WRITE[entry.path](value) if entry.path in known.WRITE else None
        if said is not None:
            arguments |= {name: word for name, word in said.items() if word not in ("", [])}
        elif entry.path in known.WRITE:
            lost[entry.path] = value
        elif not entry.kohya:
            lost |= {entry.path: value} if value != entry.default and entry.path != "data.trigger" else {}
        elif value not in ("", ()) and (value != _there(entry) or known.ALWAYS & set(entry.kohya)):
            arguments[entry.kohya[0]] = list(value) if isinstance(value, tuple) else value
    if "lr_scheduler_min_lr_ratio" in arguments:
        _lowest_rate(config, arguments, lost)
    if config.loop.max_steps:
        arguments.pop("max_train_epochs")  # which would outdo the steps there
    arguments.pop("class_tokens", None)
    if config.data.trigger:
        arguments["class_tokens"] = f"{config.data.trigger} {config.data.class_word}".strip()
    elif config.data.class_word:
        lost["data.class_word"] = config.data.class_word
    return arguments, lost


def _lowest_rate(config: TrainConfig, arguments: Values, lost: Values) -> None:
    """Only two of sd-scripts' schedules end above zero, and cosine is another one then."""
    schedule = config.optimizer.schedule
    if schedule == "cosine":
        arguments["lr_scheduler"] = "cosine_with_min_lr"
    elif schedule != "warmup_stable_decay":
        lost["optimizer.schedule_floor"] = arguments.pop("lr_scheduler_min_lr_ratio")


def _places(config: TrainConfig) -> list[Values]:
    """What the dataset file says of each folder that is trained on. sd-scripts looks at the name of no image_dir."""
    found = []
    for folder, times in weighted_folders(config.data) if config.data.folder else []:
        for inner in _inside(folder):
            words = named_by_folder(inner / "_", folder)[1]
            called = {"class_tokens": words} if words and not config.data.trigger and not config.data.class_word else {}
            repeats = repeats_in(inner, folder, config.data.repeats, times)
            found.append({"image_dir": inner.as_posix(), "num_repeats": repeats, **called})
    return found


def _inside(folder: Path) -> list[Path]:
    """The folders under one that hold pictures: sd-scripts looks into no sub-folders of an image_dir. One that is not
    on this machine is taken to hold them itself."""
    return sorted({path.parent for path in images.find(folder)} if folder.is_dir() else ()) or [folder]


def _there(entry: Setting) -> Any:
    """What sd-scripts takes when this setting is left out."""
    return next((known.DEFAULTS[name] for name in entry.kohya if name in known.DEFAULTS), entry.default)


def _dataset_toml(dataset: Values, subsets: list[Values]) -> str:
    general = {"caption_extension": ".txt", "enable_bucket": True}
    parts = {"[general]": general, "[[datasets]]": dataset}
    tables = [*parts.items(), *(("[[datasets.subsets]]", subset) for subset in subsets)]
    return "\n\n".join(f"{title}\n{to_toml(values).strip()}" for title, values in tables)


def _option(name: str, value: Any) -> str:
    if value is True:
        return f"--{name}"
    if isinstance(value, list):
        return " ".join([f"--{name}", *(shlex.quote(str(item)) for item in value)])
    return f"--{name}={shlex.quote(str(value))}"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
