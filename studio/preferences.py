"""What the person chose on the Settings page: .studio/settings.json in the working folder, whole or not there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer.files import write_json

FILE = Path(".studio") / "settings.json"
LANGUAGE = "LORA_STUDIO_LANGUAGE"  # in a worker's environment: that of the page that has started it
DEVICES = ("auto", "cpu", "0", "1", "2", "3")  # numbers are graphics cards, as CUDA counts them


@dataclass(frozen=True)
class Preferences:
    language: str = ""  # a key of language.LANGUAGES; empty: the browser's
    device: str = "auto"  # one of DEVICES
    model_folders: list[str] = field(default_factory=list)  # of other tools, only read
    tag_list: str = ""  # a .csv of known tags; empty: the one of a linked tool, where there is one


def load() -> Preferences:
    """What is in force; a file that was edited into nonsense counts as far as it makes sense."""
    try:
        values = json.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Preferences()
    if not isinstance(values, dict):
        return Preferences()
    language, device, folders, tags = (values.get(key) for key in ("language", "device", "model_folders", "tag_list"))
    return Preferences(
        language if isinstance(language, str) else "",
        device if device in DEVICES else "auto",
        [folder for folder in folders if isinstance(folder, str)] if isinstance(folders, list) else [],
        tags if isinstance(tags, str) else "",
    )


def save(preferences: Preferences) -> None:
    """Raises UserError when the file cannot be written."""
    write_json(FILE, asdict(preferences))


def environment() -> dict[str, str]:
    """What the chosen device means to a process that is started; with "auto" it sees what there is."""
    device = load().device
    return {} if device == "auto" else {"CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}
