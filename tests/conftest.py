"""For all tests: one thread, since models this small are faster on one; no clock in property tests; the same random
numbers whatever ran before; the long files first, so that at the end no process waits for another that has just begun
one."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, which is later

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# A busy machine is slow, not wrong; and what is drawn depends on the test alone. To look for more than that:
# HYPOTHESIS=anew python -m pytest -k …
slow = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("here", **slow, derandomize=True)
settings.register_profile("anew", **slow, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS", "here"))

LONG = """
browser/test_journey.py trainer/test_learning.py trainer/toybox/test_training.py browser/test_pages.py
trainer/test_resume.py trainer/test_every_setting.py trainer/test_evaluate.py trainer/test_presets.py
""".split()


def pytest_collection_modifyitems(items: list) -> None:
    here = Path(__file__).parent
    place = {here / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))  # stable: the others stay as they are


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """torch begins with another seed in each process, and goes on from where the test before it has stopped."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium for all that look with it, since a process can drive one alone; skipped with the reason where it is
    missing."""
    from serving import CHROMIUM, FLAGS, PATIENCE

    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split(), timeout=PATIENCE)
        yield browser
        browser.close()
