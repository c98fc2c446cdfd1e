"""A working folder of its own for every test, and pages run without a browser."""

from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

APP = Path(__file__).parent.parent.parent / "studio" / "app.py"
ELEMENTS = (
    "title",
    "header",
    "subheader",
    "markdown",
    "text",
    "caption",
    "error",
    "warning",
    "info",
    "success",
    "code",
)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working folder, with nothing remembered from other tests."""
    monkeypatch.chdir(tmp_path)
    st.cache_data.clear()
    return tmp_path


@pytest.fixture
def open_page(here) -> Callable[..., AppTest]:
    """open_page("runs", run="…") -> the page after its first run, which must not raise."""

    def opened(name: str, **address: str) -> AppTest:
        app = AppTest.from_file(str(APP), default_timeout=120)
        app.run()
        for key, value in address.items():
            app.query_params[key] = value
        app.switch_page(f"views/{name}.py").run()
        assert not app.exception, app.exception
        return app

    return opened


@pytest.fixture
def words() -> Callable[[AppTest], str]:
    """All that a page says, without the marks that keep it from being read as markdown."""

    def said(app: AppTest) -> str:
        found = [element.value for kind in ELEMENTS for element in app.get(kind) if hasattr(element, "value")]
        return "\n".join(map(str, found)).replace("\\", "")

    return said
