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
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from trainer.errors import UserError
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
        return hashlib.sha256(json.dumps(without_later(values, Cell), sort_keys=True).encode()).hexdigest()[:16]


# Fields that came after there were pictures: where they hold their defaults, they are in no name and no drawn seed.
_LATER = {"hires", "files", "noise_source", "ensd", "eta", "emphasis"}
_LATER_HIRES = {"prompt", "negative", "cfg_scale"}


def without_later(values: dict[str, Any], kind: type) -> dict[str, Any]:
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
