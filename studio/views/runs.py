"""Runs: what is training, what waits, what has finished, what went wrong and what to do about it."""

from __future__ import annotations

import streamlit as st

from studio import jobs, line, listing, panels, places, running, state
from studio.language import _
from trainer.run import Run

REFRESH = 2.0  # seconds between looks at the run folders while something trains


def is_busy(run: Run) -> bool:
    """Somebody is at work on it, or a worker is just coming up."""
    job = jobs.job_of(run)
    return run.is_locked() or (job is not None and job.active)


def anything_moves() -> bool:
    tensorboard = jobs.latest("tensorboard")
    coming_up = tensorboard is not None and tensorboard.active and not jobs.address(tensorboard)
    return bool(line.names()) or coming_up or any(map(is_busy, places.runs()))


def show() -> None:
    """All of the page that changes while something trains."""
    runs = {run.name: run for run in places.runs()}
    if not runs:
        panels.empty(
            _("No runs yet"),
            _("A run is one training, with every epoch saved. Choose pictures and a base model, and start one."),
            "views/train.py",
            _("Set up a training"),
        )
        listing.show_trash()
        return
    busy = anything_moves()
    if busy != st.session_state.get("runs busy", busy):
        st.session_state["runs busy"] = busy
        st.rerun()  # the fragment's clock is set outside of it
    st.session_state["runs busy"] = busy
    chosen = state.chosen("run", list(runs))
    beside, detail = st.columns([1, 2.6], gap="large")
    with beside:
        listing.show_line()
        with st.container(key="runs", gap="small"):
            listing.show_list(list(runs.values()), chosen)
        st.space("small")
        listing.show_tensorboard()
        listing.show_trash()
    with detail:
        running.show(runs[chosen], runs)


st.title(_("Runs"))
state.show_notice()
busy = anything_moves()
st.session_state["runs busy"] = busy
st.fragment(show, run_every=REFRESH if busy else None)()
