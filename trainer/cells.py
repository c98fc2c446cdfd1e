"""What a comparison consists of: prompts, cells, and the index file that a grid, a report and a page are made from.

    evaluations/<name>/
      evaluation.json     the index (see `Evaluation`): written last, so that what it names is there
      cells/<key>.png     one picture per cell, A1111 infotext inside
      scores.json  grid.png  report.html

A cell is identified by its content, never by its place in a grid: adding, removing or re-ordering prompts,
epochs or seeds leaves the pictures of all other cells valid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from trainer.errors import UserError, nearest
from trainer.files import write_json

BASE_EPOCH = 0  # the row without any LoRA
SECOND_BASE = -1  # that of a second run on another base
MOST_SEED = 2**63 - 1  # TOML's integers end there; A1111's own seeds are below 2**32
DRAWN_SEED = -1  # A1111's "random"
NOISE_SOURCES = ("NV", "CPU", "GPU")
EMPHASES = ("Original", "No norm", "Ignore", "None")


def is_base(epoch: int) -> bool:
    """Whether a row's number is that of a base."""
    return epoch <= BASE_EPOCH


@dataclass(frozen=True)
class Hires:
    """A1111's hires fix: the picture is upscaled and part of the way back to noise is sampled again."""

    upscale: float = 2.0
    width: int = 0  # px; with one side given the other follows, with both what is too long is cut off
    height: int = 0
    upscaler: str = "Latent"
    denoise: float = 0.7
    steps: int = 0  # 0: as many as the first pass
    sampler: str = ""  # this and the following, where they are empty: the first pass's
    prompt: str = ""
    negative: str = ""
    cfg_scale: float = 0.0

    def sizes(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(the size to upscale to, the size that is kept of it) for a first pass of this size, in px.

        As A1111 computes them; both are cut to multiples of 8, the latents' pixels.
        """
        if not self.width and not self.height:
            to = (int(width * self.upscale), int(height * self.upscale))
        elif not self.height or (self.width and width * self.height < height * self.width):
            to = (self.width, self.width * height // width)
        else:
            to = (self.height * width // height, self.height)
        to = (to[0] // 8 * 8, to[1] // 8 * 8)
        both = self.width and self.height
        return to, (min(to[0], self.width // 8 * 8), min(to[1], self.height // 8 * 8)) if both else to


@dataclass(frozen=True)
class Prompt:
    """One column: a prompt and what it pins; None leaves the choice to the run's evaluation settings."""

    name: str
    prompt: str
    negative: str = ""
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    sampler: str | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    clip_skip: int | None = None
    noise_source: str | None = None  # see NOISE_SOURCES
    ensd: int | None = None  # what is drawn after the initial noise comes from the seed plus this
    eta: float | None = None  # how much noise a step adds, of what the sampler has by itself
    emphasis: str | None = None  # see EMPHASES
    hires: Hires | None = None
    leak: bool = False  # asks for something *without* the trigger word: shows what bled into everything else

    def __post_init__(self):
        if isinstance(self.hires, dict):  # as it comes from JSON and TOML
            object.__setattr__(self, "hires", Hires(**self.hires))

    @property
    def texts(self) -> list[str]:
        """All that is read as prompts and negative prompts."""
        return [self.prompt, self.negative, *((self.hires.prompt, self.hires.negative) if self.hires else ())]


@dataclass(frozen=True)
class Cell:
    """One picture to be rendered. Everything in it decides about pixels, and nothing else does."""

    prompt: str
    negative: str
    seed: int
    epoch: int
    strength: float
    width: int
    height: int
    sampler: str
    steps: int
    cfg_scale: float
    clip_skip: int
    base: str  # hash of the base model
    lora: str = ""  # hash of the epoch's tensors; empty for the base row
    hires: Hires | None = None
    files: tuple[tuple[str, str, str], ...] = ()  # (kind, name, hash) of whatever else the prompt names
    noise_source: str = "NV"
    ensd: int = 0
    eta: float | None = None  # None: what the sampler has in A1111
    emphasis: str = "Original"

    @property
    def second_pass(self) -> Cell:
        """The cell as the hires fix's pass reads it: with that one's words and CFG scale, where it has its own."""
        if self.hires is None:
            return self
        own = {"prompt": self.hires.prompt, "negative": self.hires.negative, "cfg_scale": self.hires.cfg_scale}
        return replace(self, **{name: value for name, value in own.items() if value})

    @property
    def texts(self) -> list[str]:
        """All that is read as prompts and negative prompts."""
        second = self.second_pass
        return list(dict.fromkeys([self.prompt, self.negative, second.prompt, second.negative]))

    @property
    def key(self) -> str:
        """Content address: 16 hex digits of SHA-256 over the cell's fields; the file name of its picture."""
        values = asdict(self)
        # The epoch's number is a label: what decides about the pixels is the file's hash.
        del values["epoch"]
        if not self.lora:
            del values["strength"]
        # What a cell does not have is not part of its name, so that pictures outlive new fields.
        return hashlib.sha256(json.dumps(_without_later(values, Cell), sort_keys=True).encode()).hexdigest()[:16]


# Fields that came after there were pictures: where they hold their defaults, they are in no name and no drawn seed.
_LATER = {"hires", "files", "noise_source", "ensd", "eta", "emphasis"}
_LATER_HIRES = {"prompt", "negative", "cfg_scale"}


def _without_later(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """A cell's or a prompt's fields without those of `_LATER` that are at their defaults."""
    if values["hires"]:
        values["hires"] = _unlike(values["hires"], Hires, _LATER_HIRES)
    return _unlike(values, kind, _LATER)


def _unlike(values: dict[str, Any], kind: type, later: set[str]) -> dict[str, Any]:
    defaults = {one.name: one.default for one in fields(kind)}
    return {name: value for name, value in values.items() if name not in later or value != defaults[name]}


@dataclass
class Rendered:
    """A cell's place in a comparison: which column and row it fills, its picture and what was measured on it."""

    column: str  # Prompt.name
    epoch: int
    strength: float
    seed: int
    file: str  # relative to the evaluation's folder, "cells/<key>.png"; the file may not be there yet
    infotext: str = ""
    scores: dict[str, float] = field(default_factory=dict)


@dataclass
class Row:
    """What one epoch at one strength scores over all its pictures; the base is epoch 0."""

    epoch: int
    strength: float
    scores: dict[str, float] = field(default_factory=dict)


@dataclass
class Evaluation:
    """The index of a comparison: everything that a grid, a report or a page shows, without torch."""

    run: str  # the run folder's name
    title: str  # the LoRA's name
    about: dict[str, str]  # "Base model", "Sampler", "Size", … as they should be read
    prompts: list[Prompt]
    seeds: list[int]
    strengths: list[float]
    epochs: list[int]  # in row order, BASE_EPOCH first
    cells: list[Rendered]
    rows: list[Row] = field(default_factory=list)
    recommended: dict[str, Any] | None = None  # {"epoch": 6, "strength": 1.0, "reason": "…"}
    settings: str = ""  # the run's config.toml
    rendering: dict[str, Any] = field(default_factory=dict)  # the [evaluation] settings it was rendered under
    # Rows of a second run: their number here -> what they are called. Epochs follow the first run's numbers; the
    # base has a row of its own, SECOND_BASE, where it is another one.
    labels: dict[int, str] = field(default_factory=dict)

    def base_of(self, epoch: int) -> int:
        """The base row that a row is held against: its own run's, where that is there."""
        return SECOND_BASE if epoch in self.labels and SECOND_BASE in self.epochs else BASE_EPOCH

    def save(self, folder: Path) -> Path:
        return write_json(Path(folder) / "evaluation.json", asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        """Raises UserError when there is no comparison in `folder` or its index cannot be read."""
        path = Path(folder) / "evaluation.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["prompts"] = [Prompt(**entry) for entry in values["prompts"]]
            values["cells"] = [Rendered(**entry) for entry in values["cells"]]
            values["rows"] = [Row(**entry) for entry in values["rows"]]
            values["labels"] = {int(number): label for number, label in values.get("labels", {}).items()}
            return cls(**values)
        except FileNotFoundError:
            raise UserError(f"{folder} holds no comparison: run `lora-studio evaluate` first.") from None
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it and run `lora-studio evaluate` again.") from None


def read_prompts(path: Path, trigger: str = "", subject: str = "") -> list[Prompt]:
    """A prompt set: `[[prompt]]` tables whose keys are Prompt's; `[trigger]` and `[class]` in texts are filled in.

    A seed of -1 is drawn once from what the prompt asks for: the same in every row and every run, and another
    one when the prompt changes. Raises UserError naming the file, the entry and what is wrong with it.
    """
    from trainer.presets import read_toml

    entries = _entries(read_toml(Path(path)), path)
    folder = Path(path).parent
    prompts = [
        _prompt(entry, f"{path}, prompt {index}", trigger, subject, folder) for index, entry in enumerate(entries, 1)
    ]
    names = [prompt.name for prompt in prompts]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} has two prompts called {name!r}: give each a name of its own.")
    return prompts


def _entries(values: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    entries = values.get("prompt", [])
    if isinstance(entries, dict):
        raise UserError(f"{path} has [prompt] in single brackets: write [[prompt]] above each prompt.")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: `prompt` is not a list of tables: write [[prompt]] above each prompt.")
    if not entries:
        raise UserError(f"{path} holds no prompts: write each as a [[prompt]] table with name and prompt.")
    if unknown := [key for key in values if key not in ("prompt", "about")]:
        hint = nearest(unknown[0], ("about", "prompt"))
        raise UserError(f"{path}: there is no key {unknown[0]!r} outside of a prompt; {hint}")
    return entries


_SIDE = (lambda value: _whole(value) and 8 <= value <= 8192 and value % 8 == 0, "a multiple of 8 from 8 to 8192")
_TEXT = (lambda value: isinstance(value, str), "text in quotes")
# What each key of an entry may hold, and how that is said.
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str) and bool(value.strip()), "text in quotes, not empty"),
    "prompt": _TEXT,
    "negative": _TEXT,
    "seed": (lambda value: _whole(value) and value >= DRAWN_SEED, "a whole number from 0, or -1 to have one drawn"),
    "width": _SIDE,
    "height": _SIDE,
    "sampler": _TEXT,
    "steps": (lambda value: _whole(value) and 1 <= value <= 150, "a whole number from 1 to 150"),
    "cfg_scale": (lambda value: _number(value) and 1 <= value <= 30, "a number from 1 to 30"),
    "clip_skip": (lambda value: _whole(value) and 1 <= value <= 12, "a whole number from 1 to 12"),
    "noise_source": (lambda value: value in NOISE_SOURCES, f"one of {', '.join(NOISE_SOURCES)}"),
    "ensd": (lambda value: _whole(value) and 0 <= value < 2**32, "a whole number from 0, such as 31337"),
    "eta": (lambda value: _number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "emphasis": (lambda value: value in EMPHASES, f"one of {', '.join(EMPHASES)}"),
    "styles": (
        lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
        'a list of names from styles.csv, such as ["photo"]',
    ),
    "hires": (lambda value: isinstance(value, dict), "a table such as { upscale = 2.0, denoise = 0.5 }"),
    "leak": (lambda value: isinstance(value, bool), "true or false"),
}
# What each key of a `hires` table may hold.
HIRES_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "upscale": (lambda value: _number(value) and 1 <= value <= 4, "a number from 1 to 4"),
    "width": _SIDE,
    "height": _SIDE,
    "upscaler": _TEXT,
    "denoise": (lambda value: _number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "steps": (lambda value: _whole(value) and 0 <= value <= 150, "a whole number from 0 (as the first pass) to 150"),
    "sampler": _TEXT,
    "prompt": _TEXT,
    "negative": _TEXT,
    "cfg_scale": (
        lambda value: value == 0 or (_number(value) and 1 <= value <= 30),
        "a number from 1 to 30, or 0 for the first pass's",
    ),
}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # true is an int to Python


def _number(value: Any) -> bool:
    return _whole(value) or isinstance(value, float)


def _prompt(entry: dict[str, Any], where: str, trigger: str, subject: str, folder: Path) -> Prompt:
    _check_values(entry, VALUES, where)
    _check_values(entry.get("hires", {}), HIRES_VALUES, f"{where}, hires")
    for key in ("name", "prompt"):
        if key not in entry:
            raise UserError(f'{where} has no {key}: add {key} = "…".')
    for table in (entry, entry.get("hires", {})):
        require_sampler(table.get("sampler", ""), where)
    styles = entry.pop("styles", [])
    for table in (entry, entry.get("hires", {})):
        texts = _styled((table.get("prompt", ""), table.get("negative", "")), styles, where, folder)
        filled = zip(("prompt", "negative"), (_fill(text, trigger, subject) for text in texts))
        # Words that the hires fix does not have are the first pass's, styles and all.
        table |= {key: text for key, text in filled if table is entry or table.get(key)}
    prompt = Prompt(**entry)
    return replace(prompt, seed=_drawn_seed(prompt)) if prompt.seed == DRAWN_SEED else prompt


def _styled(texts: tuple[str, str], names: list[str], where: str, folder: Path) -> tuple[str, str]:
    """Prompt and negative prompt with A1111's styles, from a styles.csv beside the prompt set or in this folder."""
    from trainer.webui.styles import apply_style, read_styles

    if not names:
        return texts
    file = next((path for path in (folder / "styles.csv", Path("styles.csv")) if path.is_file()), None)
    if file is None:
        raise UserError(f"{where}: there is no styles.csv in {folder} or in the current folder: copy A1111's there.")
    known = read_styles(file)
    for name in names:
        if name not in known:
            raise UserError(f"{where}: {file} has no style {name!r}; {nearest(name, known)}")
        texts = tuple(apply_style(text, style) for text, style in zip(texts, known[name]))
    return texts


def _check_values(entry: dict[str, Any], values: dict[str, tuple[Callable[[Any], bool], str]], where: str) -> None:
    for key, value in entry.items():
        if key not in values:
            raise UserError(f"{where}: there is no key {key!r}; {nearest(key, values)}")
        fits, wanted = values[key]
        if not fits(value):
            raise UserError(f"{where}: {key} = {value!r} is not {wanted}.")


def require_sampler(name: str, where: str) -> None:
    """Raises UserError, beginning with `where`, for a sampler that does not exist."""
    from trainer.webui.samplers import resolve

    try:
        if name:
            resolve(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _drawn_seed(prompt: Prompt) -> int:
    """A seed below 2**32 from what the prompt asks for; its name is a label and decides nothing."""
    values = _without_later({**asdict(prompt), "name": None, "leak": None}, Prompt)
    content = json.dumps(values, sort_keys=True)
    return int(hashlib.sha256(content.encode()).hexdigest()[:8], 16)


def _fill(text: str, trigger: str, subject: str) -> str:
    filled = text
    for mark, word in (("[trigger]", trigger), ("[class]", subject)):
        # "a [trigger] [class] in the snow" without a word has one space less, not two in a row.
        filled = filled.replace(mark, word) if word else filled.replace(mark + " ", "").replace(mark, "")
    # Without a trigger word the comma that followed it would lead the prompt.
    return ", ".join(part.strip() for part in filled.split(",") if part.strip()) if filled != text else text
