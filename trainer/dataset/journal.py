"""Every change to a caption file, kept so that it can be taken back, also after a crash or a restart.

`FOLDER/.captions.journal.jsonl` holds one JSON object a line and only ever grows:

    {"id": …, "time": …, "operation": "tag", "changes": [{"file": "a.txt", "before": null, "after": "moss"}]}
    {"undo": id, "time": …}      the operation `id` has been taken back
    {"redo": id, "time": …}      ... and is in force again

Contents are text where the file is UTF-8, `{"base64": …}` where it is not, null where there is no file: so
bytes come back exactly. Several lines may share an id (a long tagging run is written in parts) and are
undone as one.

What makes it right after a crash between any two writes: a line says that an operation is in force *before*
its files are written, and that it is not *after* they are restored. Undoing an operation of which only a
part had been written is then harmless, and so is undoing twice.
"""

import base64
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from trainer import files
from trainer.dataset.names import listed, shown
from trainer.errors import UserError

NAME = ".captions.journal.jsonl"


@dataclass(frozen=True)
class Operation:
    """One thing that a person did to the captions of a folder."""

    id: str
    time: str
    """UTC, ISO 8601."""
    name: str
    steps: tuple[dict[str, tuple[bytes | None, bytes | None]], ...]
    """Relative file name -> (before, after), one mapping a journal line."""
    undone: bool = False
    undone_at: str = ""
    """When it was taken back, as `time`."""

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(file for step in self.steps for file in step))

    def first(self, file: str) -> bytes | None:
        return next(step[file][0] for step in self.steps if file in step)

    def last(self, file: str) -> bytes | None:
        return next(step[file][1] for step in reversed(self.steps) if file in step)

    def states(self, file: str) -> set[bytes | None]:
        """All contents that the file had on the way; a crash can leave it at any of them."""
        return {content for step in self.steps if file in step for content in step[file]}


class Journal:
    """The changes made to small text files in and under one folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.path = self.folder / NAME

    def write(self, changes: Mapping[Path, bytes | None], operation: str, *, id: str | None = None) -> str | None:
        """Set the files to these contents (None removes one), journal first.

        Files that hold the content already are left alone; returns the operation's id, or None when there
        was nothing to change. Pass an earlier `id` to continue that operation, if it is still the newest.
        """
        with held(self.path):
            step = {}
            for path, after in changes.items():
                name, before = self._relative(path), _read(Path(path))
                if before != after:
                    step[name] = (before, after)
            if not step:
                return None
            id = id or uuid.uuid4().hex
            self._append({"id": id, "time": now(), "operation": operation, "changes": _packed(step)})
            for name, (_, after) in step.items():
                _write(self.folder / name, after)
        return id

    def undo(self, *, force: bool = False) -> list[Path]:
        """Take back the newest operation that is in force; returns the files that it had touched.

        An empty list: nothing to undo. Raises UserError when a file has been changed by something else
        since, because its newer text would be lost; `force` undoes all the same.
        """
        with held(self.path):
            done = [operation for operation in self._replay() if not operation.undone]
            if not done:
                return []
            operation = done[-1]
            self._check(operation, force, "undo")
            for file in operation.files:
                _write(self.folder / file, operation.first(file))
            self._append({"undo": operation.id, "time": now()})
        return [self.folder / file for file in operation.files]

    def redo(self, *, force: bool = False) -> list[Path]:
        """Put the operation that was undone last in force again; an empty list when there is none.

        A new change after an undo leaves nothing to redo, as everywhere.
        """
        with held(self.path):
            undone = [operation for operation in self._replay() if operation.undone]
            if not undone:
                return []
            operation = undone[0]
            self._check(operation, force, "redo")
            self._append({"redo": operation.id, "time": now()})
            for file in operation.files:
                _write(self.folder / file, operation.last(file))
        return [self.folder / file for file in operation.files]

    def history(self) -> list[Operation]:
        """Operations in force, oldest first, then those that can be redone, next one first."""
        return self._replay()

    def _replay(self) -> list[Operation]:
        done: list[Operation] = []
        undone: list[Operation] = []  # next to redo comes last
        for number, line in enumerate(self._lines(), start=1):
            try:
                _apply(json.loads(line), done, undone)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise UserError(
                    f"Line {number} of {shown(self.path)} cannot be read, so nothing can be undone: "
                    f"restore the file, or rename it to start a new journal."
                ) from error
        return done + [replace(operation, undone=True) for operation in reversed(undone)]

    def _lines(self) -> list[bytes]:
        # A last line without its line break was being written when the machine stopped; files are touched
        # only after the whole line is on the disk, so it never happened.
        return (_read(self.path) or b"").split(b"\n")[:-1]

    def _append(self, entry: dict) -> None:
        try:
            append(self.path, entry)
        except OSError as error:
            raise UserError(
                f"{shown(self.path)} cannot be written ({error.strerror}), and no caption is changed unless "
                f"that can be undone: check the disk's free space and the folder's permissions."
            ) from error

    def _check(self, operation: Operation, force: bool, verb: str) -> None:
        """No text that is not in the journal may be written over."""
        changed = [f for f in operation.files if _read(self.folder / f) not in operation.states(f)]
        if changed and not force:
            names = listed([shown(file) for file in changed])
            raise UserError(
                f"To {verb} '{operation.name}' would lose newer changes to {names}: "
                f"save them elsewhere, then {verb} with force."
            )
        if changed:
            kept = {f: (content := _read(self.folder / f), content) for f in changed}
            # On record before it goes, as part of the operation, so that it stays recoverable by hand.
            self._append({"note": f"{verb} replaced these", "time": now(), "changes": _packed(kept)})

    def _relative(self, path: Path) -> str:
        name = Path(path).relative_to(self.folder).as_posix()
        if not _inside(name):
            raise ValueError(f"{path} is outside {self.folder}")
        return name


@contextmanager
def held(record: Path) -> Iterator[None]:
    """The record for this one alone: the studio and the command line may change the same folder.

    Raises UserError when its folder cannot be written.
    """
    from filelock import FileLock

    try:
        lock = FileLock(record.with_name(record.name + ".lock"))
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"{shown(record.parent)} cannot be written ({error.strerror}): choose a folder that you may write to."
        ) from error
    try:
        yield
    finally:
        lock.release()


def append(record: Path, entry: dict) -> None:
    """One JSON object more, on the disk before this returns; a last line that a crash cut short goes.

    For whoever holds the record. Raises OSError.
    """
    with open(record, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(entry).encode("ascii") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _apply(entry: dict, done: list[Operation], undone: list[Operation]) -> None:
    """One journal line onto the two stacks. Raises ValueError and its like when it makes no sense."""
    if "undo" in entry:
        undone.append(replace(_pop(done, entry["undo"]), undone_at=entry["time"]))
    elif "redo" in entry:
        done.append(replace(_pop(undone, entry["redo"]), undone_at=""))
    elif "note" not in entry:
        undone.clear()
        steps = (_unpacked(entry["changes"]),)
        if done and done[-1].id == entry["id"]:
            steps = done.pop().steps + steps
        done.append(Operation(entry["id"], entry["time"], entry["operation"], steps))


def _pop(operations: list[Operation], id: str) -> Operation:
    operation = operations.pop()
    if operation.id != id:
        raise ValueError(f"{id} is not the newest operation")
    return operation


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    plain = not path.is_absolute() and ".." not in path.parts and path.name != ""
    return plain and not (os.name == "nt" and set(name) & set("\\:"))


def _packed(step: Mapping[str, tuple[bytes | None, bytes | None]]) -> list[dict]:
    return [{"file": f, "before": _pack(before), "after": _pack(after)} for f, (before, after) in step.items()]


def _unpacked(changes: list[dict]) -> dict[str, tuple[bytes | None, bytes | None]]:
    for change in changes:
        # A journal can come with a downloaded folder, so it must not reach outside of that folder.
        if not _inside(change["file"]):
            raise ValueError(change["file"])
    return {change["file"]: (_unpack(change["before"]), _unpack(change["after"])) for change in changes}


def _pack(content: bytes | None) -> str | dict | None:
    if content is None:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode("ascii")}


def _unpack(value: str | dict | None) -> bytes | None:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"], validate=True)
    return None if value is None else value.encode("utf-8")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror or error}.") from error


def _write(path: Path, content: bytes | None) -> None:
    if content == _read(path):
        return
    if content is not None:
        files.write_bytes(path, content)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be removed: {error.strerror or error}.") from error


def now() -> str:
    """The time for a record: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
