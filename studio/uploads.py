"""Pictures that are dropped into a page: checked by content, written under harmless names, never over anything."""

from __future__ import annotations

import io
import os
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from studio import places
from studio.language import _
from trainer.dataset import aside, images
from trainer.errors import UserError
from trainer.files import write_bytes

MOST_BYTES = 64_000_000  # of one picture
MOST_TEXT = 100_000  # of one caption
MOST_FILES = 20_000  # in one zip
PART = 200  # files that are written at once
MOST_UNPACKED = 8_000_000_000  # bytes of one zip
TAKEN = [ending.lstrip(".") for ending in images.ENDINGS] + ["txt", "zip"]


@dataclass
class Report:
    """What became of the files."""

    folder: Path
    written: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    id: str | None = None
    """By which all of them are undone as one."""

    def keep(self, ready: dict[Path, bytes]) -> None:
        """Write these files, on record first so that they can be taken back; empties `ready`."""
        if not ready:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        make = {path: partial(write_bytes, data=content) for path, content in ready.items()}
        self.id = aside.set_aside(self.folder, [], "add files", make=make, id=self.id)
        self.written += ready
        ready.clear()


def save(name: str, files: list[tuple[str, bytes]]) -> Report:
    """Write these (name, content), zips unpacked, into datasets/NAME; `aside.undo` takes all of them back.

    Raises UserError for a name that is none.
    """
    folder = folder_for(name)
    if not files:
        raise UserError(_("Choose some pictures first."))
    report = Report(folder)
    ready: dict[Path, bytes] = {}
    for file_name, content in unpacked(files, report):
        target = folder / plain(Path(file_name.replace("\\", "/")).name)
        if any(spelled(target) == spelled(path) for path in ready):
            report.keep(ready)  # whether the two are one file is the file system's to say
        if reason := refusal(target, content):
            report.refused.append(f"{target.name} {reason}")
            continue
        ready[target] = content
        if len(ready) == PART or sum(map(len, ready.values())) > MOST_BYTES:  # more may not fit into memory
            report.keep(ready)
    report.keep(ready)
    return report


def unpacked(files: list[tuple[str, bytes]], report: Report) -> Iterator[tuple[str, bytes]]:
    """The files, and in place of a zip what is in it; only the last part of a name in it ever counts."""
    for name, content in files:
        if not name.lower().endswith(".zip"):
            yield name, content
            continue
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                yield from members(archive, name, report)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error):  # zipfile's ways to refuse one
            report.refused.append(_("{name} cannot be unpacked: damaged, or locked with a password.").format(name=name))


def members(archive: zipfile.ZipFile, name: str, report: Report) -> Iterator[tuple[str, bytes]]:
    entries = [entry for entry in archive.infolist() if not entry.is_dir() and not hidden(entry.filename)]
    if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > MOST_UNPACKED:
        report.refused.append(_("{name} unpacks to more than a dataset holds.").format(name=name))
        return
    for entry in entries:
        if entry.file_size > MOST_BYTES:  # what the zip claims; reading stops there even if it lies
            report.refused.append(_("{name} is too large.").format(name=Path(entry.filename).name))
            continue
        with archive.open(entry) as file:
            yield entry.filename, file.read(MOST_BYTES + 1)


def hidden(name: str) -> bool:
    """What systems put into zips beside the pictures: __MACOSX/, .DS_Store."""
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in Path(name).parts)


def folder_for(name: str) -> Path:
    """datasets/NAME, for a name that is one plain folder's."""
    cleaned = plain(name)
    if not cleaned or cleaned != name.strip() or cleaned.startswith("."):
        raise UserError(_("Give the folder a plain name, such as moss-cat: letters, digits, spaces, - and _."))
    return places.DATASETS / cleaned


def link(path: str) -> Path:
    """Make a folder anywhere on this machine one of datasets/, as a link: its pictures stay where they are.

    Raises UserError for a path that is no folder with pictures, and where links cannot be made.
    """
    folder = Path(path.strip()).expanduser()
    if not folder.is_absolute() or not folder.is_dir():
        raise UserError(_("{folder} is not a folder here: give its whole path.").format(folder=path.strip()))
    images.some(folder)
    own, real = places.DATASETS.resolve(), folder.resolve()
    known = {(places.DATASETS / name).resolve() for name in places.datasets()}
    if real in known or own in (real, *real.parents) or real in own.parents:
        raise UserError(_("{folder} is in datasets/ already, or holds it.").format(folder=folder))
    target = folder_for(plain(real.name).lstrip(".") or "pictures")
    number = 1
    while target.is_symlink() or target.exists():
        number += 1
        target = target.with_name(f"{plain(real.name)}-{number}")
    try:
        places.DATASETS.mkdir(exist_ok=True)
        if os.name == "nt":  # links ask for rights there, junctions do not
            import _winapi

            _winapi.CreateJunction(str(real), str(target))
        else:
            target.symlink_to(real, target_is_directory=True)
    except OSError as error:
        text = _("{folder} cannot be linked in ({why}): copy its pictures into datasets/.")
        raise UserError(text.format(folder=folder, why=error.strerror)) from error
    return target


def plain(name: str) -> str:
    r"""A file name without what a system could read as something else than a name."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "-", name).strip().strip(".")[:120]


def spelled(path: Path) -> str:
    """A name as file systems see it for which A is a and an accent may be a letter of its own."""
    return unicodedata.normalize("NFC", path.name).casefold()


def refusal(target: Path, content: bytes) -> str:
    """Why a file is not taken; empty when it is."""
    if target.exists():
        return _("is there already.")
    if target.suffix.lower() == ".txt":
        return "" if len(content) <= MOST_TEXT else _("is too long for a caption.")
    if target.suffix.lower() not in images.ENDINGS:
        return _("is neither a picture nor a caption.")
    if len(content) > MOST_BYTES:
        return _("is too large.")
    try:
        with Image.open(io.BytesIO(content), formats=images.FORMATS) as picture:
            wide, high = picture.size
            if wide * high > images.MAX_PIXELS:
                return _("claims more pixels than can be trained on.")
            picture.verify()
    except Exception:  # a damaged file can make a decoder raise anything
        return _("is not a picture that can be read.")
    return ""
