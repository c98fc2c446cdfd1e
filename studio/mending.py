"""What is wrong with a folder and what can be done about it: fixes that set aside, never delete, and can be undone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from studio import panels, state
from studio.language import _, plural
from studio.sentences import said
from studio.text import escape
from trainer.dataset import aside, fixes
from trainer.dataset.findings import Finding
from trainer.dataset.health import Health
from trainer.dataset.names import listed, shown
from trainer.errors import UserError

SHOWN = 12  # findings of a kind
GROUPS = 20  # of pictures that show the same
SIDE = 160  # px of their thumbnails
ICONS = {"error": ":material/error:", "warning": ":material/warning:", "hint": ":material/info:"}
BY_TRIGGER = ("no caption", "empty caption", "trigger missing")  # kinds whose fix writes the trigger word


def show(folder: Path, verdict: Health, trigger: str) -> None:
    """The findings by kind, worst first, each with a look at its pictures and its fix where there is one."""
    if not verdict.findings:
        return
    st.header(_("To look at"))
    kinds: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        kinds.setdefault(finding.kind, []).append(finding)
    for kind, found in kinds.items():
        title = escape(_(kind)) + f" · {len(found)}" * (found[0].file is not None)  # else it is the folder's as a whole
        severity = found[0].severity
        key, expanded = f"kind {kind}", severity == "error"
        with st.expander(title, expanded, icon=ICONS[severity], key=key, on_change="rerun") as expander:
            if expander.open:
                show_kind(folder, kind, found, trigger)


def show_kind(folder: Path, kind: str, found: Sequence[Finding], trigger: str) -> None:
    for finding in found[:SHOWN]:
        st.caption(escape(said(finding.what)))
    if len(found) > SHOWN:
        st.caption(_("… and {n} more").format(n=len(found) - SHOWN))
    for remedy in dict.fromkeys(finding.remedy for finding in found):
        st.text(said(remedy) + _("."))
    if any(finding.file is not None for finding in found):
        st.button(_("Show these"), key=f"show {kind}", on_click=look_at, args=(kind,), icon=":material/search:")
    if kind not in fixes.FIXES:
        return
    word = trigger
    if kind in BY_TRIGGER:
        word = st.text_input(_("Trigger word"), trigger, key=f"trigger {kind}").strip()
        if not word:
            return
    settings = fixes.Settings(trigger=word)
    try:
        st.caption(escape(outline(fixes.plan(kind, found, settings))))
    except UserError as error:
        st.error(escape(error))
        return
    label = _("Fix {findings}").format(findings=plural(len(found), "finding"))
    st.button(label, key=f"fix {kind}", on_click=mend, args=(folder, kind, found, settings), icon=":material/build:")


def outline(repair: fixes.Repair) -> str:
    """What a fix would do, in words."""
    parts = (
        (_("sets aside {files}"), repair.aside),
        (_("writes {files}"), repair.make),
        (_("changes {files}"), repair.texts),
    )
    named = [text.format(files=listed([shown(path.name) for path in paths])) for text, paths in parts if paths]
    return ", ".join(named) or _("nothing to do")


def look_at(kind: str) -> None:
    """The pictures that a kind of finding is about, by the filter."""
    st.session_state["filter"] = f'issue:"{kind}"'


def mend(folder: Path, kind: str, found: Sequence[Finding], settings: fixes.Settings) -> None:
    """Planned anew at the click, so that captions which changed since the page was drawn are not written over."""
    try:
        fixes.apply(folder, fixes.plan(kind, found, settings))
        state.notify(_("Fixed {findings}.").format(findings=plural(len(found), "finding")))
    except UserError as error:
        state.complain(error)


def show_groups(folder: Path, groups: Sequence[Sequence[Path]]) -> None:
    """Pictures that show the same, the one to keep first."""
    if not groups:
        st.caption(_("No two pictures show the same."))
        return
    st.caption(_("The first of each group has the most pixels. What is shown twice is learned twice as hard."))
    for number, group in enumerate(groups[:GROUPS]):
        with st.container(horizontal=True, vertical_alignment="center", border=True):
            for path in group:
                with st.container(width=SIDE, gap=None):
                    if small := panels.thumbnail(path, SIDE):
                        st.image(str(small), alt=path.name)
                    st.caption(escape(path.name))
            label = _("Set {pictures} aside").format(pictures=plural(len(group) - 1, "picture"))
            st.button(label, key=f"aside {number}", on_click=set_aside, args=(folder, group[1:]))
    if len(groups) > GROUPS:
        st.caption(_("… and {n} more").format(n=len(groups) - GROUPS))


def set_aside(folder: Path, paths: Sequence[Path]) -> None:
    """With their captions into the folder's .originals/, from where Undo brings them back."""
    repair = fixes.Repair("near duplicate", aside=aside.with_companions(paths))
    try:
        fixes.apply(folder, repair)
        state.notify(_("Set {pictures} aside.").format(pictures=plural(len(paths), "picture")))
    except UserError as error:
        state.complain(error)
