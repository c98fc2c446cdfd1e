"""What surrounds a run from its first moment to its last: its lock, its outcome, and the signals that end it."""

from __future__ import annotations

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

ALONE = (
    "Another process of this run has ended (killed, crash, or what it said itself, on its own host). Resume continues "
    "the run exactly."
)


class Stopped(Exception):
    """The run was asked to stop while it prepared."""


@contextmanager
def held(run: Run, accelerator: Accelerator) -> Iterator[None]:
    """The run's lock, held by the main process for the trainer's life."""
    if not accelerator.is_main_process:
        yield
        return
    with run.lock():
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
    except OSError as error:
        sentence = explained(error, recorder.run.path)
        recorder.state("failed", str(sentence))
        raise sentence from error
    except torch.OutOfMemoryError as error:
        advice = "lower loop.batch_size or data.resolution, or set model.gradient_checkpointing=true"
        message = f"Out of memory at step {recorder.progress.step}: {advice}."
        recorder.state("failed", message)
        raise UserError(message) from error
    except BaseException as error:
        if processes.is_loss(error):
            recorder.state("failed", ALONE)
            raise UserError(ALONE) from error
        recorder.state("failed", f"{type(error).__name__}: {error}. The whole story is in train.log.")
        raise
    finally:
        recorder.close()


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
