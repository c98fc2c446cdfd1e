"""Writes that are either whole or not there (temp file in the same folder, fsync, rename), and quiet reading."""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from trainer.errors import UserError

Result = TypeVar("Result")

# Seconds that Windows gets to let go of a file: it replaces none that another program has open, be it a page that reads
# a run's status or a virus scanner.
PATIENCE = 2.0 if os.name == "nt" else 0.0

# Asked once: it can only be read by setting it, and a thread that makes a file in between would make it for everyone.
UMASK = os.umask(0o077)
os.umask(UMASK)


def patiently(action: Callable[[], Result]) -> Result:
    """What `action` returns, tried again for PATIENCE seconds while it raises PermissionError."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.02)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A hidden file beside `path`, empty, that takes its place in one step when the block ends well.

    A kill at any moment leaves either the old file or the new one. Raises UserError when the disk is full or the folder
    cannot be written; the old file is untouched then, and after any error in the block.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; what is written here is meant to be read by the user's other tools.
        os.chmod(temporary, 0o666 & ~UMASK)
        patiently(lambda: os.replace(temporary, path))
    except OSError as error:
        raise explained(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_with(path: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a `new_file`."""
    path = Path(path)
    with new_file(path) as temporary:
        write(temporary)
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    return write_with(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: Path, text: str) -> Path:
    """UTF-8, line endings as they stand in `text`."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value) -> Path:
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, line: str, *, sync: bool = False) -> None:
    """One line more at the end of a UTF-8 file, made if it is not there; with `sync`, on the disk before this returns.

    A last line that a kill cut short is ended first, so that only that one cannot be read. Raises OSError.
    """
    data = line.encode("utf-8") + b"\n"
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            data = data if file.read(1) == b"\n" else b"\n" + data
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, which must be missing or empty, that becomes `path` when the block ends well.

    Gone otherwise, also after Ctrl-C. Raises UserError when it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent))
        os.chmod(part, 0o777 & ~UMASK)
    except OSError as error:
        raise explained(error, path) from error
    try:
        yield part
        if path.exists():
            path.rmdir()  # only where it is empty; Windows moves nothing over a folder
        patiently(lambda: os.replace(part, path))
    except OSError as error:
        raise explained(error, path) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def explained(error: OSError, path: Path) -> UserError:
    """A sentence for what kept `path` from being written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"No space left on the disk while writing {path}: free some space and run the command again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{path} cannot be written ({error.strerror}): choose a folder that you may write to.")
    return UserError(f"{path} could not be written: {error.strerror or error}.")


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bar for each part: loading takes seconds, and our own bars say where it stands."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
