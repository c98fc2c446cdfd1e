"""What a picture was made with, shown, and carried into a prompt set: a creator's settings become one's own.

A1111's PNG Info for every picture that `webui.infotext` can read, those of ComfyUI and InvokeAI included.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.cells import MOST_SEED
from trainer.errors import UserError
from trainer.files import write_text
from trainer.presets import read_toml, to_toml
from trainer.prompt_sets import HIRES_VALUES, VALUES, read_prompts
from trainer.webui import infotext, prompt, samplers
from trainer.webui.infotext import Infotext

SOURCES = {"a1111": "A1111's infotext", "comfyui": "a ComfyUI workflow", "invokeai": "InvokeAI's metadata"}
# Settings that an entry of a prompt set holds, or that follow from the file itself.
CARRIED = (
    "Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Clip skip", "RNG", "ENSD", "Eta", "Eta DDIM",
    "Emphasis",
)  # fmt: skip
HIRES = (
    "Hires upscale", "Hires resize", "Hires steps", "Hires upscaler", "Hires sampler", "Hires schedule type",
    "Denoising strength", "Hires prompt", "Hires negative prompt", "Hires CFG Scale",
)  # fmt: skip
UNSAID = ("Version", "User")


@dataclass(frozen=True)
class Found:
    """The settings in a picture: `source` is a key of SOURCES."""

    source: str
    info: Infotext

    def as_json(self) -> dict[str, Any]:
        """{"source", "prompt", "negative_prompt", "settings": {key: value as text, in order}}."""
        texts = {"prompt": self.info.prompt, "negative_prompt": self.info.negative_prompt}
        return {"source": self.source, **texts, "settings": dict(self.info.settings)}


@dataclass(frozen=True)
class Added:
    """A prompt that was appended to a set: its name there, and in sentences what could not come along."""

    name: str
    notes: tuple[str, ...]


def read_text(text: str) -> Found:
    """The settings in a text that was copied from a page or saved beside a picture. Raises UserError for no text."""
    if not text.strip():
        raise UserError("There is no text: paste the settings as A1111 or Civitai show them.")
    return Found("a1111", infotext.parse(text))


def read(image: Path) -> Found:
    """The settings that a picture carries, or the .txt beside it. Raises UserError when it is no picture or carries
    none."""
    if not Path(image).is_file():
        raise UserError(f"There is no picture {image}.")
    if Path(image).suffix.lower() == ".txt":
        return read_text(Path(image).read_text(encoding="utf-8-sig", errors="replace"))
    found = infotext.read_image(image)
    if found is None:
        raise UserError(
            f"{image} carries no settings: they are lost when a picture is edited, converted or sent through a "
            "messenger. Use the file that the tool itself saved."
        )
    return Found(*found)


def append(info: Infotext, path: Path, name: str) -> Added:
    """Append a [[prompt]] with these settings to the prompt set `path`, made if it is not there.

    What stands in the file stays as it is, byte for byte. The entry is called `name`, numbered where the set
    has one of that name. Raises UserError when the set is broken or cannot be written; nothing is changed then.
    """
    path = Path(path)
    if path.suffix != ".toml":
        raise UserError(f"--to {path}: a prompt set is a .toml file, for example --to prompts.toml.")
    entry, notes = entry_of(info)
    before, taken = _standing(path)
    name = _unique(name, taken)
    newline = "\r\n" if "\r\n" in before else "\n"
    hires = {"prompt.hires": entry.pop("hires")} if "hires" in entry else {}
    block = "[[prompt]]\n" + to_toml({"name": name, **entry, **hires})
    joint = "" if not before else newline * (1 if before.endswith("\n") else 2)
    text = before + joint + block.replace("\n", newline)
    _require_readable(text, path)
    write_text(path, text)
    return Added(name, notes)


def _standing(path: Path) -> tuple[str, set[str]]:
    """The file's text exactly as it stands, and the names in it."""
    if not path.exists():
        return "", set()
    taken = {one.name for one in read_prompts(path)} if read_toml(path).get("prompt") else set()
    return path.read_bytes().decode("utf-8"), taken


def _require_readable(text: str, path: Path) -> None:
    # `prompt = []` and the like are valid TOML to which no [[prompt]] can be added.
    try:
        tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"No [[prompt]] can be added to {path} ({error}): write its prompts as [[prompt]].") from None


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    return next(f"{name} {number}" for number in range(2, len(taken) + 3) if f"{name} {number}" not in taken)


# ── from settings to an entry ───────────────────────────────────────────────────────────────────────────


def entry_of(info: Infotext) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the keys of a `cells.Prompt` without its name, sentences about what was left out).

    An absent Clip skip means 1, as in A1111; any other absent setting is left to the run.
    """
    text, networks = _without_networks(info.prompt)
    second, more = _without_networks(info.settings.get("Hires prompt", ""))
    tags = dict.fromkeys(map(_tag, [*networks, *more]))
    notes = [f"Taken out of the prompt: {tag}; the epochs take its place." for tag in tags]
    entry: dict[str, Any] = {"prompt": text}
    if info.negative_prompt:
        entry["negative"] = info.negative_prompt
    own_words = {"prompt": second if second != text else ""}
    own_words["negative"] = info.settings.get("Hires negative prompt", "")
    for values, note in (_seed(info), _size(info), _sampler(info), _numbers(info), _noise(info), _hires(info)):
        entry |= values
        notes += [note] if note else []
    if "hires" in entry:
        entry["hires"] |= {key: words for key, words in own_words.items() if words}
    entry = dict(_usable(entry, notes))
    carried = (*CARRIED, *UNSAID, *(HIRES if "hires" in entry else ()))
    left = [key for key in info.settings if key not in carried]
    if left:
        notes.append(f"Not part of a prompt set: {', '.join(left)}.")
    return entry, tuple(notes)


def _without_networks(text: str) -> tuple[str, tuple[prompt.Network, ...]]:
    left, networks = prompt.extract_networks(text)
    return left.strip(" ,\n") if networks else text, networks


def _tag(network: prompt.Network) -> str:
    return "<" + ":".join((network.kind, network.name, *network.args)) + ">"


def _seed(info: Infotext) -> tuple[dict[str, int], str]:
    text = info.settings.get("Seed", "")
    if not text:
        return {}, ""
    if not re.fullmatch(r"\d{1,19}", text) or int(text) > MOST_SEED:
        return {}, f"Seed {text} is not a seed that can be repeated: the run's own seeds are used."
    return {"seed": int(text)}, ""


def _size(info: Infotext) -> tuple[dict[str, int], str]:
    text = info.settings.get("Size", "")
    match = re.fullmatch(r"(\d{1,5})\s*[x×]\s*(\d{1,5})", text)
    if not match:
        return {}, f"Size {text} cannot be read: the run's own size is used." if text else ""
    width, height = (max(8, int(side) // 8 * 8) for side in match.groups())
    exact = text == f"{width}x{height}"
    note = "" if exact else f"Size {text} became {width}x{height}: A1111 cuts to multiples of 8 as well."
    return {"width": width, "height": height}, note


def _sampler(info: Infotext) -> tuple[dict[str, str], str]:
    """Sampler and schedule type as the one label that a prompt set holds, "DPM++ 2M Karras"."""
    name, schedule = info.settings.get("Sampler", ""), info.settings.get("Schedule type")
    if not name:
        return {}, ""
    try:
        sampler, label = samplers.resolve(name, schedule)
    except UserError as error:
        return {}, f"{error} The run's own sampler is used."
    return {"sampler": sampler.label if label == sampler.schedule else f"{sampler.label} {label}"}, ""


def _hires(info: Infotext) -> tuple[dict[str, dict[str, Any]], str]:
    """The hires fix as A1111 writes it; only where there is one, since img2img has a denoising strength, too."""
    said = info.settings
    if "Hires upscale" not in said and "Hires resize" not in said:
        return {}, ""
    found: dict[str, Any] = {"upscaler": said.get("Hires upscaler", "Latent")}
    labels = {
        "upscale": "Hires upscale", "denoise": "Denoising strength", "steps": "Hires steps",
        "cfg_scale": "Hires CFG Scale",
    }  # fmt: skip
    for key, label in labels.items():
        if re.fullmatch(r"\d{1,4}(\.\d+)?", text := said.get(label, "")):
            found[key] = int(text) if key == "steps" and text.isdigit() else float(text)
    if match := re.fullmatch(r"(\d{1,5})x(\d{1,5})", said.get("Hires resize", "")):
        sides = zip(("width", "height"), match.groups())
        found |= {key: int(side) // 8 * 8 for key, side in sides if int(side) >= 8}
    sampler, schedule = said.get("Hires sampler"), said.get("Hires schedule type")
    if sampler or schedule:
        # What the hires pass does not say for itself is the first pass's.
        first = Infotext(settings={"Sampler": sampler or said.get("Sampler", "")})
        first.settings["Schedule type"] = schedule or said.get("Schedule type", "Automatic")
        values, note = _sampler(first)
        found |= values
        if note:
            return {}, f"The hires fix was left out: {note}"
    wrong = [key for key, value in found.items() if not HIRES_VALUES[key][0](value)]
    if wrong:
        return {}, f"The hires fix was left out: its {wrong[0]} = {found[wrong[0]]} is not {HIRES_VALUES[wrong[0]][1]}."
    return {"hires": found}, ""


def _noise(info: Infotext) -> tuple[dict[str, Any], str]:
    """Where the noise comes from, and how weights count; what A1111 does not write is as it is by default."""
    said = info.settings
    found: dict[str, Any] = {"noise_source": said.get("RNG"), "emphasis": said.get("Emphasis")}
    if re.fullmatch(r"\d{1,10}", said.get("ENSD", "")):
        found["ensd"] = int(said["ENSD"])
    if re.fullmatch(r"\d(\.\d+)?", eta := said.get("Eta", said.get("Eta DDIM", ""))):
        found["eta"] = float(eta)
    return {key: value for key, value in found.items() if value is not None}, ""


def _numbers(info: Infotext) -> tuple[dict[str, Any], str]:
    values, unusable = {}, []
    for key, label in {"steps": "Steps", "cfg_scale": "CFG scale", "clip_skip": "Clip skip"}.items():
        # Where A1111 leaves the clip skip out, it was 1.
        text = info.settings.get(label, "1" if key == "clip_skip" and info.settings else "")
        if re.fullmatch(r"\d{1,4}(\.\d+)?", text):
            values[key] = float(text) if key == "cfg_scale" or float(text) % 1 else int(float(text))
        elif text:
            unusable.append(f"{label} {text!r} is no number and is left to the run.")
    return values, " ".join(unusable)


def _usable(entry: dict[str, Any], notes: list[str]) -> Iterator[tuple[str, Any]]:
    """What a prompt set may hold of the entry; the rest is said."""
    for key, value in entry.items():
        fits, wanted = VALUES[key]
        if fits(value):
            yield key, value
        else:
            notes.append(f"{key} = {value} is left to the run: a prompt set takes {wanted}.")


def lines(found: Found) -> Iterator[tuple[str, str]]:
    """(label, value) pairs for the terminal."""
    yield "Source", SOURCES.get(found.source, found.source)
    yield "Prompt", found.info.prompt or "(empty)"
    yield "Negative prompt", found.info.negative_prompt or "(empty)"
    yield from found.info.settings.items()
