"""Runs: what is training, what has finished, what went wrong and what to do about it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from studio import jobs, panels, places, state
from studio.text import escape
from trainer import presets
from trainer.errors import UserError
from trainer.run import ACTIVE, Run, Status
from trainer.texts import MARKS, duration, file_size

REFRESH = 2.0  # seconds between looks at the run folders while something trains
LISTED = 25  # runs in the list before the older ones are folded away
BADGES = {"training": "blue", "preparing": "blue", "finished": "green", "failed": "red", "interrupted": "orange"}
REMEDIES = {
    "out of memory": "Lower the batch size or the resolution, or turn gradient checkpointing on: duplicate the run "
    "with that change.",
    "no space left": "Free some space on the disk, then press Resume.",
    "not finite": "Lower the learning rate: duplicate the run with that change.",
}


def is_busy(run: Run) -> bool:
    """Somebody is at work on it, or a worker is just coming up."""
    job = jobs.job_of(run)
    return run.is_locked() or (job is not None and job.active)


def show() -> None:
    """All of the page that changes while something trains."""
    runs = {run.name: run for run in places.runs()}
    if not runs:
        panels.empty(
            "No runs yet",
            "A run is one training, with every epoch saved. Choose pictures and a base model, and start one.",
            "pages/train.py",
            "Set up a training",
        )
        return
    busy = any(map(is_busy, runs.values()))
    if busy != st.session_state.get("runs busy", busy):
        st.session_state["runs busy"] = busy
        st.rerun()  # the fragment's clock is set outside of it
    st.session_state["runs busy"] = busy
    chosen = state.chosen("run", list(runs))
    listing, detail = st.columns([1, 2.6], gap="large")
    with listing:
        show_list(list(runs.values()), chosen)
    with detail:
        show_run(runs[chosen], runs)


# ── the list ────────────────────────────────────────────────────────────────────────────────────────────


def show_list(runs: list[Run], chosen: str) -> None:
    for run in runs[:LISTED]:
        list_entry(run, chosen)
    if runs[LISTED:]:
        with st.expander(f"{len(runs) - LISTED} older runs"):
            for run in runs[LISTED:]:
                list_entry(run, chosen)


def list_entry(run: Run, chosen: str) -> None:
    status = run.status
    with st.container(border=run.name == chosen, gap=None):
        st.button(
            f"{MARKS[status.state]} {escape(run.name)}",
            key=f"open {run.name}",
            type="tertiary",
            wrap=True,
            on_click=state.choose,
            args=("run", run.name),
        )
        st.caption(escape(f"{status.state} · {len(run.epochs())} of {status.progress.epochs or '?'} epochs"))


# ── one run ─────────────────────────────────────────────────────────────────────────────────────────────


def show_run(run: Run, runs: dict[str, Run]) -> None:
    status, job = run.status, jobs.job_of(run)
    starting = job is not None and job.active and not run.is_locked()
    with st.container(horizontal=True, vertical_alignment="center"):
        # st.text shows names as they are: a run called "**x**" or "<b>" is not markup.
        st.text(run.name, width="content")
        st.badge("starting" if starting else status.state, color=BADGES.get(status.state, "gray"))
    say_message(run, status, starting)
    show_progress(run, status)
    show_buttons(run, status, starting)
    show_loss(run, runs)
    show_epochs(run)
    with st.expander("Log", expanded=status.state in ("failed", "interrupted"), key=f"log {run.name}"):
        panels.show_log(jobs.tail(run.path / "train.log", 60))


def say_message(run: Run, status: Status, starting: bool) -> None:
    """The run's own words; for what went wrong with the remedy."""
    job = jobs.job_of(run)
    if starting:
        st.info("Starting: loading torch and the base model takes a moment.")
    elif status.state in ("failed", "interrupted"):
        remedy = next((text for sign, text in REMEDIES.items() if sign in status.message.lower()), "")
        st.error(escape(" ".join(filter(None, [status.message, remedy]))))
    elif status.state == "queued" and job is not None and job.state in ("failed", "lost"):
        said = job.tail(1).removeprefix("lora-studio: ")
        st.error(escape(f"It did not start: {said or 'the worker ended without a word'}"))
    elif status.message:
        st.caption(escape(status.message))


def show_progress(run: Run, status: Status) -> None:
    progress = status.progress
    if status.state in ACTIVE and progress.steps:
        st.progress(min(1.0, progress.step / progress.steps))
    left = progress.seconds_left
    figures = {
        "Epoch": f"{len(run.epochs())} of {progress.epochs}" if progress.epochs else "–",
        "Step": f"{progress.step}/{progress.steps}" if progress.steps else "–",
        "Speed": f"{progress.seconds_per_step:.2f} s/step" if progress.seconds_per_step else "–",
        "Time left": duration(left) if left and status.state in ACTIVE else "–",
        "Loss": f"{progress.loss:.4f}" if progress.loss is not None else "–",
    }
    with st.container(horizontal=True, gap="large"):
        for label, value in figures.items():
            with st.container(width="content", gap=None):
                st.caption(label)
                st.text(value)


def show_buttons(run: Run, status: Status, starting: bool) -> None:
    running = run.is_locked()
    with st.container(horizontal=True):
        if running:
            st.button("Save now", key="save now", on_click=ask, args=(run, "save"), icon=":material/save:")
            st.button("Stop", key="stop", on_click=ask, args=(run, "stop"), icon=":material/stop:")
        elif not starting and status.state != "finished":
            label = "Start" if status.state == "queued" else "Resume"
            st.button(label, key="resume", on_click=resume, args=(run,), type="primary", icon=":material/play_arrow:")
        if st.button("Duplicate with changes", key="duplicate", icon=":material/content_copy:"):
            duplicate(run)
        if run.epochs() and st.button("Compare epochs", key="compare", icon=":material/grid_view:"):
            st.switch_page("pages/compare.py", query_params={"run": run.name})
    waiting = [command for command in ("stop", "save") if (run.path / "control" / command).exists()]
    if running and waiting:
        st.caption(f"Asked to {' and '.join(waiting)}: it obeys at the next step.")


def ask(run: Run, command: str) -> None:
    run.request(command)


def resume(run: Run) -> None:
    try:
        run.take_request("stop")  # a request that came too late must not end the new start
        jobs.start_training(run)
    except UserError as error:
        state.notify(str(error))


def duplicate(run: Run) -> None:
    """The run's settings as the train page's draft; nothing is copied until that one is started."""
    try:
        changed = {path: value for path, (_, value) in presets.differences(run.config).items()}
    except UserError as error:
        st.error(escape(error))
        return
    state.set_draft(changed, "Defaults")
    folder = changed.get("data.folder", "")
    name = next(
        (name for name in places.datasets() if (places.DATASETS / name).resolve() == Path(folder).resolve()), ""
    )
    if name:
        st.session_state["last dataset"] = name
    elif folder:
        state.notify(f"Its pictures lie in {folder}, which is not in datasets/: choose a folder.")
    st.switch_page("pages/train.py")


def show_loss(run: Run, runs: dict[str, Run]) -> None:
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.text("Loss")
        with st.popover("Chart", icon=":material/tune:"):
            smoothing = st.slider("Smoothing", 0.0, 0.99, 0.9, 0.01, key="smoothing")
            log = st.toggle("Logarithmic", key="log scale")
            others = [name for name in runs if name != run.name]
            overlaid = st.multiselect("Compare with", others, key="overlaid", disabled=not others)
    curves = {name: metrics_of(name, size_of(runs[name])) for name in [run.name, *overlaid]}
    panels.loss_chart(curves, smoothing, log)


def size_of(run: Run) -> int:
    try:
        return (run.path / "metrics.jsonl").stat().st_size
    except OSError:
        return 0


@st.cache_data(max_entries=20, show_spinner=False)
def metrics_of(name: str, size: int) -> list[dict]:
    """Keyed by size: the file only ever grows."""
    return Run(places.RUNS / name).metrics()


def show_epochs(run: Run) -> None:
    epochs = run.epochs()
    if not epochs:
        return
    with st.expander(f"{len(epochs)} saved epochs", key=f"epochs {run.name}"):
        for epoch in reversed(epochs):
            st.text(f"epoch {epoch.number}   {file_size(epoch.path)}   {epoch.path}")


st.title("Runs")
state.show_notice()
busy = any(map(is_busy, places.runs()))
st.session_state["runs busy"] = busy
st.fragment(show, run_every=REFRESH if busy else None)()
