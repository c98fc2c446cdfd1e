"""Chromium to look at a served studio; skipped with the reason where it is missing."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import PATIENCE

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
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
def new_context(browser) -> Iterator[Callable]:
    """Windows of a size, language and theme; closed at the end of the test, however it ends."""
    opened = []

    def new(**options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-US", **options})
        context.set_default_timeout(PATIENCE)
        opened.append(context)
        return context

    yield new
    for context in opened:
        context.close()


@pytest.fixture
def page(new_context):
    return new_context().new_page()


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


@pytest.fixture
def settle() -> Callable:
    """Wait until a page stands still, and make sure that nothing broke on it. What a click has done is waited for by
    its effect: by what appears on the page, or with `until`."""

    def settled(page) -> None:
        page.wait_for_selector(IDLE)
        assert page.evaluate(QUIET, PATIENCE), "the page does not come to rest"
        assert page.locator("[data-testid='stException']").count() == 0

    return settled


@pytest.fixture
def until(page) -> Callable:
    """Wait for something outside of the page, such as a file, for as long as a busy machine may take."""

    def waited(holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE / 1000
        while not holds():
            assert time.monotonic() < end, f"waited in vain: {what}"
            page.wait_for_timeout(100)

    return waited
