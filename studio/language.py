"""Every text of the studio in the reader's language, from gettext files in locales/.

`_("…")` marks and translates; numbers and names go in afterwards with `.format`, so that a translator may move
them. `python -m studio.translate` brings the files up to date after a text has changed.
"""

from __future__ import annotations

import gettext
import os
from functools import cache
from pathlib import Path

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from studio import preferences

LOCALES = Path(__file__).parent / "locales"
LANGUAGES = {"en": "English", "zh_CN": "简体中文"}
KEY = "language"  # in the session: looked up once a visit of a page, not once a text


def choose() -> str:
    """Settle the language for this run of a page: what Settings say, else the browser's, else English."""
    chosen = preferences.load().language
    if chosen not in LANGUAGES:
        locale = (st.context.locale or "").replace("-", "_")
        chosen = next((name for name in LANGUAGES if locale.split("_")[0] == name.split("_")[0]), "en")
    st.session_state[KEY] = chosen
    return chosen


def current() -> str:
    """That of the visit; in a worker, which has none, that of the visit it was started from."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return os.environ.get(preferences.LANGUAGE, "en")
    return st.session_state.get(KEY, "en")


def _(text: str) -> str:
    """The text in the reader's language; itself where there is no translation."""
    return catalog(current()).gettext(text) if text else text


def plural(number: int, noun: str) -> str:
    """`1 picture`, `12 pictures`, `12 张图片`."""
    language = current()
    if language != "en":
        return f"{number:,} {catalog(language).gettext(noun)}"
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


@cache
def catalog(language: str) -> gettext.NullTranslations:
    return gettext.translation("studio", LOCALES, [language], fallback=True)
