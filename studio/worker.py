"""Runs one command of the trainer for the studio: `python -m studio.worker FOLDER resume runs/…`.

The job's folder tells everything about it, so a studio that was closed meanwhile finds it again:

    job.json        the command, written by the studio before the start
    lock            held for the worker's life: liveness is the lock, never a pid
    log             what the command printed (a run's own log is its train.log)
    progress.json   where its progress bar stands
    stop            an empty file: asks the worker to end, as Ctrl-C would
    result.json     its exit code; absent when it was killed
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from pathlib import Path

from filelock import FileLock

from trainer.files import write_json

LOOK = 0.5  # seconds between looks for a request to stop


def main(folder: Path, arguments: list[str]) -> int:
    with FileLock(folder / "lock", timeout=0):
        threading.Thread(target=_obey, args=(folder / "stop",), daemon=True).start()
        os.environ["LORA_STUDIO_PROGRESS"] = str(folder / "progress.json")
        code = _run(arguments)
        sys.stdout.flush()
        write_json(folder / "result.json", {"code": code})
    return code


def _run(arguments: list[str]) -> int:
    """The command in this process; its exit code."""
    sys.argv = ["lora-studio", *arguments]
    try:
        runpy.run_module("trainer", run_name="__main__", alter_sys=True)
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
