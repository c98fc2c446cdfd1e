"""Prompt sets: TOML files with what a comparison's columns ask for, read and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainer.cells import DRAWN_SEED, EMPHASES, NOISE_SOURCES, Prompt, without_later
from trainer.errors import UserError, nearest
from trainer.presets import read_toml


def read_prompts(path: Path, trigger: str = "", subject: str = "") -> list[Prompt]:
    """A prompt set: `[[prompt]]` tables whose keys are Prompt's; `[trigger]` and `[class]` in texts are filled in.

    A seed of -1 is drawn once from what the prompt asks for: the same in every row and every run, and another
    one when the prompt changes. Raises UserError naming the file, the entry and what is wrong with it.
    """
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
    values = without_later({**asdict(prompt), "name": None, "leak": None}, Prompt)
    content = json.dumps(values, sort_keys=True)
    return int(hashlib.sha256(content.encode()).hexdigest()[:8], 16)


def _fill(text: str, trigger: str, subject: str) -> str:
    filled = text
    for mark, word in (("[trigger]", trigger), ("[class]", subject)):
        # "a [trigger] [class] in the snow" without a word has one space less, not two in a row.
        filled = filled.replace(mark, word) if word else filled.replace(mark + " ", "").replace(mark, "")
    # Without a trigger word the comma that followed it would lead the prompt.
    return ", ".join(part.strip() for part in filled.split(",") if part.strip()) if filled != text else text
