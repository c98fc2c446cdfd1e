"""Home: the four steps and where they stand, the last runs, and a first look on the toybox."""

from __future__ import annotations

import streamlit as st

from studio import jobs, panels, places, projects, state
from studio.language import _, plural
from studio.text import escape
from trainer.texts import MARKS

REFRESH = 2.0
SHOWN = 5  # runs


def main() -> None:
    st.title(_("A folder of pictures in, a LoRA out"), anchor=False)
    state.show_notice()
    names = projects.names()
    name = None
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(_("Four steps. Everything in between is a file you can read."), width="content")
        if len(names) > 1:
            name = state.select(_("Pictures"), "dataset", names, width=260, label_visibility="collapsed")
    show_steps(projects.look(name or state.chosen("dataset", names)))
    st.space("small")
    left, right = st.columns([3, 2], gap="large")
    with left:
        show_runs()
    with right:
        job = jobs.latest("demo")
        st.fragment(show_demo, run_every=REFRESH if job and job.active else None)()


def show_steps(project: projects.Project) -> None:
    """Where the pictures that are worked on stand."""
    steps = [
        (_("Tag"), _("Pictures and a caption beside each."), tagged(project), "dataset", project.tagged),
        (_("Train"), _("Ten settings, each explained."), trained(project), "train", project.epochs > 0),
        (_("Compare"), _("Every epoch beside the base."), compared(project), "compare", project.compared > 0),
        (_("Export"), _("The one you chose, in models/."), exported(project), "library", bool(project.exported)),
    ]
    todo = next((page for *_others, page, done in steps if not done), "")
    with st.grid(4, min_column_width=200):
        for number, step in enumerate(steps, 1):
            show_step(number, *step, following=step[3] == todo, project=project)


def tagged(project: projects.Project) -> str:
    if not project.name:
        return _("no folder yet")
    words = _("{pictures}, {n} with a caption")
    said = words.format(pictures=plural(project.pictures, "picture"), n=f"{project.captioned:,}")
    return f"{project.name}: {said}"


def trained(project: projects.Project) -> str:
    if project.run is None:
        return _("no run yet")
    return f"{_(project.run.status.state)} · {plural(project.epochs, 'epoch')}"


def compared(project: projects.Project) -> str:
    if not project.compared:
        return _("not rendered yet") if project.epochs else _("after the first epoch")
    rendered = _("{n} of {total} epochs").format(n=project.compared, total=project.epochs)
    return f"{rendered} · ★ {project.best}" if project.best else rendered


def exported(project: projects.Project) -> str:
    return ", ".join(project.exported[:2]) + " …" * (len(project.exported) > 2) or _("none yet")


def show_step(number: int, name: str, about: str, count: str, page: str, done, following: bool, project) -> None:
    with st.container(border=True, height="stretch", vertical_alignment="distribute"):
        mark = ":green[✔]" if done else ":primary[●]" if following else "○"
        with st.container():
            st.markdown(f"## {mark} {number} · {name}")
            st.text(about)
            st.caption(escape(count))
        label = {"dataset": _("Pictures"), "train": _("Set up"), "compare": _("Compare"), "library": _("Library")}
        address = {"dataset": project.name} if page in ("dataset", "train") and project.name else {}
        if page == "compare" and project.run is not None:
            address = {"run": project.run.name}
        arrow = {"icon": ":material/arrow_forward:", "icon_position": "right"}
        st.page_link(f"views/{page}.py", label=label[page], query_params=address, **arrow)


def show_runs() -> None:
    st.header(_("Last runs"))
    runs = places.runs()
    if not runs:
        st.text(_("None yet. The demo makes one, or set up your own."))
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
        walk_through()
        with st.expander(_("What it said"), key="demo log"):
            panels.show_log(job.tail(40))
    ready = panels.demo_ready()
    if st.button(_("Run the demo"), type="primary", key="demo", disabled=not ready, icon=":material/play_arrow:"):
        jobs.start("demo")
        st.rerun()
    if not ready:
        st.caption(_("The toybox's weights are not installed here; `lora-studio doctor` says what to do."))


def walk_through() -> None:
    """What the demo has made, in the order in which one's own pictures will go through it."""
    run = next((run for run in places.runs() if run.name.endswith(projects.DEMO)), None)
    address = {"run": run.name} if run else {}
    st.success(_("Done. This is what it has made, step by step:"))
    steps = (
        ("dataset", {"dataset": projects.DEMO}, _("1 · Twelve pictures with the captions that a tagger wrote")),
        ("runs", address, _("2 · The training: its loss, and a file for every epoch")),
        ("compare", address, _("3 · The epochs beside the base, scored, and one recommended")),
        ("library", {}, _("4 · The LoRA, ready for A1111, Forge and ComfyUI")),
    )
    for page, where, label in steps:
        st.page_link(f"views/{page}.py", label=label, query_params=where, icon=":material/arrow_forward:")


main()
