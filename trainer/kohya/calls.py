"""A run as a call of kohya's sd-scripts: the dataset file, the arguments, and what cannot be said there."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import Setting, TrainConfig, settings
from trainer.dataset import images
from trainer.examples import named_by_folder, repeats_in, weighted_folders
from trainer.kohya import arguments as known
from trainer.kohya import blockwise
from trainer.kohya.arguments import Values
from trainer.presets import flatten, to_toml

NOTES = """\
# Captions: sd-scripts does not add the trigger word; it must stand in each of them. It reads 75 tokens of a caption:
# for longer ones add --max_token_length=150 or 225."""


@dataclass(frozen=True)
class Shell:
    """How a script writes a file, goes on in the next line, and quotes a word."""

    goes_on: str
    file: str  # with {name} and {text}

    def quote(self, word: str) -> str:
        if self is not POWERSHELL:
            return shlex.quote(word)
        if re.fullmatch(r"[\w./:\\=-]+", word):
            return word
        return f"'{word}'" if "'" not in word else '"' + re.sub(r'([`$"])', r"`\1", word) + '"'


BASH = Shell("\\", "cat > {name} <<'TOML'\n{text}\nTOML")
# Not Set-Content, which in Windows' own PowerShell begins the file with a mark that TOML readers stumble over.
POWERSHELL = Shell("`", "[IO.File]::WriteAllText(\"$PWD/{name}\", @'\n{text}\n'@)")


def as_kohya(config: TrainConfig, *, family: str, noise: Values | None = None, shell: Shell | None = None) -> str:
    """A script that trains the same with sd-scripts: its dataset file, its call, and what it cannot say.

    `family` and `noise` (`families.noise`) are the base's. For PowerShell on Windows, else for bash. Settings without
    a name there are listed in the script's comments. Raises UserError when data.more_folders says a number of times
    that is none, or a setting by block cannot be read.
    """
    xl = family == "sdxl"
    shell = shell or (POWERSHELL if sys.platform == "win32" else BASH)
    arguments, lost = _arguments(config, xl=xl)
    network = {name: arguments.pop(name) for name in list(arguments) if name in known.NETWORK_ARGS}
    network.pop("algo", None)
    network |= _kind(config)
    subset = {name: arguments.pop(name) for name in list(arguments) if name in known.SUBSET_ARGS}
    dataset = {name: arguments.pop(name) for name in list(arguments) if name in known.DATASET_ARGS}
    subsets = [subset | place for place in _places(config)] or [subset]
    regular = arguments.pop("reg_data_dir", "")
    if subset.get("conditioning_data_dir"):  # masks make it another kind of dataset there, with other arguments
        arguments["masked_loss"] = True
        subsets = [{name: value for name, value in one.items() if name != "class_tokens"} for one in subsets]
        lost |= {"data.regularisation": regular} if regular else {}
    elif regular:
        subsets += [{"is_reg": True, "image_dir": place.as_posix()} for place in _inside(Path(regular))]
    file = f"{_plain(config.name) or 'lora'}-dataset.toml"
    lines = [NOTES]
    lines += [f"# Nothing in sd-scripts is like {path} = {_short(value)}" for path, value in lost.items()]
    lines.append(shell.file.format(name=file, text=_dataset_toml(dataset, subsets)))
    fixed = {
        "dataset_config": file,
        "network_module": "lycoris.kohya" if "algo" in network else "networks.lora",
        **({"network_args": [f"{name}={value}" for name, value in network.items()]} if network else {}),
        "cache_latents": not (config.data.random_crop or config.data.colour_shift),
        "save_model_as": "safetensors",
        "save_every_n_epochs": 1,
        "output_dir": "output",
        **({"no_half_vae": True} if xl else {}),
        **_about_base(config, family, noise or {}),
    }
    script = "sdxl_train_network.py" if xl else "train_network.py"
    call = [f"accelerate launch --num_cpu_threads_per_process 1 {script}"]
    call += [_option(name, value, shell) for name, value in {**arguments, **fixed}.items() if value is not False]
    return "\n".join([*lines, f" {shell.goes_on}\n  ".join(call)]) + "\n"


def _arguments(config: TrainConfig, *, xl: bool) -> tuple[Values, Values]:
    """(sd-scripts' arguments, settings that it has no name for and that are not at their default)."""
    given = flatten(config.model_dump())
    by_block = blockwise.write(config, xl=xl)
    arguments: Values = {}
    lost: Values = {}
    for entry in settings():
        value = given[entry.path]
        if entry.path.startswith("evaluation."):
            continue  # sd-scripts does not compare epochs
        if entry.path == "data.more_folders":
            continue  # folders of the dataset file
        if entry.path in ("adapter.block_ranks", "adapter.block_alphas", "optimizer.block_learning_rates"):
            continue  # lists of their own
        said = known.WRITE[entry.path](value) if entry.path in known.WRITE else None
        if said is not None:
            arguments |= {name: word for name, word in said.items() if word not in ("", [])}
        elif entry.path in known.WRITE:
            lost[entry.path] = value
        elif not entry.kohya:
            lost |= {entry.path: value} if value != entry.default and entry.path != "data.trigger" else {}
        elif value not in ("", ()) and (value != _there(entry) or known.ALWAYS & set(entry.kohya)):
            arguments[entry.kohya[0]] = list(value) if isinstance(value, tuple) else value
    if config.loop.max_steps:
        arguments.pop("max_train_epochs")  # which would outdo the steps there
    if arguments.get("lr_scheduler", "constant") == "constant" and config.optimizer.warmup:
        arguments["lr_scheduler"] = "constant_with_warmup"
    if "learning_rate_te2" in arguments:
        arguments["text_encoder_lr"] = [arguments["text_encoder_lr"], arguments.pop("learning_rate_te2")]
    if config.optimizer.name == "AdaFactor":
        usual = ("scale_parameter=False", "relative_step=False", "warmup_init=False")
        words = arguments.get("optimizer_args", [])
        arguments["optimizer_args"] = words + [word for word in usual if word.partition("=")[0] not in str(words)]
    if names := known.OPTIMIZER_ARGS.get(config.optimizer.name):
        theirs = {ours: theirs for theirs, ours in names.items()}
        arguments["optimizer_args"] = known.called_otherwise(arguments.get("optimizer_args", []), theirs)
    arguments.pop("class_tokens", None)
    if config.data.trigger:
        arguments["class_tokens"] = f"{config.data.trigger} {config.data.class_word}".strip()
    elif config.data.class_word:
        lost["data.class_word"] = config.data.class_word
    return arguments | by_block, lost


def _about_base(config: TrainConfig, family: str, noise: Values) -> Values:
    """What sd-scripts does not read off a base, and trains another model without."""
    chosen = config.model.prediction
    said = {
        "v2": family == "sd2",
        "v_parameterization": (noise.get("prediction_type") if chosen == "auto" else chosen) == "v_prediction",
        "zero_terminal_snr": config.loss.zero_terminal_snr or noise.get("rescale_betas_zero_snr"),
    }
    return {name: True for name, needed in said.items() if needed}


def _kind(config: TrainConfig) -> Values:
    """The arguments that say which kind it is, and what it does with convolutions: sd-scripts' own LoRA learns none
    without a dim for them, and LyCORIS all of them without a preset (KohakuBlueleaf/LyCORIS, lycoris/kohya.py)."""
    adapter = config.adapter
    attention = adapter.targets == "attention"
    found: Values = {}
    if attention or adapter.rslora or adapter.kind in ("dora", "loha", "lokr"):
        found["algo"] = adapter.kind if adapter.kind in ("loha", "lokr") else "lora"
        # A DoRA's magnitudes lie along the input.
        found |= {"dora_wd": True, "wd_on_output": False} if adapter.kind == "dora" else {}
    convolutions = 0 if attention else adapter.conv_rank or (adapter.rank if adapter.kind == "locon" else 0)
    if convolutions:
        alpha = adapter.conv_alpha or adapter.alpha / adapter.rank * convolutions
        found |= {"conv_dim": convolutions, "conv_alpha": alpha}
    elif "algo" in found:
        found["preset"] = "attn-only" if attention else "attn-mlp"
    return found


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


def _option(name: str, value: Any, shell: Shell) -> str:
    if value is True:
        return f"--{name}"
    if isinstance(value, list):
        return " ".join([f"--{name}", *(shell.quote(str(item)) for item in value)])
    return f"--{name}={shell.quote(str(value))}"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _short(value: Any) -> str:
    return " ".join(str(value).split())
