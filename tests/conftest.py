"""For all tests: one thread, since models this small are faster on one; no clock in property tests; the long files
first, so that at the end no process waits for another that has just begun one."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, which is later

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("here", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("here")

LONG = """
browser/test_journey.py trainer/test_learning.py trainer/toybox/test_training.py browser/test_pages.py
trainer/test_resume.py trainer/test_every_setting.py trainer/test_evaluate.py trainer/test_presets.py
""".split()


def pytest_collection_modifyitems(items: list) -> None:
    here = Path(__file__).parent
    place = {here / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))  # stable: the others stay as they are


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium for all that look with it, since a process can drive one alone; skipped with the reason where it is
    missing."""
    from serving import CHROMIUM, FLAGS

    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split())
        yield browser
        browser.close()
