"""What the studio remembers of a visit: every key of the session, and what is kept in the page's address.

The truth lies on disk. The address names what is looked at, so that a reload or a bookmark shows the same;
the session holds drafts, which a reload may lose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from trainer.errors import UserError

DRAFT = "draft"  # {setting path: value} that differs from the preset on the train page
PRESET = "draft preset"
GENERATION = "draft generation"  # part of the form's widget keys: a new one gives every widget its value anew
NOTICE = "notice"


def chosen(kind: str, options: Sequence[str]) -> str | None:
    """Which of `options` is looked at: the address's choice, the last one of this visit, or the first."""
    if not options:
        return None
    for name in (st.query_params.get(kind), st.session_state.get(f"last {kind}")):
        if name in options:
            return choose(kind, name)
    return choose(kind, options[0])


def choose(kind: str, name: str) -> str:
    """Look at this one, here and on the other pages."""
    st.session_state[f"last {kind}"] = name
    if st.query_params.get(kind) != name:
        st.query_params[kind] = name
    return name


def select(label: str, kind: str, options: Sequence[str], **arguments: Any) -> str | None:
    """A select box whose choice stands in the address."""
    current = chosen(kind, options)
    if current is None:
        return None
    key = f"select {kind}"
    # The address and a folder that was just added lead the widget; what is picked in it goes before either.
    st.session_state[key] = current
    return st.selectbox(label, options, key=key, on_change=lambda: choose(kind, st.session_state[key]), **arguments)


def draft() -> dict[str, Any]:
    return st.session_state.setdefault(DRAFT, {})


def generation() -> int:
    return st.session_state.setdefault(GENERATION, 0)


def set_draft(values: dict[str, Any], preset: str | None = None) -> None:
    """Fill the train form anew with these values over its preset."""
    st.session_state[DRAFT] = dict(values)
    if preset is not None:
        st.session_state[PRESET] = preset
    st.session_state[GENERATION] = generation() + 1


def hold(*beginnings: str) -> None:
    """Keep the widgets whose keys begin so while they are not shown: Streamlit would forget what was chosen."""
    for key in list(st.session_state):
        if str(key).startswith(beginnings):
            st.session_state[key] = st.session_state[key]


def notify(text: str) -> None:
    """Say this for a moment on the next page shown: a message before a rerun would never be seen."""
    st.session_state[NOTICE] = text, "short"


def complain(of: object) -> None:
    """Say what was not done on the next page shown, until somebody closes it: it may hold what they have written."""
    st.session_state[NOTICE] = str(of), "infinite"


def trying(what: Callable, *arguments: Any) -> None:
    """Do it; what keeps it from being done is said on the page."""
    try:
        what(*arguments)
    except UserError as error:
        complain(error)


def show_notice() -> None:
    from studio.sentences import said
    from studio.text import escape

    text, duration = st.session_state.pop(NOTICE, ("", ""))
    if text:
        st.toast(escape(said(text)), duration=duration)
