"""How fast the studio answers over a large folder, seen from the browser, and how much memory its process takes.

    python benchmarks/studio.py [--pictures 1000 10000] [--folder FOLDER]

Draws the pictures once (kept in FOLDER for the next time), starts `lora-studio ui` over them in turn with an empty
Streamlit app, which is the floor of what a first page can take, and clicks through the pages in Chromium. Two figures
for each click: seconds until the browser shows the answer, and seconds of processor time that the studio's process took
for it, which other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from dataset import draw
from playwright.sync_api import Page, Playwright, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IDLE = "[data-testid='stApp'][data-test-script-state='notRunning']"
FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update".split()
PATIENCE = 600_000  # ms
TIMES = 3  # clicks of a kind; the quickest counts
STUDIO = ["trainer", "ui"]
EMPTY = "streamlit run --server.headless=true --server.fileWatcherType=none --browser.gatherUsageStats=false".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for number in chosen.pictures:
            measure((chosen.folder or Path(temporary)) / str(number), number)


def measure(folder: Path, number: int) -> None:
    draw(folder / "datasets" / "many", number)
    print(f"\n| {number:,} pictures, load average {os.getloadavg()[0]:.1f} | seconds | processor |\n|---|---:|---:|")
    with sync_playwright() as driver:
        first_pages(driver, folder)
        with served(folder, STUDIO) as (address, studio), opened(driver) as page:
            visit(page, f"{address}/", "Last runs")
            clicks(Clock(page, studio), address)
            print(f"| memory of the studio's process, at most: {peak(studio):.0f} MB | | |", flush=True)


def first_pages(driver: Playwright, folder: Path) -> None:
    """From the command to content in a browser that is open and has never seen it."""
    (folder / "empty.py").write_text("import streamlit\n\nstreamlit.title('Last runs')\n")
    apps = {"first page": STUDIO, "… of an empty Streamlit app": [*EMPTY, str(folder / "empty.py")]}
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in apps}
    for name, command in [*apps.items()] * TIMES:
        with opened(driver) as page:
            began = time.perf_counter()
            with served(folder, command) as (address, process):
                answered = time.perf_counter() - began
                visit(page, f"{address}/", "Last runs")
                taken[name].append((time.perf_counter() - began, answered, cpu(process)))
    for name, times in taken.items():
        seconds, answered, work = map(min, zip(*times))
        row(f"{name}, from the command", seconds, work)
        row("… until the server answered", answered, None)


@contextmanager
def opened(driver: Playwright) -> Iterator[Page]:
    """A browser of its own, with nothing in its cache."""
    chromium = driver.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
    page = chromium.new_context(viewport={"width": 1280, "height": 900}, locale="en-US").new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    chromium.close()


def clicks(clock: Clock, address: str) -> None:
    """Every kind of click on the pages whose work grows with the folder."""
    page = clock.page
    group = page.get_by_role("group", name=".jpg")
    clock.once("Dataset, for the first time", lambda: visit(page, f"{address}/dataset", "Tags"), group.first)
    clock.once("Dataset, again", lambda: visit(page, f"{address}/dataset", "Tags"), group.first)
    for at in range(TIMES):
        first = page.get_by_role("group", name=f"{12 * (at + 1):06}.jpg")
        clock.time("turn the page", page.get_by_role("button", name="Next page").click, first)
    for tag in ("hat", "scarf", "book"):
        clock.time(f"filter {tag}", lambda tag=tag: search(page, f"tag:{tag} AND tokens:>5"), group.first, "filter")
    here = 12 * TIMES  # the page that was turned to is kept
    clock.time("clear the filter", lambda: search(page, ""), page.get_by_role("group", name=f"{here:06}.jpg"))
    for at in range(TIMES):
        card = page.get_by_role("group", name=f"{here + at:06}.jpg")
        chip = card.get_by_role("button", name="remove").last
        clock.time("edit a caption", chip.click, page.get_by_text("Saved 1 caption").last)
        page.get_by_text("Saved 1 caption").last.wait_for(state="hidden")
    clock.time("undo", page.get_by_role("button", name="Undo").click, page.get_by_text("Took back").last)
    popover = page.get_by_role("button", name="Bulk edit")
    clock.time("open bulk edit", popover.click, page.get_by_text("What to do"))
    box = page.get_by_role("textbox", name="Which")
    for tag in ("forest", "red eyes", "night"):
        change = page.get_by_role("button", name="Change")
        clock.time(f"preview {tag}", lambda tag=tag: (box.fill(tag), box.press("Enter")), change, "preview of a change")
    train = lambda: visit(page, f"{address}/train", "What will happen")  # noqa: E731
    clock.once("Train", train, page.get_by_text("÷ batch").first)
    epochs = page.get_by_role("spinbutton", name="Epochs")
    for number in (3, 4, 5):
        shown = page.get_by_text(f"× {number} epochs")
        change = lambda number=number: (epochs.fill(str(number)), epochs.press("Enter"))  # noqa: E731
        clock.time(f"epochs {number}", change, shown, "change a setting")
    clock.report()


def search(page: Page, text: str) -> None:
    box = page.get_by_role("textbox", name="Filter")
    box.fill(text)
    box.press("Enter")


def visit(page: Page, address: str, sign: str) -> None:
    page.goto(address)
    page.get_by_text(sign).first.wait_for()


class Clock:
    """Times from a click until its answer is on the page and the studio is at rest."""

    def __init__(self, page: Page, studio: psutil.Process):
        self.page, self.studio = page, studio
        self.taken: dict[str, list[tuple[float, float]]] = {}

    def time(self, name: str, click: Callable, answer, kind: str = "") -> None:
        self.page.wait_for_selector(IDLE)
        self.page.wait_for_timeout(500)
        before, began = cpu(self.studio), time.perf_counter()
        click()
        answer.wait_for()
        self.page.wait_for_selector(IDLE)
        seconds = time.perf_counter() - began
        self.page.wait_for_timeout(200)  # the studio may still be sending
        self.taken.setdefault(kind or name, []).append((seconds, cpu(self.studio) - before))

    def once(self, name: str, click: Callable, answer) -> None:
        self.time(name, click, answer)
        self.report()

    def report(self) -> None:
        for name, taken in self.taken.items():
            row(name, min(seconds for seconds, _ in taken), min(work for _, work in taken))
        self.taken = {}


def row(name: str, seconds: float, work: float | None) -> None:
    print(f"| {name} | {seconds:.2f} | {'' if work is None else f'{work:.2f}'} |", flush=True)


# ── the studio's process ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def served(folder: Path, command: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """A module that serves, with its arguments, in a folder: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    option = "--server.port" if command[0] == "streamlit" else "--port"
    process = subprocess.Popen(
        [sys.executable, "-m", *command, f"{option}={port}"], cwd=folder, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def cpu(process: psutil.Process) -> float:
    """Seconds of processor time so far."""
    return sum(process.cpu_times()[:2])


def peak(process: psutil.Process) -> float:
    """The most memory it ever had, in MB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


if __name__ == "__main__":
    main()
