"""Beside one run: those that wait, all there are, TensorBoard over them, and those that were thrown away."""

from __future__ import annotations

import streamlit as st

from studio import jobs, line, places, state, trash
from studio.language import _
from studio.text import escape
from trainer.run import Run
from trainer.texts import MARKS

LISTED = 25  # runs in the list before the older ones are folded away


def show_line() -> None:
    """The runs that wait for the device, to be put into another order or taken out."""
    waiting = line.names()
    if not waiting:
        return
    with st.container(border=True, gap="xxsmall"):
        st.caption(_("Waiting for the device, first to start first"))
        for place, name in enumerate(waiting):
            with st.container(horizontal=True, gap="xxsmall", vertical_alignment="center"):
                st.text(name, width="stretch")
                moves = (
                    ("up", ":material/arrow_upward:", place == 0, line.move, (name, -1), _("Earlier")),
                    ("down", ":material/arrow_downward:", name == waiting[-1], line.move, (name, 1), _("Later")),
                    ("out", ":material/close:", False, line.remove, (name,), _("Take out of the queue")),
                )
                for key, icon, off, what, args, hint in moves:
                    st.button(
                        "",
                        key=f"{key} {name}",
                        icon=icon,
                        disabled=off,
                        on_click=what,
                        args=args,
                        type="tertiary",
                        help=hint,
                    )


def show_list(runs: list[Run], chosen: str) -> None:
    for run in runs[:LISTED]:
        list_entry(run, chosen)
    if runs[LISTED:]:
        # Drawn only where somebody looks: the list is drawn anew every two seconds while something trains.
        title = _("{n} older runs").format(n=len(runs) - LISTED)
        with st.expander(title, key="older runs", on_change="rerun") as older:
            for run in runs[LISTED:] if older.open else []:
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
        total = status.progress.epochs  # not known before its pictures are read
        epochs = " · " + _("{n} of {total} epochs").format(n=len(run.epochs()), total=total) if total else ""
        st.caption(escape(_(status.state) + epochs))


def show_tensorboard() -> None:
    """TensorBoard over all runs, started on demand."""
    job = jobs.latest("tensorboard", places.RUNS.as_posix())
    if job is not None and job.active:
        if address := jobs.address(job):
            with st.container(horizontal=True, gap="xsmall"):
                st.link_button(_("Open TensorBoard"), address, icon=":material/open_in_new:")
                st.button(
                    "", key="end tensorboard", icon=":material/stop:", on_click=job.cancel, help=_("End TensorBoard")
                )
        else:
            st.caption(_("TensorBoard is starting …"))
        return
    if st.button(
        "TensorBoard",
        key="tensorboard",
        icon=":material/show_chart:",
        type="tertiary",
        help=_("Start TensorBoard over all runs, for this machine only."),
    ):
        jobs.start_tensorboard(places.RUNS)
        st.rerun()


def show_trash() -> None:
    thrown = trash.runs()
    if not thrown:
        return
    with st.popover(_("Trash ({n})").format(n=len(thrown)), icon=":material/delete:", type="tertiary"):
        for run in thrown:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.text(run.name, width="stretch")
                st.button(
                    _("Restore"), key=f"restore {run.name}", on_click=state.trying, args=(trash.restore, run.name)
                )
        sure = st.checkbox(_("Delete them for good, with every epoch in them"), key="empty sure")
        st.button(_("Empty the trash"), key="empty", disabled=not sure, on_click=state.trying, args=(trash.empty,))
