"""What a run will take, asked of the trainer in a process of its own, since counting it needs torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import streamlit as st

from studio import forms, jobs, panels, problems, state
from studio.language import _, plural
from studio.sentences import duration
from studio.text import escape
from trainer import presets
from trainer.checks import Problem
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.files import write_text
from trainer.texts import size

ASKED = Path(".studio") / "estimates"  # the settings that were asked about, a file each
REFRESH = 1.0
LIVE = "forecast live"  # in the session: whether it was asked for once
# What the trainer names in `Estimate.training`, for the translations.
PARTS = ("text encoders", "optimizer", "average", "activations and gradients", "program and driver")


def show(config: TrainConfig, stamp: tuple) -> None:
    """The button, and beneath it what was answered for these settings and these pictures."""
    text = presets.to_toml(presets.nest({path: now for path, (_usual, now) in presets.differences(config).items()}), "")
    subject = hashlib.sha256(f"{text}{stamp}".encode()).hexdigest()[:20]
    job = jobs.latest("estimate", subject)
    active = job is not None and job.active
    with st.container(horizontal=True):
        hint = _("From then on it follows every change of the form.")
        if st.button(_("What will it take?"), key="estimate", icon=":material/speed:", disabled=active, help=hint):
            st.session_state[LIVE] = True
            start(text, subject)
        if st.button(
            _("Time two steps"),
            key="probe",
            icon=":material/timer:",
            disabled=active,
            help=_("Loads the base model and takes two real steps, which are thrown away: then the time is known."),
        ):
            start(text, subject, "--probe")
    if job is not None:
        st.fragment(watch, run_every=REFRESH if active else None)(subject)
    elif st.session_state.get(LIVE):
        if not counting():
            start(text, subject)
        st.fragment(wait, run_every=REFRESH)()


def counting() -> bool:
    job = jobs.latest("estimate")
    return job is not None and job.active


def wait() -> None:
    """For the answer to a question that the form has left behind; one is asked at a time."""
    st.caption(_("Counting memory, time and disk"))
    if not counting():
        st.rerun()


def start(text: str, subject: str, *options: str) -> None:
    path = ASKED / f"{subject}.toml"
    try:
        write_text(path, text)
        jobs.start("estimate", f"--preset={path.as_posix()}", "--json", *options, subject=subject)
    except UserError as error:
        st.error(escape(error))
        return
    st.rerun()


def watch(subject: str) -> None:
    job = jobs.latest("estimate", subject)
    active = panels.show_job(job, f"estimate {subject}", _("Counting memory, time and disk"))
    if st.session_state.get(f"watched {subject}", False) and not active:
        st.session_state[f"watched {subject}"] = False
        st.rerun()
    st.session_state[f"watched {subject}"] = active
    if job is not None and job.state == "done":
        answer = answer_of(job)
        if answer is None:
            st.error(_("The answer cannot be read: ask again."))
        else:
            # What only the trainer can tell, since it has opened the base for this.
            problems.show([Problem(**problem) for problem in answer.get("problems", ())], "mend base")
            show_answer(answer)


def answer_of(job: jobs.Job) -> dict[str, Any] | None:
    """The figures as the command printed them; warnings of libraries may stand around that line."""
    line = next((line for line in reversed(job.tail(50).splitlines()) if line.startswith('{"device"')), "")
    try:
        return json.loads(line)
    except ValueError:
        return None


def show_answer(found: dict[str, Any]) -> None:
    """Memory, time and disk; where it does not fit, the change that makes it."""
    capacity = size(found["capacity"])
    most = max(found["peak"], found["rendering"])
    fits = _("It fits: {most} of {capacity} on {device}.")
    fails = _("It does not fit: {most} of {capacity} on {device}.")
    say = st.success if found["fits"] else st.error
    text = (fits if found["fits"] else fails).format(most=size(most), capacity=capacity, device=found["device"])
    say(escape(text))
    if not found["fits"]:
        show_change(found["change"], found.get("trains", False))
    seconds, comparing = found["total_seconds"], found.get("comparing_seconds")  # older answers have no second
    rows = {
        _("Memory for training"): size(found["peak"]),
        _("Memory for rendering"): size(found["rendering"]),
        _("Time"): duration(seconds) if seconds is not None else _("not known: time two steps"),
        **({_("Time to compare"): duration(comparing)} if comparing is not None else {}),
        _("Disk"): _("{all}, {file} an epoch").format(all=size(sum(found["disk"].values())), file=size(found["file"])),
    }
    with st.container(gap=None):
        for label, value in rows.items():
            with st.container(horizontal=True, horizontal_alignment="distribute"):
                st.text(label, width="content")
                st.text(value, width="content")
        parts = ", ".join(f"{_(name)} {size(amount)}" for name, amount in found["training"].items() if amount)
        st.caption(escape(_("In a step: {parts}").format(parts=parts)))


def show_change(change: dict[str, Any] | None, trains: bool) -> None:
    """What makes it fit; `trains`: the training alone fits as it is. Answers of an older studio say less."""
    renders = change.get("fits", True) if change else not trains
    if not renders:
        st.caption(_("What does not fit is the rendering: render on the processor or on another machine."))
    if change is None:
        if renders:
            st.caption(_("Nothing that can be set makes it fit: take a smaller base model or a larger device."))
        return
    known = forms.by_path()
    said = ", ".join(f"{_(known[path].label)}: {forms.shown(value)}" for path, value in change["set"].items())
    most = size(max(change["peak"], change["rendering"]) if renders else change["peak"])
    fits = _("It fits with {change} ({most}).") if renders else _("Training fits with {change} ({most}).")
    st.text(fits.format(change=said, most=most))
    label = _("Make it fit: change {settings}").format(settings=plural(len(change["set"]), "setting"))
    # Not in a callback: this is a part of the page, and the form is another.
    if st.button(label, key="make it fit", type="primary", icon=":material/build:"):
        state.set_draft(state.draft() | change["set"])
        state.notify(_("Changed {settings}.").format(settings=plural(len(change["set"]), "setting")))
        st.rerun()
