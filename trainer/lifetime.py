"""What surrounds a run from its first moment to its last: its lock, its outcome, and the signals that end it."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from trainer import processes
from trainer.errors import UserError
from trainer.files import explained
from trainer.record import Recorder
from trainer.run import COMMANDS, Run


class Stopped(Exception):
    """The run was asked to stop while it prepared."""


@contextmanager
def held(run: Run, accelerator: Accelerator) -> Iterator[None]:
    """The run's lock, held by the main process for the trainer's life."""
    if not accelerator.is_main_process:
        yield
        return
    with run.lock():
        run.sweep()
        for command in COMMANDS:
            run.take_request(command)  # what no trainer lived to obey is not meant for this one
        yield


@contextmanager
def outcome(recorder: Recorder) -> Iterator[None]:
    """Whatever ends the run early is written where the studio and `status` look."""
    try:
        yield
    except UserError as error:
        recorder.state("failed", str(error))
        raise
    except Stopped:
        recorder.state("stopped", "Stopped before the first step; what was encoded is kept, and resume goes on.")
    except KeyboardInterrupt:
        recorder.state("stopped", "Ended at once; resume goes on from the state that was saved last.")
        raise
    except BaseException as error:
        message = _sentence(error, recorder)
        recorder.state("failed", message or f"{type(error).__name__}: {error}. The whole story is in train.log.")
        if message:
            raise UserError(message) from error
        raise
    finally:
        recorder.close()


def _sentence(error: BaseException, recorder: Recorder) -> str:
    """What to do about an error that can come from anywhere in a run; empty for one that nobody foresaw."""
    if isinstance(error, torch.OutOfMemoryError):
        advice = "lower loop.batch_size or data.resolution, or set model.gradient_checkpointing=true"
        return f"Out of memory at step {recorder.progress.step}: {advice}."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return str(explained(error, recorder.run.path))
    if processes.is_loss(error):
        return "Another process of this run has ended; it may have said why. Resume continues the run exactly."
    return ""


@contextmanager
def signals() -> Iterator[set[int]]:
    """The signals that arrived: Ctrl-C and a polite kill save at the next step; a second Ctrl-C ends at once."""
    arrived: set[int] = set()

    def note(number: int, frame) -> None:
        if number == signal.SIGINT and number in arrived:
            raise KeyboardInterrupt
        arrived.add(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
