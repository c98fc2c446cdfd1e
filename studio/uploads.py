"""Pictures that are dropped into a page: checked by content, written under harmless names, never over anything."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from studio import places
from trainer.dataset import images
from trainer.errors import UserError
from trainer.files import write_bytes

MOST_BYTES = 64_000_000  # of one picture
MOST_TEXT = 100_000  # of one caption


@dataclass
class Report:
    """What became of the files."""

    folder: Path
    written: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def save(name: str, files: list[tuple[str, bytes]]) -> Report:
    """Write these (name, content) into datasets/NAME. Raises UserError for a name that is none."""
    folder = folder_for(name)
    if not files:
        raise UserError("Choose some pictures first.")
    report = Report(folder)
    for file_name, content in files:
        target = folder / plain(Path(file_name.replace("\\", "/")).name)
        if reason := refusal(target, content):
            report.refused.append(f"{target.name} {reason}")
            continue
        report.written.append(write_bytes(target, content))
    return report


def folder_for(name: str) -> Path:
    """datasets/NAME, for a name that is one plain folder's."""
    cleaned = plain(name)
    if not cleaned or cleaned != name.strip() or cleaned.startswith("."):
        raise UserError("Give the folder a plain name, such as moss-cat: letters, digits, spaces, - and _.")
    return places.DATASETS / cleaned


def plain(name: str) -> str:
    r"""A file name without what a system could read as something else than a name."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "-", name).strip().strip(".")[:120]


def refusal(target: Path, content: bytes) -> str:
    """Why a file is not taken; empty when it is."""
    if target.exists():
        return "is there already."
    if target.suffix.lower() == ".txt":
        return "" if len(content) <= MOST_TEXT else "is too long for a caption."
    if target.suffix.lower() not in images.ENDINGS:
        return "is neither a picture nor a caption."
    if len(content) > MOST_BYTES:
        return f"is larger than {MOST_BYTES / 1e6:.0f} MB."
    try:
        with Image.open(io.BytesIO(content), formats=images.FORMATS) as picture:
            wide, high = picture.size
            if wide * high > images.MAX_PIXELS:
                return "claims more pixels than can be trained on."
            picture.verify()
    except Exception:  # a damaged file can make a decoder raise anything
        return "is not a picture that can be read."
    return ""
