"""What can be done about a finding: one function a kind, in FIXES; nothing is deleted and all of it can be undone.

Pictures that go, or are replaced, wait in `.originals/` (see `aside.py`); captions go through the journal.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from trainer.dataset import aside, buckets, captions, crops, edit, formats, images, masks, prepare
from trainer.dataset.faces import Faces
from trainer.dataset.findings import Finding
from trainer.dataset.journal import Journal
from trainer.dataset.names import listed, shown
from trainer.errors import UserError, nearest

Where = Callable[[Path], Path]
"""A file that was set aside -> where it is now."""


@dataclass
class Repair:
    """What a fix would do to a folder."""

    kind: str
    aside: list[Path] = field(default_factory=list)
    """Files that move to `.originals/`."""
    make: dict[Path, Callable[[Path, Where], None]] = field(default_factory=dict)
    """New file -> what writes it once the others have moved, given its path and where those are now."""
    format: str = "txt"
    """Where captions are kept."""
    texts: dict[Path, str] = field(default_factory=dict)
    """Picture -> new caption, in the encoding of the old one."""
    contents: dict[Path, bytes | None] = field(default_factory=dict)
    """Caption file -> new bytes."""

    def __str__(self) -> str:
        parts = [f"sets aside {listed([shown(path.name) for path in self.aside])}"] if self.aside else []
        parts += [f"writes {listed([shown(path.name) for path in self.make])}"] if self.make else []
        changed = [*self.texts, *self.contents]
        parts += [f"changes {listed([shown(path.name) for path in changed])}"] if changed else []
        return f"{self.kind}: {', '.join(parts) or 'nothing to do'}"


@dataclass(frozen=True)
class Settings:
    """What some fixes need to know."""

    trigger: str = ""
    folder: Path = Path()
    """Of the pictures; asked for where one file holds the captions of all."""
    format: str = "txt"
    resolution: int = 512
    faces: Faces | None = None
    """For fixes that crop around a face, where there is one."""


def plan(kind: str, findings: Iterable[Finding], settings: Settings = Settings()) -> Repair:  # noqa: B008, frozen
    """The repair of all findings of one kind. Raises UserError for kinds that only a person can mend."""
    if kind not in FIXES:
        raise UserError(f"'{kind}' has no fix that a program could make: {nearest(kind, FIXES)}")
    paths = list(dict.fromkeys(f.file for f in findings if f.kind == kind and f.file is not None))
    repair = Repair(kind, format=settings.format)
    FIXES[kind](paths, repair, settings)
    return repair


def apply(folder: Path, repair: Repair) -> None:
    """Do it; `aside.undo` takes it back. Raises UserError when the folder cannot be written."""
    name, id = f"fix {repair.kind}", aside.new_id()
    where = partial(aside.place, folder, id)
    make = {path: partial(write, where=where) for path, write in repair.make.items()}
    aside.set_aside(folder, repair.aside, name, make=make, id=id)
    formats.write(folder, repair.texts, name, repair.format)
    Journal(folder).write(repair.contents, name)


# --- one function a fix: (files, repair to fill, settings) ---


def _set_aside(paths: Sequence[Path], repair: Repair, _) -> None:
    """Move them away, with their captions."""
    repair.aside += aside.with_companions(paths)


def _set_caption_aside(paths: Sequence[Path], repair: Repair, settings: Settings) -> None:
    """Move the caption file away; the picture counts as one without."""
    repair.aside += [_sidecar(path, settings) for path in paths]


def _resave(paths: Sequence[Path], repair: Repair, _) -> None:
    """A PNG as it is trained (upright, sRGB, on white, first frame) in its place."""
    for path in paths:
        _replace(path, repair, prepare.resaved)


def _crop(paths: Sequence[Path], repair: Repair, settings: Settings) -> None:
    """The part around the face, or where most is to be seen, in the shape of its bucket, in its place."""
    shapes = buckets.make_buckets(settings.resolution)
    for path in paths:
        picture = images.open_rgb(path)
        bucket = buckets.place(*picture.size, shapes).bucket
        ratio = bucket[0] / bucket[1]
        found = settings.faces.find(picture) if settings.faces else []
        part = crops.window(picture.size, ratio)
        _cut(path, crops.around(found[0], picture.size, part) if found else crops.salient(picture, ratio), repair)


def _crop_closer(paths: Sequence[Path], repair: Repair, settings: Settings) -> None:
    """The surroundings of the largest face, as close as the resolution allows, in its place."""
    if settings.faces is None:
        raise UserError("This fix crops around faces: name a face detector with --detector.")
    for path in paths:
        picture = images.open_rgb(path)
        found = settings.faces.find(picture)
        if found and (box := crops.close(found[0], picture.size, settings.resolution)):
            _cut(path, box, repair)


def _cut(path: Path, box: buckets.Box, repair: Repair) -> None:
    """This part of the picture in its place, and of its mask, which would lie beside what it is about otherwise."""
    _replace(path, repair, partial(prepare.cropped, box=box))
    if mask := masks.near(path):
        repair.aside.append(mask)
        repair.make[mask] = lambda made, where: prepare.cropped(where(path), made, box, mask=where(mask))


def _replace(path: Path, repair: Repair, write: Callable[[Path, Path], None]) -> None:
    """The picture moves away and a PNG of the same name takes its place and its caption."""
    target = path.with_suffix(".png")
    if target != path and (target.exists() or target in repair.make):
        raise UserError(f"{shown(target)} exists already, and {shown(path.name)} would become that: rename one.")
    repair.aside.append(path)
    repair.make[target] = lambda made, where: write(where(path), made)


def _trigger_first(paths: Sequence[Path], repair: Repair, settings: Settings) -> None:
    """The trigger word first in the caption, or as the caption."""
    if not settings.trigger:
        raise UserError("This fix writes the trigger word into captions: name it with --trigger.")
    for path, text in formats.read(settings.folder, paths, settings.format).items():
        repair.texts[path] = captions.with_trigger(text or "", settings.trigger)


def _shorten(paths: Sequence[Path], repair: Repair, settings: Settings) -> None:
    """Without tags that stand twice or that longer ones say already."""
    texts = formats.read(settings.folder, paths, settings.format)
    for change in edit.plan(texts, "prune").changes:
        texts[change.picture] = change.after
    for path, text in texts.items():
        repair.texts[path] = captions.dedupe(text or "")


def _as_utf8(paths: Sequence[Path], repair: Repair, settings: Settings) -> None:
    """The same text as UTF-8 without a byte order mark, which every tool reads."""
    for path in paths:
        file = _sidecar(path, settings)
        content = captions.content(file)
        encoding = captions.decoded(content, file)[1]
        repair.contents[file] = content.decode(encoding).encode("utf-8")


def _rename(paths: Sequence[Path], repair: Repair, settings: Settings) -> None:
    """`cat.jpg` beside `cat.png` becomes `cat-jpg.jpg`, with a copy of the caption."""
    for path in paths:
        target = path.with_name(f"{path.stem}-{path.suffix.lstrip('.').lower()}{path.suffix}")
        repair.aside.append(path)
        repair.make[target] = lambda made, where, path=path: _copy(where(path), made)
        caption = _sidecar(path, settings)
        if caption.exists():
            copy = _sidecar(target, settings)
            repair.make[copy] = lambda made, where, caption=caption: _copy(caption, made)


def _sidecar(path: Path, settings: Settings) -> Path:
    return captions.sidecar(path, formats.SIDECARS[settings.format])


def _copy(source: Path, target: Path) -> None:
    from trainer import files

    files.write_bytes(target, source.read_bytes())


FIXES: dict[str, Callable[[Sequence[Path], Repair, Settings], None]] = {
    "broken": _set_aside,
    "foreign": _set_aside,
    "duplicate": _set_aside,
    "near duplicate": _set_aside,
    "blurry": _set_aside,
    "small": _set_aside,
    "odd colours": _set_aside,
    "orphan": _set_aside,
    "caption unreadable": _set_caption_aside,
    "extreme": _crop,
    "cropped": _crop,
    "small face": _crop_closer,
    "turned": _resave,
    "alpha": _resave,
    "animated": _resave,
    "no caption": _trigger_first,
    "empty caption": _trigger_first,
    "trigger missing": _trigger_first,
    "long caption": _shorten,
    "caption shared": _rename,
    "encodings": _as_utf8,
}
"""Kind of finding -> fix. Too few pictures, unbalanced tags and captions that repeat need a person (or a tagger)."""
