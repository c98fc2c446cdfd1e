"""What a run tells the world while it trains: status.json, metrics.jsonl, TensorBoard and the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import Any

from trainer import environment
from trainer.run import Progress, Run, State

Listener = Callable[[State, str, Progress], None]
STATUS_INTERVAL = 1.0  # seconds between two writes of status.json
SMOOTHING = 0.98  # of the loss that is shown, an exponential mean over steps
# Steps whose median is compared with that of the quickest so many before, and how many times as long is a cliff:
# buckets of unlike shapes differ by a third, memory that a driver moves to and fro makes it ten times and more.
PACE, CLIFF = 20, 3.0


class Recorder:
    """Only the main process records; on the others every call does nothing."""

    def __init__(self, run: Run, active: bool = True, listener: Listener | None = None):
        self.run, self.active, self.listener = run, active, listener
        self.progress = Progress()
        self.note = ""  # said with every state that has no message of its own
        self._state: State = "preparing"
        self._written = 0.0
        self._speed: float | None = None
        self._pace: list[float] = []
        self._usual = math.inf
        self._tensorboard: Any = None

    def state(self, state: State, message: str = "", **progress: Any) -> None:
        """A new state, written at once."""
        self.progress = replace(self.progress, **progress)
        self._state = state
        self._write(message)

    def preparing(self, message: str, done: int, total: int) -> None:
        self._state = "preparing"
        if time.monotonic() - self._written > STATUS_INTERVAL or done == total:
            self._write(f"{message} {done}/{total}")

    def step(self, seconds: float, **progress: Any) -> None:
        """One update was made; the status file follows at most once a second."""
        self._speed = seconds if self._speed is None else 0.9 * self._speed + 0.1 * seconds
        self._watch(seconds)
        left = (self.progress.steps - progress["step"]) * self._speed
        self.progress = replace(self.progress, seconds_per_step=self._speed, seconds_left=left, **progress)
        if time.monotonic() - self._written > STATUS_INTERVAL:
            self._write("")
        elif self.active and self.listener:
            self.listener(self._state, "", self.progress)

    def _watch(self, seconds: float) -> None:
        """Raise the alarm where steps suddenly take many times as long as they did, and end it where they do not."""
        self._pace.append(seconds)
        if len(self._pace) < PACE:
            return
        now, self._pace = median(self._pace), []
        alarm = ""
        if now > CLIFF * self._usual:
            alarm = (
                f"Steps take {now / self._usual:.0f} times as long as before: the memory is probably full and spills "
                "over. Close other programs that use it, or stop and train with less at once: `lora-studio estimate` "
                "says what fits."
            )
        self._usual = min(self._usual, now)
        self.progress = replace(self.progress, alarm=alarm)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl and the same figures for TensorBoard."""
        if not self.active:
            return
        self.run.append_metrics({"step": step, **values})
        for name, value in values.items():
            self._writer(step).add_scalar(name, value, step)
        rate = next((value for name, value in values.items() if name.startswith("lr/")), None)
        self.progress = replace(self.progress, learning_rate=values.get("lr/unet", rate))
        loss = values["loss"]
        if math.isfinite(loss):
            before = self.progress.loss
            # At first the plain mean: the very first loss, often the worst, must not outweigh fifty that follow.
            kept = min(SMOOTHING, 1 - 1 / step)
            smooth = loss if before is None else kept * before + (1 - kept) * loss
            self.progress = replace(self.progress, loss=smooth)

    def flush(self) -> None:
        """Before a state is saved: what lies before it is not recorded again."""
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def close(self) -> None:
        if self._tensorboard is not None:
            with suppress(OSError):  # on a full disk, which what was to be saved has said
                self._tensorboard.close()

    def _writer(self, step: int):
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier start had drawn from this step on is made again: TensorBoard leaves it out.
            self._tensorboard = SummaryWriter(str(self.run.path / "tensorboard"), purge_step=step)
        return self._tensorboard

    def _write(self, message: str) -> None:
        if not self.active:
            return
        message = message or self.note
        if self._state == "training":
            self.progress = replace(self.progress, memory=environment.memory_taken())
        self.run.write_status(self._state, message, self.progress)
        self._written = time.monotonic()
        if self.listener:
            self.listener(self._state, message, self.progress)
