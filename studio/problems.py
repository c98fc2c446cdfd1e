"""What is wrong with the settings of a run, each with the button that mends it."""

from __future__ import annotations

import streamlit as st

from studio import forms, state, subject
from studio.language import _
from studio.sentences import said
from studio.text import escape
from trainer import presets
from trainer.checks import Problem

SHOWN = 6


def show(problems: list[Problem], key: str = "mend") -> bool:
    """Every problem with its button; True when one of them keeps the run from starting."""
    for number, problem in enumerate(problems[:SHOWN]):
        say = st.error if problem.severity == "error" else st.warning
        name = _(forms.by_path()[problem.setting].label)
        say(f"**{escape(name)}**: {escape(said(problem.reason))}", icon=":material/error:" if say is st.error else None)
        if problem.suggestion is not None:
            text = _("Set {name} to {value}").format(name=name, value=forms.shown(problem.suggestion))
            if st.button(escape(text), key=f"{key} {number}"):
                mend(problem)
        if problem.setting == "data.folder":
            subject.link_pictures()
    if len(problems) > SHOWN:
        st.caption(_("… and {n} more").format(n=len(problems) - SHOWN))
    return any(problem.severity == "error" for problem in problems)


def mend(problem: Problem) -> None:
    """Put the suggestion into the form."""
    path, value = presets.parse_override(f"{problem.setting}={problem.suggestion}")
    state.set_draft(state.draft() | {path: value})
    st.rerun()
