"""What is known about a folder's pictures, kept beside them so that an unchanged file costs one stat.

`FOLDER/.pictures.sqlite` is a cache: it may be removed at any time, and one that is damaged, from another version or
not writable is done without. An entry counts only while the file's size, modification and status change time are
what they were; the last of these no archive can bring along, so the index of a downloaded folder is not believed.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from trainer.dataset import images
from trainer.dataset.images import Broken, Picture
from trainer.dataset.measure import Looks

NAME = ".pictures.sqlite"
VERSION = 1
"""Raised whenever a column, or what is measured, changes."""
PART = 200
"""Pictures between two commits: as much is lost when the scan is killed."""

Outcome = Picture | Broken
Key = tuple[int, int, int]

_TABLE = """CREATE TABLE pictures (name BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, reason TEXT,
width INTEGER, height INTEGER, digest BLOB, frames INTEGER, alpha INTEGER, turned INTEGER, fingerprint BLOB,
colours BLOB, sharpness REAL) WITHOUT ROWID"""


def scan(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> list[Picture]:
    """Like `images.scan`, with the index: raises UserError that names every broken file."""
    return images.whole(folder, *survey(folder, progress=progress))


def survey(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> tuple[list[Picture], list[Broken]]:
    """Like `images.survey`, with the index; `progress` gets (done, total)."""
    folder = Path(folder)
    paths = images.some(folder)
    pictures: list[Picture] = []
    broken: list[Broken] = []
    with closing(_opened(folder)) as index:
        for done, outcome in enumerate(_outcomes(index, folder, paths), start=1):
            (pictures if isinstance(outcome, Picture) else broken).append(outcome)
            if progress and (done % 100 == 0 or done == len(paths)):
                progress(done, len(paths))
    return pictures, broken


def _outcomes(index: sqlite3.Connection, folder: Path, paths: list[Path]) -> Iterator[Outcome]:
    """Known ones from the index, others read and remembered, in order."""
    keys = {path: key for path in paths if (key := _key(path))}
    known = dict(_known(index, folder, keys))
    fresh = images.examine([path for path in paths if path not in known])
    new: list[tuple] = []
    try:
        for path in paths:
            outcome = known.pop(path, None)  # popped: the table shrinks while the result grows
            if outcome is None:
                outcome = next(fresh)
                if path in keys:
                    new.append(_row(folder, outcome, keys[path]))
            if len(new) >= PART:
                _remember(index, new)
            yield outcome
    finally:
        _remember(index, new)
    _forget(index, {_name(folder, path) for path in paths})


def _key(path: Path) -> Key | None:
    """Taken before the file is read, so that one that changes meanwhile is read again next time."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _known(index: sqlite3.Connection, folder: Path, keys: dict[Path, Key]) -> Iterator[tuple[Path, Outcome]]:
    paths = {_name(folder, path): path for path in keys}
    try:
        for name, *row in index.execute("SELECT * FROM pictures"):
            path = paths.get(name)
            if path is not None and tuple(row[:3]) == keys[path]:
                yield path, _outcome(path, row)
    except (sqlite3.Error, TypeError, ValueError, AttributeError):
        return  # damaged inside: what has been read so far is right, the rest is read from the files


def _outcome(path: Path, row: list) -> Outcome:
    size, mtime, _, reason, width, height, digest, frames, alpha, turned, fingerprint, colours, sharpness = row
    if reason is not None:
        return Broken(path, reason)
    looks = Looks(fingerprint, colours, sharpness)
    return Picture(path, width, height, digest.hex(), frames, bool(alpha), size, mtime, bool(turned), looks)


def _row(folder: Path, outcome: Outcome, key: Key) -> tuple:
    name = _name(folder, outcome.path)
    if isinstance(outcome, Broken):
        return (name, *key, outcome.reason, *[None] * 9)
    p, looks = outcome, outcome.looks
    seen = (p.width, p.height, bytes.fromhex(p.digest), p.frames, p.has_alpha, p.turned)
    return (name, *key, None, *seen, looks.fingerprint, looks.colours, looks.sharpness)


def _remember(index: sqlite3.Connection, rows: list[tuple]) -> None:
    try:
        with index:
            index.executemany(f"INSERT OR REPLACE INTO pictures VALUES ({','.join('?' * 14)})", rows)
    except sqlite3.Error:
        pass  # disk full, or another process writes: the next scan measures these again
    rows.clear()


def _forget(index: sqlite3.Connection, names: Iterable[bytes]) -> None:
    try:
        with index:
            gone = {name for (name,) in index.execute("SELECT name FROM pictures")} - set(names)
            index.executemany("DELETE FROM pictures WHERE name = ?", [(name,) for name in gone])
    except sqlite3.Error:
        pass


def _name(folder: Path, path: Path) -> bytes:
    """Relative, as the file system spells it: a name need not be Unicode."""
    return os.fsencode(path.relative_to(folder).as_posix())


def _opened(folder: Path) -> sqlite3.Connection:
    """The folder's index; a new one where it is damaged or old, one in memory where it cannot be kept."""
    path = folder / NAME
    for _ in range(2):
        try:
            index = sqlite3.connect(path, timeout=10)
            index.execute("PRAGMA synchronous = OFF")  # a cache: after a power cut it is thrown away or right
            (version,) = index.execute("PRAGMA user_version").fetchone()
            if version == VERSION:
                index.execute("SELECT COUNT(*) FROM (SELECT * FROM pictures LIMIT 1)")
                return index
            with index:
                index.execute("DROP TABLE IF EXISTS pictures")
                index.execute(_TABLE)
                index.execute(f"PRAGMA user_version = {VERSION}")
            return index
        except sqlite3.OperationalError:  # read-only, locked, or a table of another shape
            break
        except sqlite3.DatabaseError:  # no database
            try:
                path.unlink()
            except OSError:
                break
    index = sqlite3.connect(":memory:")
    index.execute(_TABLE)
    return index
