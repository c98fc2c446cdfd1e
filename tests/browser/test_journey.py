"""One real journey in Chromium: open the studio over a prepared folder, edit, train a tiny base, see it finish.

Skipped with the reason where there is no playwright or no Chromium.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import tiny
from trainees import draw_pictures

from trainer.dataset import captions
from trainer.run import find_runs

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
PATIENCE = 180_000  # ms, for a busy machine
IDLE = "[data-testid='stApp'][data-test-script-state='notRunning']"

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")

PRESET = """
[model]
precision = "fp32"
base = "models/tiny"
[data]
resolution = 64
bucket_step = 32
[adapter]
rank = 4
alpha = 2
[optimizer]
name = "AdamW"
[loop]
epochs = 2
batch_size = 2
"""


@pytest.fixture
def workplace(tmp_path) -> Path:
    draw_pictures(tmp_path / "datasets" / "moss")
    tiny.base_folder(tmp_path / "models" / "tiny", "sd15")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "a-tiny.toml").write_text(PRESET)
    return tmp_path


@pytest.fixture
def studio(workplace):
    """The studio's address, served over the folder for the time of a test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "trainer", "ui", f"--port={port}"]
    # A process group of its own: `ui` starts Streamlit, and both must end.
    with open(workplace / "ui.log", "wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, cwd=workplace, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def wait_for(address: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=2)
            return
        except OSError:
            time.sleep(0.4)
    raise AssertionError("the studio did not come up")


@pytest.fixture
def page():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def settle(page) -> None:
    page.wait_for_selector(IDLE)
    page.wait_for_timeout(500)
    assert page.locator("[data-testid='stException']").count() == 0


def test_from_captions_to_a_finished_run(studio, page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    page.goto(f"{studio}/dataset")
    settle(page)
    box = page.locator("textarea").first
    box.fill("moss, from the browser")
    box.press("Control+Enter")
    page.get_by_text("Saved 1 caption").wait_for()
    assert captions.caption_of(workplace / "datasets" / "moss" / "00.png") == "moss, from the browser"

    page.goto(f"{studio}/train")
    settle(page)
    page.get_by_role("combobox", name="Preset").click()
    page.get_by_role("option", name="a-tiny").click()
    page.get_by_text("5 pictures × 1 repeat × 2 epochs").wait_for()
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/runs*")
    page.get_by_text("finished", exact=True).first.wait_for()
    (run,) = find_runs()
    assert run.status.state == "finished" and len(run.epochs()) == 2

    page.reload()
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_text(run.name).first.wait_for()
