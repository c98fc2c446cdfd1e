"""A studio served over a folder, as `lora-studio ui` does it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from studio.jobs import Job

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 180_000  # ms that a page may take on a busy machine
START = 180  # seconds until the studio answers there
SCREENSHOTS = ROOT / "tests" / "screenshots"


@contextmanager
def served(folder: Path, *options: str, **variables: str) -> Iterator[str]:
    """The address of a studio over a folder, with more options of `ui` and environment variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "trainer", "ui", f"--port={port}", *options]
    # A process group of its own: `ui` starts Streamlit, and both must end.
    with open(folder / "ui.log", "wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process, folder / "ui.log")
        yield address
    finally:
        end(process)
        for job in (*folder.glob(".studio/jobs/*"), *folder.glob("runs/*/job")):
            Job(job, job / "log").kill()  # what the studio has started outlives it


def end(process: subprocess.Popen) -> None:
    """The studio and what belongs to it; for good where it does not listen."""
    for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        assert process.poll() is None, f"the studio ended: {log.read_text(errors='replace')[-2000:]}"
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=5)
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the studio did not come up in {START} s: {log.read_text(errors='replace')[-2000:]}")
