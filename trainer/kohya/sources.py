"""Settings files from elsewhere: kohya_ss GUI JSON, sd-scripts TOML and command lines, a LoRA file's metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from trainer.config import settings
from trainer.errors import UserError
from trainer.examples import repeats_of
from trainer.kohya import arguments as known
from trainer.kohya import gui, onetrainer, scripts
from trainer.kohya.arguments import Differing, Values
from trainer.kohya.file import read_header
from trainer.presets import flatten, read_toml

WHAT = (
    "a kohya_ss or OneTrainer JSON, a training or dataset TOML or a training script of sd-scripts, or a LoRA "
    ".safetensors with ss_ metadata"
)
ONLY = "here are SD 1.5, SD 2.x and SDXL"
LISTS = ("optimizer_args", "network_args", "lr_scheduler_args")  # name=value pairs
# Without a number of epochs or steps sd-scripts makes 1600 steps.
SD_SCRIPTS = known.DEFAULTS | {"max_train_steps": 1600}


@dataclass(frozen=True)
class Source:
    """What a file says, under the names it uses there. `left` are names that its own tool would not look at."""

    path: Path
    kind: str
    values: Values
    left: dict[str, str]  # name -> why it is without effect there
    defaults: Values = field(default_factory=lambda: known.DEFAULTS)  # what its tool takes for what is left out
    called: dict[str, str] = field(default_factory=dict)  # name -> kohya's name or ours, where it has another


def read_source(path: Path, *, alone: bool = False) -> Source:
    """Read any of the known kinds of file. Raises UserError with one sentence for everything else.

    `alone`: files that it names are not looked for, as it comes from somebody who must not have them read.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: give {WHAT}.")
    try:
        source = READERS.get(path.suffix.lower(), _script)(path, alone)
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a settings file: give {WHAT}.") from None
    if not _names() & source.values.keys() and not source.called:
        raise UserError(f"{path} holds no setting of kohya's: give {WHAT}.")
    if kind := _other_model(source.values):
        raise UserError(f"{path} trains a LoRA for another kind of model ({kind}): {ONLY}.")
    return source


@cache
def _names() -> frozenset[str]:
    """What kohya's arguments are called, as far as something is known about them."""
    declared = {alias for entry in settings() for alias in entry.kohya}
    return frozenset(declared | known.READ.keys() | known.RENAMED.keys())


def _other_model(values: Values) -> str:
    """What it is that a LoRA is trained for, when that is neither SD 1.5, SD 2.x nor SDXL; else empty."""
    for name in ("LoRA_type", "network_module", "base_model_version"):
        found = str(values.get(name, ""))
        if re.match(r"(networks\.lora_(?!fa\b)|flux|sd3|sd_?3|lumina|hunyuan|anima|chroma)", found, re.IGNORECASE):
            return found
    return next((name for name in ("flux1_checkbox", "sd3_checkbox") if known.flag(values.get(name))), "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} is not a text file in UTF-8: give {WHAT}.") from None


# ── kohya_ss GUI, OneTrainer ────────────────────────────────────────────────────────────────────────────


def _json_file(path: Path, alone: bool) -> Source:
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): save it again where it was made.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is JSON, but no settings of the kohya_ss GUI: give {WHAT}.")
    if "data_backend_config" in content:
        raise UserError(f"{path} is made for SimpleTuner, which is not read here: give {WHAT}.")
    if onetrainer.is_it(content):
        if why := onetrainer.model_of(content):
            raise UserError(f"{path} trains {why}: {ONLY}.")
        values, left, called = onetrainer.arguments(content)
        if found := onetrainer.folders(content):
            values |= _dataset({"datasets": [{"subsets": found}]})[0]
        return Source(path, "OneTrainer settings", values, left, onetrainer.DEFAULTS, called)
    values, left = gui.arguments(content)
    return _with_dataset(Source(path, "kohya_ss GUI settings", values, left, gui.DEFAULTS), alone)


# ── sd-scripts ──────────────────────────────────────────────────────────────────────────────────────────


def _toml(path: Path, alone: bool) -> Source:
    content = read_toml(path)
    if flatten(content).keys() - {"about"} <= {entry.path for entry in settings()} and content:
        raise UserError(f"{path} is a preset already: use it with `lora-studio train --preset {path}`.")
    if isinstance(content.get("datasets"), list):
        about_pictures = {name: known.DEFAULTS[name] for name in ("shuffle_caption", "keep_tokens", "max_bucket_reso")}
        return Source(path, "sd-scripts dataset", *_dataset(content), about_pictures)
    # The sections are for people only; sd-scripts reads through them.
    values = _sections(content)
    # LoRA Easy Training Scripts keep the folders in the same file.
    subsets = values.pop("subsets", None)
    if isinstance(subsets, list):
        values |= _dataset({"datasets": [{"subsets": subsets}]})[0]
    # A template with a few arguments says nothing about the others.
    whole = known.DEFAULTS.keys() & values.keys() - {"shuffle_caption", "keep_tokens", "max_bucket_reso"}
    return _with_dataset(Source(path, "sd-scripts settings", values, {}, SD_SCRIPTS if whole else {}), alone)


def _sections(content: Values) -> Values:
    """The arguments in all sections; those that sd-scripts takes as name=value may have a section of their own."""
    values: Values = {}
    for name, value in content.items():
        if isinstance(value, dict) and name in LISTS and not {"args", "dataset_args"} & value.keys():
            values[name] = [f"{inner}={said}" for inner, said in value.items()]
        elif isinstance(value, dict):
            values |= _sections(value)
        else:
            values[name] = value
    return values


def _dataset(content: Values) -> tuple[Values, dict[str, str]]:
    """General settings, those of each dataset and those of each folder, the nearer ones on top of the others."""
    folders: list[Values] = []
    general = content.get("general")
    for dataset in content["datasets"]:
        subsets = dataset.get("subsets") if isinstance(dataset, dict) else None
        for subset in subsets if isinstance(subsets, list) else ():
            if isinstance(subset, dict):
                own = {name: value for name, value in dataset.items() if name != "subsets"}
                folders.append({**(general if isinstance(general, dict) else {}), **own, **subset})
    trained = [folder for folder in folders if not known.flag(folder.get("is_reg"))]
    values: Values = {}
    for name in dict.fromkeys(name for folder in trained for name in folder):
        found = [folder.get(name) for folder in trained]
        alike = all(value == found[0] or known.is_off(value) and known.is_off(found[0]) for value in found)
        values[name] = found[0] if alike else Differing(["left out" if value is None else value for value in found])
    regular = [folder["image_dir"] for folder in folders if folder not in trained and "image_dir" in folder]
    if regular:
        values["reg_data_dir"] = regular[0] if len(regular) == 1 else Differing(regular)
    return values | _places([folder for folder in trained if "image_dir" in folder]), {}


def _places(trained: list[Values]) -> Values:
    """Where the pictures lie and how often they count: the repeats are the first folder's, and the other folders carry
    their share of them. A folder that is named twice counts as often as both times together."""
    wanted: dict[str, int] = {}
    for folder in trained:
        place = str(folder["image_dir"])
        wanted[place] = wanted.get(place, 0) + _count(folder.get("num_repeats", 1))
    if not wanted or not all(wanted.values()):
        return {}  # a number that is none is told where it stands
    # A folder called 10_moss says its own repeats here and not in a dataset file: it comes first only where both agree.
    named = {place: repeats_of(Path(place).name) for place in wanted}
    first = next((place for place in wanted if named[place] in (0, wanted[place])), next(iter(wanted)))
    values: Values = {"image_dir": first}
    usual = wanted[first]
    if named[first] not in (0, usual):
        values["num_repeats"] = Differing([usual], f"the name of {first} says {named[first]} here: rename the folder")
        usual = 1
    elif len(wanted) > 1 or any("num_repeats" in folder for folder in trained):
        values["num_repeats"] = usual
    others = {place: wanted[place] / (named[place] or usual) for place in wanted if place != first}
    if others:
        values[known.MORE_FOLDERS] = [_times(place, times) for place, times in others.items()]
    return values


def _times(place: str, times: float) -> str:
    return place if times == 1 else f"{place}*{times:.9f}".rstrip("0").rstrip(".")


def _count(value: Any) -> int:
    """0 where it is no number of times."""
    return int(value) if isinstance(value, (int, str)) and re.fullmatch(r"[1-9]\d{0,4}", str(value)) else 0


def _script(path: Path, alone: bool) -> Source:
    """A shell or batch file with a call of sd-scripts; a dataset written into it is read as well."""
    text = _text(path)
    script, values, elsewhere, lines = scripts.call(text)
    if re.search(r"type:\s*['\"]?(sd_trainer|diffusion_trainer)", text):
        raise UserError(f"{path} is made for ai-toolkit, which is not read here: give {WHAT}.")
    if not script and not {"network_module", "network_dim", "train_data_dir"} & values.keys():
        raise UserError(f"{path} is no settings file that can be read: give {WHAT}.")
    if script not in ("", "train_network.py", "sdxl_train_network.py"):
        raise UserError(f"{path} trains with {script}, a LoRA for another kind of model: {ONLY}.")
    for name, value in elsewhere.items():
        if name in _names() and name not in values:
            values[name] = Differing([value], "it stands outside of the call, where the file decides whether it counts")
    source = Source(path, "sd-scripts command line", values, {}, SD_SCRIPTS)
    source = _with_dataset(source, alone, _embedded("\n".join(lines)))
    for name, value in source.values.items():
        if name not in known.NEEDLESS and (variable := scripts.unknown_variable(value)):
            source.values[name] = Differing([value], f"the file does not say what {variable} is")
    return source


def _embedded(text: str) -> str:
    """The dataset that a script writes into a file first: what stands between <<NAME and NAME, or @' and '@."""
    found = re.findall(r"<<-?\s*['\"]?(\w+)['\"]?.*?\n(.*?)\n\s*\1\s*$", text, flags=re.DOTALL | re.MULTILINE)
    found += re.findall(r"@(['\"])\s*\n(.*?)\n\1@", text, flags=re.DOTALL)
    return next((inner for _, inner in found if "[[datasets" in inner), "")


def _with_dataset(source: Source, alone: bool, embedded: str = "") -> Source:
    """Also what stands in the files that a source names: --config_file and --dataset_config, beside it."""
    import tomllib

    values = dict(source.values)
    for name in ("config_file", "dataset_config"):
        found = values.get(name)
        path = source.path.parent / str(found)
        content: Values = {}
        if embedded and name == "dataset_config":
            try:
                content = tomllib.loads(embedded)
            except tomllib.TOMLDecodeError as error:
                raise UserError(f"The dataset inside {source.path} is not valid TOML: {error}.") from None
        elif alone and not known.is_off(found):
            raise UserError(
                f"{source.path} refers to {found}, which is not part of it: import on the command line, with that file "
                f"beside this one."
            )
        elif isinstance(found, str) and path.is_file() and path != source.path:
            content = read_toml(path)
        elif not known.is_off(found):
            raise UserError(f"{source.path} refers to {found}, which is not at {path}: put it there, and import again.")
        if isinstance(content.get("datasets"), list):
            values |= _dataset(content)[0]
        else:
            values = _sections(content) | values  # what is said on the command line counts more
    return replace(source, values=values)


# ── a LoRA file ─────────────────────────────────────────────────────────────────────────────────────────


def _lora(path: Path, _alone: bool) -> Source:
    header = read_header(path)
    values: Values = {}
    for key, text in header.metadata.items():
        if key.startswith("ss_"):
            name = key.removeprefix("ss_")
            values[name] = None if text == "None" else text
    if not values:
        raise UserError(f"{path} carries no ss_ metadata: whoever made it left no settings in it.")
    values["epoch_saved"] = values.pop("epoch", None)  # which one this file is; num_epochs is how many there were
    values |= _optimizer_of(str(values.pop("optimizer", "") or ""))
    values["network_args"] = _pairs(_json(values.get("network_args")))
    dirs = _json(values.get("dataset_dirs"))
    repeats = {entry.get("n_repeats") for entry in dirs.values() if isinstance(entry, dict)}
    if repeats:
        values["num_repeats"] = repeats.pop() if len(repeats) == 1 else Differing(sorted(map(str, repeats)))
    if header.shapes and not any(key.startswith("lora_te") for key in header.shapes):
        values["network_train_unet_only"] = True
    kept = {"F16": "fp16", "BF16": "bf16", "F32": "float"}
    stored = [kept[dtype] for key, dtype in header.dtypes.items() if dtype in kept and not key.endswith(".alpha")]
    if stored:
        values["save_precision"] = stored[0]
    values = _described(_json(values.get("datasets"), list)) | values
    left = {"output_name": "the name of that file; yours comes from --name"} if "output_name" in values else {}
    return Source(path, "metadata of a LoRA", values, left)


def _described(datasets: list[Any]) -> Values:
    """What metadata says of the folders of a dataset file: of their places only the names, which are of no use."""
    kept = (known.DATASET_ARGS | known.SUBSET_ARGS | {"batch_size_per_device", "enable_bucket"}) - {"image_dir"}
    found = []
    for dataset in datasets:
        if isinstance(dataset, dict):
            subsets = dataset.get("subsets")
            inner = [one for one in subsets if isinstance(one, dict)] if isinstance(subsets, list) else []
            chosen = [{name: value for name, value in one.items() if name in kept} for one in inner]
            found.append({name: value for name, value in dataset.items() if name in kept} | {"subsets": chosen})
    return _dataset({"datasets": found})[0]


def _json(text: Any, kind: type = dict) -> Any:
    try:
        value = json.loads(text) if isinstance(text, str) else kind()
    except ValueError:
        value = kind()
    return value if isinstance(value, kind) else kind()


def _pairs(values: Values) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _optimizer_of(text: str) -> Values:
    """`bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))` -> type and arguments."""
    match = re.match(r"([\w.]+)(?:\((.*)\))?\s*$", text, flags=re.DOTALL)
    if not match:
        return {}
    found = re.split(r",\s*(?=[A-Za-z_]\w*=)", match[2]) if match[2] else []
    return {"optimizer_type": match[1], "optimizer_args": [part.replace(" ", "") for part in found]}


READERS: dict[str, Callable[[Path, bool], Source]] = {".json": _json_file, ".toml": _toml, ".safetensors": _lora}
