"""Settings files from elsewhere: kohya_ss GUI JSON, sd-scripts TOML and command lines, a LoRA file's metadata."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import settings
from trainer.errors import UserError
from trainer.examples import repeats_of
from trainer.kohya import arguments as known
from trainer.kohya.file import read_header
from trainer.presets import flatten, read_toml

Values = dict[str, Any]
WHAT = (
    "a kohya_ss JSON, a training or dataset TOML or a training script of sd-scripts, or a LoRA .safetensors with "
    "ss_ metadata"
)


@dataclass(frozen=True)
class Source:
    """What a file says, under the names it uses there. `left` are names that its own tool would not look at."""

    path: Path
    kind: str
    values: Values
    left: dict[str, str]  # name -> why it is without effect there
    whole: bool = True  # False for a dataset alone: what it leaves out about training is not sd-scripts' default


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
    names = {alias for entry in settings() for alias in entry.kohya} | known.READ.keys() | known.RENAMED.keys()
    if not names & source.values.keys():
        raise UserError(f"{path} holds no setting of kohya's: give {WHAT}.")
    return source


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} is not a text file in UTF-8: give {WHAT}.") from None


# ── kohya_ss GUI ────────────────────────────────────────────────────────────────────────────────────────


def _gui(path: Path, alone: bool) -> Source:
    try:
        values = json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): save it again in the GUI.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is JSON, but no settings of the kohya_ss GUI: give {WHAT}.")
    values = dict(values)
    left = dict(_unused_in_gui(values))
    values = {name: value for name, value in values.items() if name not in left}
    kind = str(values.get("LoRA_type", ""))
    if kind.startswith("LyCORIS/"):
        values |= {"LoRA_type": "lycoris.kohya", "algo": kind.removeprefix("LyCORIS/").lower()}
    elif kind in ("Standard", "Kohya LoCon"):
        values["LoRA_type"] = "networks.lora"
    if known.is_off(values.get("text_encoder_lr", 1)) and not known.is_off(values.get("unet_lr")):
        # The GUI then starts sd-scripts without training the text encoder.
        values["network_train_unet_only"] = True
    for name in ("unet_lr", "text_encoder_lr"):
        if known.is_off(values.get(name, 1)):
            left[name] = "0 in the GUI leaves it out"
            values.pop(name)
    values |= _options(str(values.pop("additional_parameters", "")))
    return _with_dataset(Source(path, "kohya_ss GUI settings", values, left), alone)


def _unused_in_gui(values: Values):
    """Fields that hold something, though the GUI does not pass them on."""
    if values.get("LoRA_type", "Standard") == "Standard":
        yield from ((name, "not used by LoRA_type Standard") for name in known.LYCORIS_ONLY & values.keys())
    kind = values.get("noise_offset_type")
    if kind in ("Original", "Multires"):
        other = ("multires_noise_iterations", "multires_noise_discount") if kind == "Original" else ("noise_offset",)
        yield from ((name, f"not used by noise_offset_type {kind}") for name in other if name in values)
    if not known.is_off(values.get("lr_warmup_steps")) and "lr_warmup" in values:
        yield "lr_warmup", "lr_warmup_steps says it"
    elif "lr_warmup" in values and "lr_warmup_steps" in values:
        yield "lr_warmup_steps", "lr_warmup says it"
    if not known.is_off(values.get("max_train_epochs")) and "epoch" in values:
        yield "epoch", "max_train_epochs says it"
    elif "epoch" in values and "max_train_epochs" in values:
        yield "max_train_epochs", "epoch says it"


# ── sd-scripts ──────────────────────────────────────────────────────────────────────────────────────────


def _toml(path: Path, alone: bool) -> Source:
    content = read_toml(path)
    ours = {entry.path for entry in settings()}
    if ours & flatten(content).keys() and not {alias for entry in settings() for alias in entry.kohya} & content.keys():
        raise UserError(f"{path} is a preset already: use it with `lora-studio train --preset {path}`.")
    if isinstance(content.get("datasets"), list):
        return Source(path, "sd-scripts dataset", *_dataset(content), whole=False)
    # The sections are for people only; sd-scripts reads through them.
    values = {name.rpartition(".")[2]: value for name, value in flatten(content).items()}
    return _with_dataset(Source(path, "sd-scripts settings", values, {}), alone)


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


@dataclass(frozen=True)
class Differing:
    """An argument that no setting can say: usually because it has several values, one for each folder."""

    values: list[Any]
    why: str = "differs between the folders, and one run has one value for all"

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


def _script(path: Path, alone: bool) -> Source:
    """A shell or batch file with a call of sd-scripts; a dataset written into it is read as well."""
    text = _text(path)
    values = _options(text)
    if "train_network" not in text and not {"network_module", "network_dim", "train_data_dir"} & values.keys():
        raise UserError(f"{path} is no settings file that can be read: give {WHAT}.")
    embedded = re.search(r"<<'?TOML'?\s*\n(.*?)\nTOML", text, flags=re.DOTALL)
    return _with_dataset(Source(path, "sd-scripts command line", values, {}), alone, embedded[1] if embedded else "")


def _options(text: str) -> Values:
    """`--network_dim 16 --sdpa --network_args a=1 b=2` -> {"network_dim": "16", "sdpa": True, "network_args": […]}."""
    lines = re.sub(r"[\\^`][ \t]*\r?\n", " ", text)  # how shells, batch files and PowerShell go on in the next line
    lines = "\n".join(line for line in lines.splitlines() if not re.match(r"\s*(#|rem\s|::)", line, re.IGNORECASE))
    splitter = shlex.shlex(lines, posix=True, punctuation_chars=False)
    splitter.whitespace_split, splitter.commenters = True, ""
    splitter.escape = ""  # paths of Windows
    try:
        tokens = list(splitter)
    except ValueError:  # a quotation mark without its partner
        tokens = lines.split()
    values: Values = {}
    name = ""
    for token in tokens:
        if option := re.match(r"--([A-Za-z]\w*)(?:=(.*))?$", token, flags=re.DOTALL):
            name, value = option[1], option[2]
            values[name] = True if value is None else value
        elif name:
            before = values[name]
            values[name] = token if before is True else [*(before if isinstance(before, list) else [before]), token]
    return values


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
            # What is said on the command line counts more.
            values = {key.rpartition(".")[2]: value for key, value in flatten(content).items()} | values
    return Source(source.path, source.kind, values, source.left)


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
    left = {"output_name": "the name of that file; yours comes from --name"} if "output_name" in values else {}
    return Source(path, "metadata of a LoRA", values, left)


def _json(text: Any) -> Values:
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}


def _pairs(values: Values) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _optimizer_of(text: str) -> Values:
    """`bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))` -> type and arguments."""
    match = re.match(r"([\w.]+)(?:\((.*)\))?\s*$", text, flags=re.DOTALL)
    if not match:
        return {}
    found = re.split(r",\s*(?=[A-Za-z_]\w*=)", match[2]) if match[2] else []
    return {"optimizer_type": match[1], "optimizer_args": [part.replace(" ", "") for part in found]}


READERS: dict[str, Callable[[Path, bool], Source]] = {".json": _gui, ".toml": _toml, ".safetensors": _lora}
