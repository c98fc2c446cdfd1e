"""Chromium to look at a served studio; skipped with the reason where it is missing."""

from collections.abc import Callable
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
PATIENCE = 180_000  # ms, for a busy machine
IDLE = "[data-testid='stApp'][data-test-script-state='notRunning']"


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()


@pytest.fixture
def settle() -> Callable:
    """Wait until a page stands still, and make sure that nothing broke on it."""

    def settled(page) -> None:
        page.wait_for_selector(IDLE)
        page.wait_for_timeout(700)
        # Widgets whose code the browser is still loading.
        page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')")
        page.wait_for_selector(IDLE)
        assert page.locator("[data-testid='stException']").count() == 0

    return settled
