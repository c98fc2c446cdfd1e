"""One run: how it stands, what it says, what can be done with it, and what to do where it went wrong."""

from __future__ import annotations

import time
from pathlib import Path

import streamlit as st

from studio import jobs, line, outcome, panels, places, state, trash
from studio.language import _
from studio.sentences import duration, said
from studio.text import escape
from trainer import presets
from trainer.errors import UserError
from trainer.run import ACTIVE, COMMANDS, Run, Status
from trainer.texts import size

BADGES = {"training": "blue", "preparing": "blue", "finished": "green", "failed": "red", "interrupted": "orange"}


def show(run: Run, runs: dict[str, Run]) -> None:
    status, job = run.status, jobs.job_of(run)
    starting = job is not None and job.active and not run.is_locked()
    with st.container(horizontal=True, vertical_alignment="center"):
        # st.text shows names as they are: a run called "**x**" or "<b>" is not markup.
        st.text(run.name, width="content")
        st.badge(_("starting") if starting else _(status.state), color=BADGES.get(status.state, "gray"))
    say_message(run, status, starting)
    show_progress(run, status)
    show_buttons(run, status, starting)
    outcome.show_curves(run, runs)
    outcome.show_samples(run)
    outcome.show_epochs(run)
    with st.expander(_("Log"), expanded=status.state in ("failed", "interrupted"), key=f"log {run.name}"):
        show_log(run)


def say_message(run: Run, status: Status, starting: bool) -> None:
    """The run's own words; for what went wrong with the remedy."""
    job = jobs.job_of(run)
    if starting:
        waits = said(job.progress.text) or _("Starting: loading torch and the base model takes a moment.")
        st.info(f"{escape(waits)} · {duration(job.age)}")
    elif status.state in ("failed", "interrupted"):
        st.error(escape(" ".join(filter(None, [said(status.message), remedy_for(status.message)]))))
    elif status.state == "queued" and job is not None and job.state in ("failed", "lost"):
        why = said(job.tail(1).removeprefix("lora-studio: ")) or _("the worker ended without a word")
        st.error(escape(_("It did not start: {why}").format(why=why)))
    elif status.message:
        since = f" · {duration(max(0.0, time.time() - status.updated))}" * (status.state == "preparing")
        st.caption(escape(said(status.message)) + since)
    if status.state == "training" and status.progress.alarm:
        st.warning(escape(said(status.progress.alarm)))


def remedy_for(text: str) -> str:
    return next((remedy for sign, remedy in remedies().items() if sign in text.lower()), "")


def show_log(run: Run) -> None:
    """The tail, with what is known about the trouble in it above."""
    tail = jobs.tail(run.path / "train.log", 60)
    if remedy := remedy_for(tail):
        st.warning(escape(remedy))
    panels.show_log(tail)


def show_progress(run: Run, status: Status) -> None:
    progress = status.progress
    if status.state in ACTIVE and progress.steps:
        st.progress(min(1.0, progress.step / progress.steps))
    left = progress.seconds_left
    figures = {
        _("Epoch"): _("{n} of {total}").format(n=len(run.epochs()), total=progress.epochs) if progress.epochs else "–",
        _("Step"): f"{progress.step}/{progress.steps}" if progress.steps else "–",
        _("Speed"): _("{n} s/step").format(n=f"{progress.seconds_per_step:.2f}") if progress.seconds_per_step else "–",
        _("Time left"): duration(left) if left and status.state in ACTIVE else "–",
        _("Loss"): f"{progress.loss:.4f}" if progress.loss is not None else "–",
        _("Learning rate"): f"{progress.learning_rate:.2g}" if progress.learning_rate is not None else "–",
        _("Memory"): size(progress.memory) if progress.memory else "–",
    }
    known = {label: value for label, value in figures.items() if value != "–"}
    with st.container(horizontal=True, gap="medium"):
        for label, value in known.items():
            with st.container(width="content", gap=None):
                st.caption(label)
                st.text(value)


def show_buttons(run: Run, status: Status, starting: bool) -> None:
    running, job = run.is_locked(), jobs.job_of(run)
    with st.container(horizontal=True, gap="xsmall"):  # six of them in one row
        if running:
            st.button(_("Save now"), key="save now", on_click=run.request, args=("save",), icon=":material/save:")
            st.button(
                _("Sample now"),
                key="sample now",
                on_click=run.request,
                args=("sample",),
                icon=":material/brush:",
                help=_("Saves at the next step and renders a few prompts with it. Training waits, and ends the same."),
            )
            st.button(
                _("Stop"),
                key="stop",
                on_click=run.request,
                args=("stop",),
                icon=":material/stop:",
                help=_("Saves at the next step, then ends. Resume goes on from there."),
            )
        elif not starting and status.state != "finished":
            label = _("Start") if status.state == "queued" else _("Resume")
            st.button(label, key="resume", on_click=resume, args=(run,), type="primary", icon=":material/play_arrow:")
            if run.name not in line.names():
                st.button(
                    _("Add to queue"),
                    key="enqueue",
                    on_click=state.trying,
                    args=(line.add, run),
                    icon=":material/playlist_add:",
                )
        if run.epochs() and st.button(_("Compare epochs"), key="compare", icon=":material/grid_view:"):
            st.switch_page("views/compare.py", query_params={"run": run.name})
        if st.button(_("Duplicate with changes"), key="duplicate", icon=":material/content_copy:"):
            duplicate(run)
        if job is not None and job.active:
            with st.popover(_("Kill"), icon=":material/dangerous:"):
                st.text(_("Ends it at once, without saving. What was saved before stays, and Resume goes on from it."))
                st.button(_("Kill it now"), key="kill", on_click=job.kill)
        elif not running:
            st.button(
                _("Delete"),
                key="delete",
                on_click=throw,
                args=(run,),
                icon=":material/delete:",
                help=_("To the trash, from where it can be restored."),
            )
    waiting = [command for command in COMMANDS if (run.path / "control" / command).exists()]
    if running and waiting:
        st.caption(_("Asked to {what}: it obeys at the next step.").format(what=", ".join(map(_, waiting))))


def remedies() -> dict[str, str]:
    """A sign of trouble in a message or log -> what to do about it."""
    return {
        "out of memory": _(
            "Lower the batch size or the resolution, or turn gradient checkpointing on: duplicate the "
            "run with that change."
        ),
        "no space left": _("Free some space on the disk, then press Resume."),
        "not finite": _("Lower the learning rate: duplicate the run with that change."),
        "cuda driver": _("The graphics driver is older than torch needs: update it, or install torch for that driver."),
        "no kernel image": _("This torch was not built for the graphics card: install the one that pytorch.org names."),
    }


# ── what its buttons do ─────────────────────────────────────────────────────────────────────────────────


def throw(run: Run) -> None:
    line.remove(run.name)
    state.trying(trash.throw, run)


def resume(run: Run) -> None:
    try:
        run.take_request("stop")  # a request that came too late must not end the new start
        line.remove(run.name)
        jobs.start_training(run)
    except UserError as error:
        state.complain(error)


def duplicate(run: Run) -> None:
    """The run's settings as the train page's draft; nothing is copied until that one is started."""
    try:
        changed = {path: value for path, (_default, value) in presets.differences(run.config).items()}
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
        state.notify(
            _("Its pictures lie in {folder}, which is not in datasets/: choose a folder.").format(folder=folder)
        )
    st.switch_page("views/train.py")
