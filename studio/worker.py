"""Runs one command of the trainer for the studio: `python -m studio.worker FOLDER resume runs/…`.

The job's folder tells everything about it, so a studio that was closed meanwhile finds it again:

    job.json        the command, written by the studio before the start
    lock            held for the worker's life: liveness is the lock, never a pid
    pid             whom to kill while the lock is held
    log             what the command printed (a run's own log is its train.log)
    progress.json   where its progress bar stands
    stop            an empty file: asks the worker to end, as Ctrl-C would
    result.json     its exit code; absent when it was killed

Commands that need the graphics card hold .studio/device.lock while they work, so that training and rendering
take turns; one that has to wait says so in its progress.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from studio import preferences
from trainer.files import write_json
from trainer.locks import LOOKED_AT

LOOK = 0.5  # seconds between looks for a request to stop
DEVICE = Path(".studio") / "device.lock"
ON_DEVICE = ("resume", "evaluate", "export", "demo")
WAITING = "Waiting for the device"


def main(folder: Path, arguments: list[str]) -> int:
    # A studio that a script started in the background ignores Ctrl-C, and what it starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with FileLock(folder / "lock", timeout=LOOKED_AT):
        (folder / "pid").write_text(str(os.getpid()))
        threading.Thread(target=_obey, args=(folder / "stop",), daemon=True).start()
        os.environ["LORA_STUDIO_PROGRESS"] = str(folder / "progress.json")
        _speak()
        code = _in_turn(folder, arguments)
        sys.stdout.flush()
        write_json(folder / "result.json", {"code": code})
    return code


def _speak() -> None:
    """What is written for people, in the language of the page that has started this."""
    if os.environ.get(preferences.LANGUAGE, "en") == "en":
        return
    from studio import sentences
    from trainer import report

    report.words = sentences.of_report


def _in_turn(folder: Path, arguments: list[str]) -> int:
    try:
        with _device(folder) if arguments[0] in ON_DEVICE or "--probe" in arguments else nullcontext():
            return _run(arguments)
    except KeyboardInterrupt:
        return 130


@contextmanager
def _device(folder: Path) -> Iterator[None]:
    """Hold the device's lock; waiting for it is shown and can be cancelled."""
    DEVICE.parent.mkdir(exist_ok=True)
    lock = FileLock(DEVICE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        write_json(folder / "progress.json", {"description": WAITING})
        lock.acquire(poll_interval=LOOK)
        (folder / "progress.json").unlink(missing_ok=True)
    try:
        yield
    finally:
        lock.release()


def _run(arguments: list[str]) -> int:
    """The command in this process; its exit code."""
    sys.argv = ["lora-studio", *arguments]
    # Besides the trainer's commands: TensorBoard, what starts the runs that wait, and crops drawn by hand.
    others = {"tensorboard": "tensorboard.main", "line": "studio.line", "crop": "studio.cutting"}
    module = others.get(arguments[0], "trainer")
    try:
        if module == "trainer":
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return 130
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def _obey(stop: Path) -> None:
    wait = threading.Event()
    while not stop.exists():
        wait.wait(LOOK)
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
