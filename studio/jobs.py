"""The only place where the studio starts a process. What it starts outlives the browser, the page and the studio."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import trainer.run
from studio import language, preferences
from trainer.errors import UserError
from trainer.files import write_json
from trainer.locks import is_held
from trainer.run import Run

JOBS = Path(".studio") / "jobs"
STARTING = 20.0  # seconds that a worker may take to lock its folder, generous for a cold disk
ROOT = Path(trainer.run.__file__).resolve().parent.parent

State = Literal["starting", "running", "done", "failed", "cancelled", "lost"]


@dataclass(frozen=True)
class Progress:
    text: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Job:
    """Something that was started: a folder, and all that is known of it lies there."""

    folder: Path
    log: Path

    @property
    def about(self) -> dict:
        return _read(self.folder / "job.json")

    @property
    def state(self) -> State:
        came_up = (self.folder / "pid").exists()  # looked at first: it may come up between two looks
        if is_held(self.folder / "lock"):
            return "running"
        result = _read(self.folder / "result.json")
        if "code" in result:
            return {0: "done", 130: "cancelled"}.get(result["code"], "failed")
        started = self.about.get("started", 0)
        return "starting" if time.time() - started < STARTING and not came_up else "lost"

    @property
    def active(self) -> bool:
        return self.state in ("starting", "running")

    @property
    def ended(self) -> float:
        """When it wrote its result, in seconds since 1970; 0 while there is none."""
        try:
            return (self.folder / "result.json").stat().st_mtime
        except OSError:
            return 0.0

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return max(0.0, time.time() - self.about.get("started", time.time()))

    @property
    def progress(self) -> Progress:
        values = _read(self.folder / "progress.json")
        text = " · ".join(str(part) for part in (values.get("description"), values.get("note")) if part)
        return Progress(text, values.get("done") or 0, values.get("total") or 0)

    def tail(self, lines: int = 20) -> str:
        return tail(self.log, lines)

    def cancel(self) -> None:
        """Ask it to end as Ctrl-C would; it keeps what it has finished."""
        (self.folder / "stop").touch()

    def kill(self) -> None:
        """End it at once, without its saving anything; only while its lock shows that the process is the one."""
        with suppress(OSError, ValueError):
            if self.state == "running":
                os.killpg(int((self.folder / "pid").read_text()), signal.SIGKILL)


def start(verb: str, *arguments: str, subject: str = "") -> Job:
    """Start a command of the trainer. `subject` says what it is about, so that a page finds its job again."""
    folder = _new_folder(verb)
    return _launch(Job(folder, folder / "log"), [verb, *arguments], subject)


def start_training(run: Run) -> Job:
    """Train or go on training a run; what the trainer prints goes to its train.log."""
    job = job_of(run)
    if job is not None and job.active or run.is_locked():
        raise UserError(f"{run.name} is being worked on already.")
    folder = run.path / "job"
    folder.mkdir(exist_ok=True)
    for name in ("result.json", "progress.json", "stop", "lock", "pid"):
        (folder / name).unlink(missing_ok=True)
    return _launch(Job(folder, run.path / "train.log"), ["resume", str(run.path)], run.name)


def start_tensorboard(folder: Path) -> Job:
    """TensorBoard over the runs, for this machine only; one that is there already is used again."""
    job = latest("tensorboard", folder.as_posix())
    if job is not None and job.active:
        return job
    where = ["--logdir", folder.as_posix(), "--host", "127.0.0.1", "--port", str(free_port())]
    return start("tensorboard", *where, subject=folder.as_posix())


def free_port() -> int:
    """A port of this machine that nobody has, nor gets for a connection meanwhile: systems give those from higher
    ones (Linux from 32768, Windows and macOS from 49152)."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def address(job: Job) -> str:
    """Where a TensorBoard that was started answers; empty until it does."""
    arguments = job.about.get("arguments", [])
    if "--port" not in arguments or not job.active:
        return ""
    port = int(arguments[arguments.index("--port") + 1])
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.3).close()
    except OSError:
        return ""
    return f"http://127.0.0.1:{port}/"


def job_of(run: Run) -> Job | None:
    """The worker that the studio started last for this run, if it did."""
    folder = run.path / "job"
    return Job(folder, run.path / "train.log") if (folder / "job.json").is_file() else None


def latest(verb: str, subject: str = "") -> Job | None:
    """The newest job of this verb about this subject."""
    for folder in sorted(JOBS.glob(f"*-{verb}*"), reverse=True):
        job = Job(folder, folder / "log")
        if not subject or job.about.get("subject") == subject:
            return job
    return None


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log; a progress bar's redrawn lines count once."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.rstrip("\n").split("\n")[-lines:])


def _new_folder(verb: str) -> Path:
    stem = f"{datetime.now():%Y-%m-%d_%H%M%S%f}-{verb}"
    folder = JOBS / stem
    folder.mkdir(parents=True)
    return folder


def _launch(job: Job, arguments: list[str], subject: str) -> Job:
    write_json(job.folder / "job.json", {"arguments": arguments, "subject": subject, "started": time.time()})
    # The same code as this page's, also where the studio runs from a folder that is not installed.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    plain = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "COLUMNS": "110"}
    inherited = {name: value for name, value in os.environ.items() if name != "LORA_STUDIO_PASSWORD"}
    environment = {**inherited, **plain, **preferences.environment(), preferences.LANGUAGE: language.current()}
    with open(job.log, "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "studio.worker", str(job.folder), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    return job


def _read(path: Path) -> dict:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
