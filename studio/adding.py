"""Pictures that come into datasets/: dropped in, from the clipboard, or a folder that lies elsewhere."""

from __future__ import annotations

import streamlit as st

from studio import panels, state, uploads
from studio.language import _, plural
from studio.text import escape
from trainer.errors import UserError

REFUSED = "refused files"  # in the session: said above the folder once it shows those that were taken
ROUND = "upload round"  # part of the uploader's key: another one is empty
SAID = 20  # of the refused files


def ask(folder: str) -> None:
    """Everything that can be added, into this folder where no other is named."""
    ask_upload(folder)
    if folder:
        st.caption(_("A picture from the clipboard is added to the folder with Ctrl-V."))
    ask_link()


def ask_upload(folder: str) -> None:
    """Pictures and captions dropped in; each is checked before it is written, and nothing is written over.

    What was chosen stays there until it is taken: a name that was forgotten costs no second upload.
    """
    with st.form("upload", border=False):
        files = st.file_uploader(
            _("Pictures, captions if you have them, or a zip of both"),
            type=uploads.TAKEN,
            accept_multiple_files=True,
            key=f"files {st.session_state.get(ROUND, 0)}",
        )
        name = st.text_input(_("Into the folder"), folder, placeholder="moss-cat")
        if not st.form_submit_button(_("Add"), type="primary"):
            return
    try:
        report = uploads.save(name, [(file.name, file.getvalue()) for file in files])
    except UserError as error:
        st.error(escape(error))
        return
    if not report.written:
        say_refused(report.refused)
        return
    st.session_state[ROUND] = st.session_state.get(ROUND, 0) + 1
    st.session_state[REFUSED] = report.refused
    number = plural(len(report.written), "file")
    show_now(report.folder.name, _("Added {files} to {folder}.").format(files=number, folder=report.folder))


def say_refused(texts: list[str] | None = None) -> None:
    """Why some files were not taken; without `texts` those of the last upload, once."""
    for refused in (st.session_state.pop(REFUSED, []) if texts is None else texts)[:SAID]:
        st.warning(escape(refused))


def add_pasted(name: str, files: list[tuple[str, bytes]]) -> None:
    """Pictures from the clipboard, into the folder that is looked at."""
    try:
        report = uploads.save(name, files)
        number = plural(len(report.written), "file")
        said = [_("Added {files} to {folder}.").format(files=number, folder=report.folder)] if report.written else []
        (state.complain if report.refused else state.notify)(" ".join([*said, *report.refused[:5]]))
    except UserError as error:
        state.complain(error)


def ask_link() -> None:
    """A folder that lies elsewhere on this machine."""
    with st.form("link folder", border=False):
        path = st.text_input(
            _("Or a folder on this machine"),
            placeholder="/home/you/pictures/moss",
            key="link path",
            help=_("Its pictures stay where they are, and captions are written beside them."),
        )
        if not st.form_submit_button(_("Use it")) or not path.strip():
            return
    try:
        target = uploads.link(path)
    except UserError as error:
        st.error(escape(error))
        return
    show_now(target.name, _("{folder} is now one of the folders.").format(folder=target.name))


def show_now(name: str, text: str) -> None:
    """The folder that something was added to, with a word about it, in place of the forms."""
    state.choose("dataset", name)
    state.notify(text)
    panels.close("add")
    st.rerun()
