"""A served studio in Chromium."""

import time
from collections.abc import Callable, Iterator

import pytest
from serving import PATIENCE, settled


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


@pytest.fixture
def settle() -> Callable:
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
