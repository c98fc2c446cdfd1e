"""The run folder: the one interface between trainer, studio, command line and tests.

    runs/2026-11-21_1432-moss-cat/
      config.toml         complete, every default written out; never edited
      dataset.json        each picture: content hash, caption, size, bucket, crop, repeats
      environment.json    versions, device, base model with its hashes, batches per update over all processes
      status.json         written whole, then renamed into place; at most once a second
      lock                held for the trainer's life: liveness is the lock, never a pid
      metrics.jsonl       one line per step, appended; TensorBoard's files beside it in tensorboard/
      control/            stop | save | sample: empty files that the trainer obeys at the next step boundary
      epochs/             moss-cat-000001.safetensors …, each a finished LoRA
      state/              what an exact resume needs
      samples/            pictures that were asked for between two steps, and the LoRA file they were rendered from
      evaluations/        one folder per comparison
      job/                the studio's worker, if it started the trainer: its lock, progress and exit code
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from trainer.config import TrainConfig, validate
from trainer.errors import UserError, nearest
from trainer.files import append_line, patiently, write_json, write_text
from trainer.locks import LOOKED_AT, is_held
from trainer.presets import read_toml, to_toml

State = Literal["queued", "preparing", "training", "stopped", "finished", "failed", "interrupted"]
ACTIVE: tuple[State, ...] = ("preparing", "training")
COMMANDS = ("stop", "save", "sample")


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `step` counts updates of the LoRA since the start of the run, resumes included."""

    epoch: int = 0  # finished epochs
    epochs: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None  # smoothed
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    memory: int | None = None  # bytes that the process takes, on the graphics card where it trains on one
    learning_rate: float | None = None  # of the UNet's LoRA, or whatever is trained first
    alarm: str = ""  # a sentence while something is wrong that does not end the run


@dataclass(frozen=True)
class Status:
    """What `status.json` holds. *interrupted* is never written: it is what an active state without a lock means."""

    state: State
    message: str = ""
    progress: Progress = field(default_factory=Progress)
    updated: float = 0.0  # seconds since 1970

    @property
    def final(self) -> bool:
        return self.state not in ACTIVE


@dataclass(frozen=True)
class Epoch:
    """One saved epoch: a finished LoRA file."""

    number: int
    path: Path


class Run:
    """A run folder. Cheap: reads what it is asked for, when it is asked."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    @classmethod
    def create(cls, config: TrainConfig, root: Path | str = "runs") -> Run:
        """A new folder named by date, time and name, with its config and the state *queued*."""
        stem = f"{datetime.now():%Y-%m-%d_%H%M}-{slug(config.name)}"
        for number in range(1, 10_000):
            path = Path(root) / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(f"The run folder {path} cannot be made: {error.strerror}.") from None
        write_text(path / "config.toml", to_toml(config.model_dump()))
        run = cls(path)
        for folder in ("control", "epochs", "state", "evaluations"):
            (path / folder).mkdir()
        run.write_status("queued")
        return run

    @classmethod
    def open(cls, path: Path | str, root: Path | str = "runs") -> Run:
        """An existing run by its folder or its name in `root`. Raises UserError with the nearest names."""
        for candidate in (Path(path), Path(root) / str(path)):
            if (candidate / "config.toml").is_file():
                return cls(candidate)
        names = [run.name for run in find_runs(root)]
        hint = nearest(Path(path).name, names) if names else "there are no runs yet: start one with `lora-studio train`"
        raise UserError(f"{path} is not a run folder; {hint}")

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config(self) -> TrainConfig:
        path = self.path / "config.toml"
        return validate(read_toml(path), str(path))

    def environment(self) -> dict[str, Any]:
        """What the run was started with last, as environment.json has it; {} before it was."""
        try:
            return json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    # ── status ──────────────────────────────────────────────────────────────────────────────────────────

    def write_status(self, state: State, message: str = "", progress: Progress | None = None) -> None:
        status = Status(state, message, progress or self.recorded_status().progress, time.time())
        write_json(self.path / "status.json", asdict(status))

    def recorded_status(self) -> Status:
        """The status as last written, whether or not somebody is still at work."""
        try:
            values = json.loads(patiently((self.path / "status.json").read_bytes))
            # What another version of the trainer says beyond this one's is left out.
            known = {field.name for field in fields(Progress)} & values["progress"].keys()
            progress = Progress(**{name: values["progress"][name] for name in known})
            return Status(**{**values, "progress": progress})
        except FileNotFoundError:
            return Status("queued")
        except (ValueError, TypeError, KeyError, OSError) as error:
            return Status("failed", f"status.json of {self.name} cannot be read ({error}): resume the run.")

    @property
    def status(self) -> Status:
        """The truth: an active state whose lock is free means that its trainer has died."""
        status = self.recorded_status()
        if status.state in ACTIVE and not self.is_locked():
            # The trainer may have finished between the two looks.
            status = self.recorded_status()
            if status.state in ACTIVE:
                message = "The trainer ended without a word (killed, crash or power cut). Resume continues it exactly."
                status = replace(status, state="interrupted", message=message)
        return status

    # ── lock and control files ──────────────────────────────────────────────────────────────────────────

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for the trainer's life. Raises UserError when another trainer holds it."""
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=LOOKED_AT)
        except Timeout:
            message = f"Run {self.name} is already being worked on: wait for it, or `lora-studio stop {self.path}`."
            raise UserError(message) from None
        try:
            yield
        finally:
            lock.release()

    def sweep(self) -> None:
        """Take away what a trainer that was killed had not finished writing. For whoever holds the lock."""
        for folder in (self.path, *(self.path / name for name in ("epochs", "state", "samples"))):
            for path in folder.glob(".*.part"):
                path.unlink(missing_ok=True)

    def is_locked(self) -> bool:
        return is_held(self.path / "lock")

    def request(self, command: str) -> None:
        """Ask the trainer for one of COMMANDS at its next step boundary: `sample` saves, and renders a few pictures."""
        folder = self.path / "control"
        folder.mkdir(exist_ok=True)
        (folder / command).touch()

    def take_request(self, command: str) -> bool:
        """True once for every request made since the last look."""
        try:
            os.unlink(self.path / "control" / command)
        except FileNotFoundError:
            return False
        return True

    # ── what a run has made ─────────────────────────────────────────────────────────────────────────────

    def epoch_path(self, number: int) -> Path:
        return self.path / "epochs" / f"{slug(self.config.name)}-{number:06d}.safetensors"

    def epochs(self) -> list[Epoch]:
        """The saved epochs in order; a file that is still being written has another name."""
        found = []
        for path in (self.path / "epochs").glob("*.safetensors"):
            number = re.search(r"-(\d{6})\.safetensors$", path.name)
            if number:
                found.append(Epoch(int(number[1]), path))
        return sorted(found, key=lambda epoch: epoch.number)

    def sample_path(self, step: int) -> Path:
        """The LoRA file of a step that pictures were asked for, called as sd-scripts calls those of steps."""
        return self.path / "samples" / f"{slug(self.config.name)}-step{step:08d}.safetensors"

    def append_metrics(self, values: dict[str, Any]) -> None:
        append_line(self.path / "metrics.jsonl", json.dumps(values))

    def forget_metrics(self, after: int) -> None:
        """Take out the steps after step `after`, which a run that goes on from there makes again, and the line that a
        kill or a full disk cut in two."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = [json.dumps(entry) + "\n" for entry in self.metrics() if entry["step"] <= after]
            write_text(path, "".join(kept))

    def metrics(self) -> list[dict[str, Any]]:
        """One entry per step in order."""
        by_step: dict[int, dict[str, Any]] = {}
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                entry = json.loads(line)
                by_step[entry["step"]] = entry
            except (ValueError, KeyError, TypeError):
                continue  # the line that a kill cut in two; resume writes that step again
        return [by_step[step] for step in sorted(by_step)]

    def evaluation_folder(self, name: str) -> Path:
        return self.path / "evaluations" / slug(name)

    def comparisons(self) -> list[Path]:
        """The folders of the comparisons that are there, newest first."""
        found = (self.path / "evaluations").glob("*/evaluation.json")
        return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def find_runs(root: Path | str = "runs") -> list[Run]:
    """All runs in a folder, newest first."""
    folders = [path.parent for path in Path(root).glob("*/config.toml")]
    return [Run(path) for path in sorted(folders, key=lambda path: path.name, reverse=True)]


def slug(name: str) -> str:
    """A name as part of a file name: what Windows or a prompt's <lora:…> cannot hold becomes '-'."""
    cleaned = re.sub(r'[\\/:*?"<>|,\s\x00-\x1f]+', "-", name).strip("-. ")
    # Names that Windows keeps for devices, whatever ending they have.
    return re.sub(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", r"\1-lora", cleaned) or "lora"
