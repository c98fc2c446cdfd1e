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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import UserError, nearest
from trainer.files import write_json

BASE_EPOCH = 0  # the row without any LoRA


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
    leak: bool = False  # asks for something *without* the trigger word: shows what bled into everything else


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

    @property
    def key(self) -> str:
        """Content address: 16 hex digits of SHA-256 over the cell's fields; the file name of its picture."""
        values = asdict(self)
        # The epoch's number is a label: what decides about the pixels is the file's hash.
        del values["epoch"]
        if not self.lora:
            del values["strength"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


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
            return cls(**values)
        except FileNotFoundError:
            raise UserError(f"{folder} holds no comparison: run `lora-studio evaluate` first.") from None
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it and run `lora-studio evaluate` again.") from None


def read_prompts(path: Path, trigger: str = "", subject: str = "") -> list[Prompt]:
    """A prompt set: `[[prompt]]` tables whose keys are Prompt's; `[trigger]` and `[class]` in texts are filled in.

    Raises UserError naming the file, the entry and the key that is wrong.
    """
    from trainer.presets import read_toml

    values = read_toml(Path(path))
    entries = values.get("prompt", [])
    if not entries:
        raise UserError(f"{path} holds no prompts: write each as a [[prompt]] table with name and prompt.")
    prompts = [_prompt(entry, f"{path}, prompt {index}", trigger, subject) for index, entry in enumerate(entries, 1)]
    names = [prompt.name for prompt in prompts]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} has two prompts called {name!r}: give each a name of its own.")
    return prompts


def _prompt(entry: dict[str, Any], where: str, trigger: str, subject: str) -> Prompt:
    known = Prompt.__dataclass_fields__
    for key in entry:
        if key not in known:
            raise UserError(f"{where}: there is no key {key!r}; {nearest(key, known)}")
    for key in ("name", "prompt"):
        if not isinstance(entry.get(key), str):
            raise UserError(f"{where} has no {key}: add {key} = \"…\".")
    texts = {key: _fill(entry.get(key, ""), trigger, subject) for key in ("prompt", "negative")}
    return Prompt(**{**entry, **texts})


def _fill(text: str, trigger: str, subject: str) -> str:
    filled = text.replace("[trigger]", trigger).replace("[class]", subject)
    # Without a trigger word the comma that followed it would lead the prompt.
    return ", ".join(part.strip() for part in filled.split(",") if part.strip()) if filled != text else text
