"""A studio served over a folder, as `lora-studio ui` does it, and the browser that looks at it."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from studio.jobs import Job, free_port

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 420_000  # ms: starting torch takes minutes where ten programs share two cores
START = 300  # seconds until the studio answers there
SCREENSHOTS = ROOT / "tests" / "screenshots"
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
IDLE = "[data-testid='stApp'][data-test-script-state='notRunning']"
# Nothing runs, nothing is loading, and for a moment nothing has changed: a click's answer may still be on its way.
QUIET = """patience => new Promise(done => {
  const idle = () => document.querySelector("[data-testid='stApp'][data-test-script-state='notRunning']")
    && !document.querySelector("[data-testid=stSkeleton]");
  let since = performance.now();
  const begun = since;
  const seen = new MutationObserver(() => since = performance.now());
  seen.observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
  const look = setInterval(() => {
    if (!idle()) since = performance.now();
    const [quiet, late] = [performance.now() - since > 300, performance.now() - begun > patience];
    if (quiet || late) { clearInterval(look); seen.disconnect(); done(quiet); }
  }, 50);
})"""


@contextmanager
def served(folder: Path, *options: str, **variables: str) -> Iterator[str]:
    """The address of a studio over a folder, with more options of `ui` and environment variables."""
    port = free_port()
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


def settled(page) -> None:
    """Wait until a page stands still, and make sure that nothing broke on it. What a click has done is waited for by
    its effect: by what appears on the page, or with the fixture `until`."""
    page.wait_for_selector(IDLE)
    assert page.evaluate(QUIET, PATIENCE), "the page does not come to rest"
    assert page.locator("[data-testid='stException']").count() == 0
