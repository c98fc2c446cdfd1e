"""Home: the four steps and where they stand, the last runs, and a first look on the toybox."""

from __future__ import annotations

import streamlit as st

from studio import jobs, panels, places, state
from studio.language import _, plural
from studio.text import escape
from trainer.texts import MARKS

REFRESH = 2.0
SHOWN = 5  # runs


def main() -> None:
    st.title(_("A folder of pictures in, a LoRA out"), anchor=False)
    state.show_notice()
    st.caption(_("Four steps. Everything in between is a file you can read."))
    st.space("small")
    show_steps()
    st.space("small")
    left, right = st.columns([3, 2], gap="large")
    with left:
        show_runs()
    with right:
        job = jobs.latest("demo")
        st.fragment(show_demo, run_every=REFRESH if job and job.active else None)()


def show_steps() -> None:
    runs, datasets, loras = places.runs(), places.datasets(), places.loras()
    epochs = sum(len(run.epochs()) for run in runs)
    compared = sum(1 for run in runs if any((run.path / "evaluations").glob("*/evaluation.json")))
    done = _("{n} of {total} runs").format(n=compared, total=len(runs)) if epochs else _("after the first epoch")
    steps = [
        (_("Tag"), _("Pictures and a caption beside each."), plural(len(datasets), "folder"), "dataset", datasets),
        (_("Train"), _("Ten settings, each explained."), plural(len(runs), "run"), "train", runs),
        (_("Compare"), _("Every epoch beside the base."), done, "compare", compared),
        (_("Export"), _("The one you chose, in models/."), plural(len(loras), "LoRA"), "library", loras),
    ]
    todo = next((page for *_others, page, done in steps if not done), "")
    with st.grid(4, min_column_width=200):
        for number, step in enumerate(steps, 1):
            show_step(number, *step, following=step[3] == todo)


def show_step(number: int, name: str, about: str, count: str, page: str, done, following: bool) -> None:
    with st.container(border=True, height="stretch"):
        mark = ":green[✔]" if done else ":primary[●]" if following else "○"
        st.markdown(f"## {mark} {number} · {name}")
        st.text(about)
        st.caption(count)
        label = {"dataset": _("Pictures"), "train": _("Set up"), "compare": _("Compare"), "library": _("Library")}
        st.page_link(f"views/{page}.py", label=label[page], icon=":material/arrow_forward:", icon_position="right")


def show_runs() -> None:
    st.header(_("Last runs"))
    runs = places.runs()
    if not runs:
        st.text(_("None yet. The demo beside this makes one, or set up your own."))
        return
    for run in runs[:SHOWN]:
        status = run.status
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            text = f"{MARKS[status.state]} {run.name}"
            st.page_link("views/runs.py", label=escape(text), query_params={"run": run.name}, width="stretch")
            st.caption(f"{_(status.state)} · {plural(len(run.epochs()), 'epoch')}", width="content")
    st.page_link("views/runs.py", label=_("All runs"), icon=":material/arrow_forward:")


def show_demo() -> None:
    """One button that does the whole job on the built-in miniature models."""
    st.header(_("See the whole job in minutes"))
    st.text(_("The demo teaches a tiny built-in model a drawn character: tag, train, compare, export. No download."))
    job = jobs.latest("demo")
    active = panels.show_job(job, "demo", _("Demo"))
    if active:
        st.session_state["demo watched"] = True
        panels.show_log(job.tail(12))
        return
    if st.session_state.pop("demo watched", False):
        st.rerun()
    if job and job.state == "done":
        st.success(_("Done. Look at its run and its comparison."))
        with st.expander(_("What it said"), key="demo log"):
            panels.show_log(job.tail(40))
    ready = panels.demo_ready()
    if st.button(_("Run the demo"), type="primary", key="demo", disabled=not ready, icon=":material/play_arrow:"):
        jobs.start("demo")
        st.rerun()
    if not ready:
        st.caption(_("The toybox's weights are not installed here; `lora-studio doctor` says what to do."))


main()
