"""Changes to many captions at once: planned by the trainer's edits, shown with their reasons, then written as one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st

from studio import panels, state
from studio.language import _, plural
from studio.text import escape
from trainer.dataset import edit
from trainer.errors import UserError

PREVIEWED = 8  # captions that are shown
NOTED = 12  # reasons


@dataclass(frozen=True)
class Operation:
    """One entry of the list: which edit it is, and what is asked for it."""

    edit: str
    which: bool = True  # asks for tags or text
    by: bool = False  # asks for what to put there
    given: tuple[str, ...] = ()  # arguments that are not asked for
    optional: bool = False  # what is asked for may be left out
    literal: bool = False  # letters, for an edit that takes a pattern


OPERATIONS: dict[str, Operation] = {
    "Add at the end": Operation("add"),
    "Add in front": Operation("prepend"),
    "Remove": Operation("remove"),
    "Replace a tag": Operation("replace", by=True),
    "Replace text": Operation("regex", by=True, literal=True),
    "Replace by a regular expression": Operation("regex", by=True),
    "Trigger word first": Operation("trigger"),
    "Move to the front": Operation("order"),
    "Most frequent tags first": Operation("order", which=False, given=("frequency",)),
    "Tags in alphabetical order": Operation("order", which=False, given=("alphabet",)),
    "Remove duplicates": Operation("dedupe", which=False),
    "Take out what longer tags say": Operation("prune", which=False),
    "Take out what describes the character": Operation("absorb", optional=True),
    "Spaces instead of underscores": Operation("spaces", which=False),
}


def plan(name: str, what: str, by: str, texts: Mapping[Path, str | None]) -> edit.Plan:
    """What would change; nothing while something that is asked for is missing. Raises UserError as `edit.plan`."""
    operation = OPERATIONS[name]
    if operation.which and not operation.optional and not what.strip():
        return edit.Plan(name, [])
    asked: Sequence[str] = [what, by] if operation.by else [what] if operation.which and what.strip() else []
    if operation.literal:
        asked = [re.escape(what), by.replace("\\", r"\\")]
    made = edit.plan(texts, operation.edit, [*operation.given, *asked])
    return replace(made, operation=f"{name}: {what}".rstrip(": "))


def ask(folder: Path, texts: Mapping[Path, str | None], of: int) -> None:
    """A change to the captions of all shown pictures, with a look at it before it is written."""
    every = len(texts) == of
    about = _("All {pictures}") if every else _("The {pictures} that the filter shows")
    st.caption(about.format(pictures=plural(len(texts), "picture")))
    name = st.selectbox(_("What to do"), list(OPERATIONS), format_func=_, key="bulk")
    operation = OPERATIONS[name]
    if operation.edit == "absorb":
        st.caption(_("What every caption names must be asked for later; what none names is learned by the trigger."))
    label = _("Find") if operation.by else _("Tags")
    what = st.text_input(label, key="bulk what", placeholder="hat, smile") if operation.which else ""
    by = st.text_input(_("Replace with"), key="bulk by") if operation.by else ""
    try:
        made = plan(name, what, by, texts)
    except UserError as error:
        st.error(escape(error))
        return
    if (what or not operation.which or operation.optional) and not made.changes:
        st.caption(_("This changes nothing."))
    label = _("Change {captions}").format(captions=plural(len(made.changes), "caption"))
    st.button(label, type="primary", key="bulk go", disabled=not made.changes, on_click=write, args=(folder, made))
    show(made)


def show(made: edit.Plan) -> None:
    """Reasons first, then some of the captions before and after."""
    for note in made.notes[:NOTED]:
        st.caption(escape(note))
    for change in made.changes[:PREVIEWED]:
        with st.container(gap=None):
            st.caption(escape(change.picture.name))
            st.text(f"− {change.before or '…'}\n+ {change.after or '…'}")
    if len(made.changes) > PREVIEWED:
        st.caption(_("… and {n} more").format(n=len(made.changes) - PREVIEWED))


def write(folder: Path, made: edit.Plan) -> None:
    """As one step that undo takes back; nothing is written when a caption has changed since it was shown."""
    try:
        edit.apply(folder, made)
        panels.close("bulk")
        state.notify(_("Saved {captions}.").format(captions=plural(len(made.changes), "caption")))
    except UserError as error:
        state.complain(error)
