"""Pictures are never deleted: what a fix takes out of a folder waits in `.originals/` inside it, and comes back.

So does what was added, when that is undone.

`FOLDER/.originals/moves.jsonl` holds one JSON object a line and only ever grows:

    {"id": …, "time": …, "operation": "duplicate", "moves": [["a.png", ".originals/ID/a.png"]], "made": ["a-2.png"]}
    {"undo": id, "time": …}      everything has come back
    {"redo": id, "time": …}      ... and goes again

Several lines may share an id (a large upload is written in parts) and are undone as one.

What moves files away is on the disk before the first file moves, and every step can be taken twice, so a crash in
between loses nothing: undo brings back whatever has moved.
"""

import json
import os
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath

from trainer.dataset import captions, masks
from trainer.dataset.journal import Operation, append, held, now
from trainer.dataset.names import shown
from trainer.errors import UserError

FOLDER = ".originals"
RECORD = "moves.jsonl"
COMPANIONS = (".txt", ".caption")
"""Files of the same name that go where their picture goes."""


@dataclass(frozen=True)
class Removal:
    """One time that files were set aside."""

    id: str
    time: str
    """UTC, ISO 8601."""
    operation: str
    moves: tuple[tuple[str, str], ...]
    """(relative path, where it is now)."""
    made: tuple[str, ...]
    """Files that were written in their place, or added."""
    undone_at: str = ""
    """When it was taken back, as `time`."""

    def touched(self, folder: Path) -> list[Path]:
        """The files that went, or where none did, those that came."""
        return [folder / name for name, _ in self.moves] or [folder / name for name in self.made]


def companions(picture: Path) -> list[Path]:
    """The picture's caption files and its mask, unless another picture of that name needs them too."""
    return with_companions([picture])[1:]


def with_companions(pictures: Iterable[Path]) -> list[Path]:
    """Each picture, and behind it its companions. A folder is listed once for all of its pictures."""

    @cache
    def by_stem(folder: Path) -> Mapping[str, set[Path]]:
        found: dict[str, set[Path]] = defaultdict(set)
        for path in folder.iterdir():
            if path.suffix:
                found[path.stem].add(path)
        return found

    files: list[Path] = []
    for picture in map(Path, pictures):
        near = [path for ending in COMPANIONS if (path := picture.with_suffix(ending)).exists() and path != picture]
        near += filter(None, [masks.near(picture)])
        shared = near and by_stem(picture.parent)[picture.stem] - {picture, *near}
        files += [picture] if shared else [picture, *near]
    return files


def new_id() -> str:
    """A name for one operation, by which its parts are undone as one."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}-{uuid.uuid4().hex[:12]}"


def place(folder: Path, id: str, path: Path) -> Path:
    """Where the operation `id` sets this file of the folder aside."""
    return folder / FOLDER / id / path.relative_to(folder)


def set_aside(
    folder: Path,
    paths: Sequence[Path],
    operation: str,
    *,
    make: Mapping[Path, Callable[[Path], object]] | None = None,
    id: str | None = None,
) -> str | None:
    """Move these files into `.originals/`, and let `make` write new files once that is done.

    `make`: path of a new file -> what writes it atomically, given that path. Returns the id, None for nothing to do;
    an earlier `id` continues that operation. Raises UserError when the folder cannot be written.
    """
    folder = Path(folder)
    paths = list(dict.fromkeys(map(Path, paths)))
    if not paths and not make:
        return None
    id = id or new_id()
    moves = [[_name(folder, path), _name(folder, place(folder, id, path))] for path in paths]
    gone = set(paths)
    with _held(folder):
        taken = [path for path in make or {} if path.exists() and path not in gone]
        if taken:
            raise UserError(f"{shown(taken[0])} exists already: rename it, then run the command again.")
        made = [_name(folder, path) for path in make or {}]
        _append(folder, {"id": id, "time": now(), "operation": operation, "moves": moves, "made": made})
        for name, to in moves:
            _move(folder / name, folder / to)
        for path, write in (make or {}).items():
            write(path)
    return id


def history(folder: Path) -> list[Removal]:
    """What has been set aside and not been brought back, oldest first. Raises UserError for a damaged record."""
    return _replay(Path(folder))[0]


def _replay(folder: Path) -> tuple[list[Removal], list[Removal]]:
    """(in force, oldest first; undone, next to redo last)."""
    path = folder / FOLDER / RECORD
    done: dict[str, Removal] = {}
    undone: dict[str, Removal] = {}
    if not path.exists():
        return [], []
    lines = captions.content(path).split(b"\n")[:-1]  # a last line without its break was never finished
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if "undo" in entry:
                undone[entry["undo"]] = replace(done.pop(entry["undo"]), undone_at=entry["time"])
            elif "redo" in entry:
                done[entry["redo"]] = replace(undone.pop(entry["redo"]), undone_at="")
            else:
                moves = tuple((_inside(name), _inside(to)) for name, to in entry["moves"])
                made = tuple(map(_inside, entry["made"]))
                id = _inside(entry["id"])
                if before := done.pop(id, None) or undone.pop(id, None):
                    moves, made = before.moves + moves, before.made + made
                done[id] = Removal(id, entry["time"], entry["operation"], moves, made)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"Line {number} of {shown(path)} cannot be read: move the files in {FOLDER} back by hand."
            ) from error
    return list(done.values()), list(undone.values())


def bring_back(folder: Path) -> list[Path]:
    """Undo the newest removal: its files return, what was made in their place goes where they were.

    Raises UserError, before anything moves, when another file stands in the place of one.
    """
    folder = Path(folder)
    if not history(folder):
        return []
    with _held(folder):
        return _bring_back(folder, history(folder)[-1])


def _bring_back(folder: Path, newest: Removal) -> list[Path]:
    blocked = [
        name
        for name, to in newest.moves
        if (folder / to).exists() and (folder / name).exists() and name not in newest.made
    ]
    if blocked:
        raise UserError(f"{shown(blocked[0])} has been made anew since: rename it, then undo again.")
    for name in newest.made:
        # Not when the original is back already: undo was interrupted, and what stands there is the original.
        back = any(name == own and not (folder / to).exists() for own, to in newest.moves)
        if (folder / name).exists() and not back:
            _move(folder / name, folder / FOLDER / newest.id / "made" / name)
    for name, to in newest.moves:
        _move(folder / to, folder / name)
    _append(folder, {"undo": newest.id, "time": now()})
    return newest.touched(folder)


def undo(folder: Path, *, force: bool = False) -> tuple[str, list[Path]]:
    """Take back the newest thing done to the folder, be it an edit or a removal: (its name, files touched).

    ("", []) when there is nothing to undo.
    """
    last = _last(folder)
    if last is None:
        return "", []
    name = last.operation if isinstance(last, Removal) else last.name
    return name, bring_back(folder) if isinstance(last, Removal) else captions.undo(folder, force=force)


def newest(folder: Path) -> tuple[str, list[Path]]:
    """What `undo` would take back."""
    return _told(Path(folder), _last(folder))


def redo(folder: Path, *, force: bool = False) -> tuple[str, list[Path]]:
    """Do again what was undone last, be it an edit or a removal: (its name, files touched); ("", []) for nothing.

    Raises UserError, before anything moves, when something new stands in the way.
    """
    folder = Path(folder)
    following = _next(folder)
    if following is None:
        return "", []
    if isinstance(following, Removal):
        return following.operation, _remove_again(folder, following)
    return following.name, captions.redo(folder, force=force)


def redoable(folder: Path) -> tuple[str, list[Path]]:
    """What `redo` would do again."""
    return _told(Path(folder), _next(Path(folder)))


def _next(folder: Path) -> Removal | Operation | None:
    """The oldest thing undone after which nothing new was begun: doing something new leaves nothing to redo."""
    done, undone = _replay(folder)
    operations = captions.history(folder)
    begun = max((_when(one.time) for one in [*done, *undone, *operations]), default=0.0)
    candidates = [*undone, *(operation for operation in operations if operation.undone)]
    waiting = [one for one in candidates if _when(one.undone_at) >= begun]
    return min(waiting, key=lambda one: _when(one.time), default=None)


def _remove_again(folder: Path, removal: Removal) -> list[Path]:
    gone = {name for name, _ in removal.moves}
    with _held(folder):
        blocked = [name for name in removal.made if name not in gone and os.path.lexists(folder / name)]
        if blocked:
            raise UserError(f"{shown(blocked[0])} has been made anew since: rename it, then redo again.")
        _append(folder, {"redo": removal.id, "time": now()})
        for name, to in removal.moves:
            _move(folder / name, folder / to)
        for name in removal.made:
            _move(folder / FOLDER / removal.id / "made" / name, folder / name)
    return removal.touched(folder)


def _told(folder: Path, one: Removal | Operation | None) -> tuple[str, list[Path]]:
    if isinstance(one, Removal):
        return one.operation, one.touched(folder)
    return (one.name, [folder / name for name in one.files]) if one else ("", [])


def _last(folder: Path) -> Removal | Operation | None:
    done: list[Removal | Operation] = [o for o in captions.history(folder) if not o.undone]
    # Sorting is stable, so of two at the same moment the removal is the newer one.
    ordered = sorted([*done[-1:], *history(folder)[-1:]], key=lambda one: _when(one.time))
    return ordered[-1] if ordered else None


def _move(source: Path, target: Path) -> None:
    if not os.path.lexists(source):
        return  # moved already, before a crash
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            raise UserError(f"{shown(target)} is in the way: move it, then run the command again.")
        os.rename(source, target)
    except OSError as error:
        raise UserError(f"{shown(source)} cannot be moved: {error.strerror or error}.") from error


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    record = folder / FOLDER / RECORD
    try:
        record.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise _unwritable(record, error) from error
    with held(record):
        yield


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _append(folder: Path, entry: dict) -> None:
    path = folder / FOLDER / RECORD
    try:
        append(path, entry)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(record: Path, error: OSError) -> UserError:
    return UserError(f"{shown(record)} cannot be written ({error.strerror}), so no picture is moved.")


def _inside(name: str) -> str:
    """A record can come with a downloaded folder, so it must not reach outside of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or (os.name == "nt" and set(name) & set("\\:")):
        raise ValueError(name)
    return name


def _when(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0
