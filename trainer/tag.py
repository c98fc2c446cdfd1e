"""Tag a folder: pictures go in, captions come out beside them, and nothing written by hand is lost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer.dataset import captions, index
from trainer.dataset.names import listed, shown
from trainer.errors import UserError, nearest
from trainer.taggers import DEFAULTS, Tagger, TagOptions, get, get_all

MODES = ("skip", "append", "overwrite")

# Captions are written in parts, so that a long run that is stopped keeps what it has; all parts are one
# operation for undo.
PART = 64


@dataclass
class TagReport:
    """What became of each caption file."""

    written: list[Path] = field(default_factory=list)
    """New, appended to or replaced."""
    skipped: list[Path] = field(default_factory=list)
    """Had a caption, which was left alone."""
    unchanged: list[Path] = field(default_factory=list)
    """Tagged, and the caption said all of it already."""
    operation: str | None = None
    """Id in the folder's journal, if anything was written."""

    def __str__(self) -> str:
        parts = [f"{len(self.written)} written"]
        parts += [f"{len(self.unchanged)} unchanged"] if self.unchanged else []
        parts += [f"{len(self.skipped)} skipped (had a caption)"] if self.skipped else []
        return ", ".join(parts)


def tag_folder(
    folder: Path,
    tagger: Tagger | str | Sequence[str],
    *,
    trigger: str = "",
    threshold: float | None = None,
    mode: str = "skip",
    options: TagOptions = DEFAULTS,
    combine: str = "union",
    extension: str = captions.EXTENSION,
    progress: Callable[[int, int], None] | None = None,
) -> TagReport:
    """Caption every picture under `folder` with `tagger` (or its spec, "wd14:PATH"), trigger first.

    Several specs are run side by side, and `combine` (a key of `taggers.COMBINATIONS`) makes one answer of theirs.

    `mode` decides about pictures that have a caption: "skip" leaves it alone, "append" adds the tags that it
    lacks after its own text, "overwrite" replaces it. What was there goes to the folder's journal first, so
    one undo takes the whole run back. A blank caption file counts as none. `threshold` stands for
    `options.threshold` (0.35). `progress` gets (done, total).

    Raises UserError, before anything is written, for a broken picture, an unreadable caption, or two pictures
    that would share one caption file.
    """
    if mode not in MODES:
        raise UserError(f"Unknown mode '{mode}' for captions that exist: {nearest(mode, MODES)}")
    folder = Path(folder)
    sidecars = _sidecars([picture.path for picture in index.scan(folder)], extension)
    existing = {} if mode == "overwrite" else _existing(sidecars.values())
    report = TagReport()
    if mode == "skip":
        report.skipped = list(existing)
        sidecars = {picture: path for picture, path in sidecars.items() if path not in existing}
    if not sidecars:
        return report
    if isinstance(tagger, str):
        tagger = get(tagger)
    elif isinstance(tagger, Sequence):
        tagger = get_all(tagger, combine)
    if threshold is not None:
        options = replace(options, threshold=threshold)
    part: dict[Path, str] = {}
    try:
        for picture, tags in tagger.tag(list(sidecars), options, progress=progress):
            path = sidecars[picture]
            text = captions.merge(existing.get(path, ""), (tag for tag, _ in tags))
            part[path] = captions.with_trigger(text, trigger)
            if len(part) >= PART:
                _write(folder, part, f"tag ({mode})", report)
    finally:  # also when stopped or when the disk is full: what has been worked out is kept
        _write(folder, part, f"tag ({mode})", report)
    return report


def _sidecars(pictures: list[Path], extension: str) -> dict[Path, Path]:
    """Picture -> its caption file. `cat.png` and `cat.jpg` share one, which can describe only one of them."""
    by_sidecar: dict[Path, list[Path]] = {}
    for picture in pictures:
        by_sidecar.setdefault(captions.sidecar(picture, extension), []).append(picture)
    clashes = [shared for shared in by_sidecar.values() if len(shared) > 1]
    if clashes:
        names = listed([" and ".join(shown(picture.name) for picture in shared) for shared in clashes])
        raise UserError(f"Pictures with the same name share one caption file: rename one of {names}.")
    return {pictures[0]: sidecar for sidecar, pictures in by_sidecar.items()}


def _existing(sidecars) -> dict[Path, str]:
    """Caption file -> its text, for those that say something. Raises UserError for unreadable ones."""
    texts = ((path, captions.read(path)) for path in sidecars if path.exists())
    return {path: text for path, text in texts if text}


def _write(folder: Path, part: dict[Path, str], operation: str, report: TagReport) -> None:
    before = {path: path.read_bytes() if path.exists() else None for path in part}
    id = captions.write_captions(folder, part, operation, id=report.operation)
    report.operation = report.operation or id
    for path in part:
        changed = path.exists() and path.read_bytes() != before[path]
        (report.written if changed else report.unchanged).append(path)
    part.clear()
