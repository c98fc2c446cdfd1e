"""Runs: what is training, what has finished, what went wrong and what to do about it."""

import streamlit as st

from trainer.run import ACTIVE, Run, find_runs
from trainer.texts import MARKS, duration

REFRESH = 2.0  # seconds between looks at the run folders while something trains


def show_list() -> None:
    """Every run of this folder, newest first; the truth is on disk, so a reload or restart loses nothing."""
    runs = find_runs()
    if not runs:
        st.info("No runs yet. Start one with `lora-studio train`, or see the whole job with `lora-studio demo`.")
        return
    for run in runs:
        show_run(run)


def show_run(run: Run) -> None:
    status = run.status
    progress = status.progress
    with st.container(border=True):
        name, state, epochs, step = st.columns([4, 2, 2, 2], vertical_alignment="center")
        # st.text shows names as they are: a run called "**x**" or "<b>" is not markup.
        name.text(run.name)
        state.text(f"{MARKS[status.state]} {status.state}")
        epochs.text(f"{len(run.epochs())} of {progress.epochs} epochs")
        step.text(f"step {progress.step}/{progress.steps}" if progress.steps else "")
        if status.state == "training" and progress.steps:
            left = f", {duration(progress.seconds_left)} left" if progress.seconds_left else ""
            st.progress(progress.step / progress.steps, text=f"{progress.step}/{progress.steps}{left}")
        if status.state in ("failed", "interrupted"):
            st.error(escape(status.message))
        elif status.message:
            st.caption(escape(status.message))
        show_comparison(run)


def show_comparison(run: Run) -> None:
    for folder in sorted((run.path / "evaluations").glob("*/grid.png")):
        with st.expander(f"Comparison: {escape(folder.parent.name)}"):
            st.image(str(folder), width="stretch")


def escape(text: str) -> str:
    """Text for elements that read markdown, with every mark of it taken literally."""
    return "".join("\\" + letter if letter in r"\`*_{}[]()<>#+-.!|~$:" else letter for letter in text)


st.title("Runs")
busy = any(run.recorded_status().state in ACTIVE for run in find_runs())
st.fragment(show_list, run_every=REFRESH if busy else None)()
