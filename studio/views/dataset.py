"""Dataset: pictures with their captions, what is said how often, and whether the folder is ready to train."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from studio import bulk, contents, crops, editing, gallery, jobs, panels, places, sieve, state, uploads
from studio.contents import Contents, Texts
from studio.language import _, plural
from studio.text import escape
from trainer import toybox
from trainer.dataset import captions, health
from trainer.errors import UserError

PAGE = 12  # pictures at once
TAGS = 60  # in the list
PREVIEWED = 8  # captions of a bulk change that are shown
REFRESH = 2.0
DEFAULT_TAGGER = "wd14:SmilingWolf/wd-swinv2-tagger-v3"


def main() -> None:
    st.title(_("Dataset"))
    state.show_notice()
    names = places.datasets()
    if not names:
        panels.empty(_("No pictures yet"), _("15 to 30 pictures of one character or style are a good start."))
        with st.container(border=True):
            ask_upload([])
        return
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        name = state.select(_("Folder in datasets/"), "dataset", names)
    with right, st.popover(_("Add pictures"), width="stretch", icon=":material/add_photo_alternate:"):
        ask_upload(names)
    try:
        show_folder(name, places.dataset(name))
    except UserError as error:
        st.error(escape(error))


def ask_upload(names: list[str]) -> None:
    """Pictures and captions dropped in; each is checked before it is written, and nothing is written over."""
    with st.form("upload", border=False, clear_on_submit=True):
        files = st.file_uploader(
            _("Pictures, captions if you have them, or a zip of both"),
            type=uploads.TAKEN,
            accept_multiple_files=True,
            key="files",
        )
        name = st.text_input(_("Into the folder"), state.chosen("dataset", names) or "", placeholder="moss-cat")
        if not st.form_submit_button(_("Add"), type="primary"):
            return
    try:
        report = uploads.save(name, [(file.name, file.getvalue()) for file in files])
    except UserError as error:
        st.error(escape(error))
        return
    for refused in report.refused[:20]:
        st.warning(escape(refused))
    if report.written:
        number = plural(len(report.written), "file")
        state.notify(_("Added {files} to {folder}.").format(files=number, folder=report.folder))
        state.choose("dataset", report.folder.name)
        if not report.refused:
            st.rerun()


# ── the folder ──────────────────────────────────────────────────────────────────────────────────────────


def show_folder(name: str, folder: Path) -> None:
    stamp = panels.stamp(folder)
    found = contents.of(folder.as_posix(), stamp)
    if not found.pictures:
        st.info(_("No picture in this folder yet: add some."))
        return
    with st.spinner(_("Looking at every picture …")):
        verdict = contents.health_of(folder.as_posix(), found.trigger, stamp)
    top = st.container()
    middle, side = st.columns([3, 1], gap="large")
    with side:
        picked = show_tags(found.counts)
        show_findings(verdict)
    with middle:
        shown = ask_filter(found, picked)
        show_gallery(folder, shown, found)
    with top:
        show_head(name, folder, found, shown, verdict)
    with st.expander(_("Buckets and crops"), icon=":material/crop:", key="crops", on_change="rerun") as expander:
        if expander.open:
            sizes = contents.survey(folder.as_posix(), stamp[0])
            crops.show([sizes[path] for path in found.pictures if path in sizes])


def show_head(name: str, folder: Path, found: Contents, shown: list[Path], verdict: health.Health) -> None:
    """Count, score, and what can be done to all captions at once."""
    job = jobs.latest("tag", name)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(plural(len(found.pictures), "picture"), width="content")
        word = _("ready to train") if verdict.ready else _("not ready")
        st.badge(f"{word}: {verdict.score}/100", color="green" if verdict.score >= 80 else "orange")
        with st.popover(_("Tag with …"), icon=":material/label:", disabled=bool(job and job.active)):
            ask_tag(name, folder)
        with st.popover(_("Bulk edit"), icon=":material/edit_note:"):
            captioned = {path.as_posix(): found.texts.get(path.as_posix()) for path in shown}
            ask_bulk(folder, captioned, len(found.pictures))
        done = captions.history(folder)
        undoable = [operation for operation in done if not operation.undone]
        redoable = [operation for operation in done if operation.undone]
        st.button(
            _("Undo"),
            key="undo",
            on_click=take_back,
            args=(folder, "undo"),
            disabled=not undoable,
            icon=":material/undo:",
            shortcut="Mod+Z",
            help=undoable[-1].name if undoable else None,
        )
        st.button(
            _("Redo"),
            key="redo",
            on_click=take_back,
            args=(folder, "redo"),
            disabled=not redoable,
            icon=":material/redo:",
            shortcut="Mod+Shift+Z",
            help=redoable[0].name if redoable else None,
        )
    st.fragment(watch_tagging, run_every=REFRESH if job and job.active else None)(name)


def take_back(folder: Path, verb: str) -> None:
    try:
        touched = (captions.undo if verb == "undo" else captions.redo)(folder)
        text = _("Took back changes to {captions}.") if verb == "undo" else _("Did again changes to {captions}.")
        state.notify(text.format(captions=plural(len(touched), "caption")))
    except UserError as error:
        state.notify(str(error))


def ask_tag(name: str, folder: Path) -> None:
    usual = "wd14:toybox/tagger" if toybox.PARTS["tagger"].is_dir() else DEFAULT_TAGGER
    tagger = st.text_input(_("Tagger"), usual, key="tagger", help=_("wd14:FOLDER or wd14:OWNER/MODEL of the hub."))
    trigger = st.text_input(_("Trigger word"), key=f"tag trigger {name}", help=_("Written first into each caption."))
    modes = {_("Leave captions that are there"): [], _("Add to them"): ["--append"], _("Replace them"): ["--overwrite"]}
    mode = st.radio(_("Pictures that have a caption"), list(modes), key="tag mode")
    threshold = st.slider(
        _("Sureness"), 0.05, 0.95, 0.35, 0.05, key="threshold", help=_("Tags less sure are left out.")
    )
    if st.button(_("Start"), type="primary", key="tag", disabled=not tagger.strip()):
        options = [f"--tagger={tagger.strip()}", f"--trigger={trigger.strip()}", f"--threshold={threshold}"]
        jobs.start("tag", folder.as_posix(), *options, *modes[mode], subject=name)
        st.rerun()


def watch_tagging(name: str) -> None:
    active = panels.show_job(jobs.latest("tag", name), f"tag {name}", _("Tagging"))
    if st.session_state.get("tagging", False) and not active:
        st.session_state["tagging"] = False
        st.rerun()
    st.session_state["tagging"] = active


# ── many captions at once ───────────────────────────────────────────────────────────────────────────────


def ask_bulk(folder: Path, texts: Texts, of: int) -> None:
    """A change to the captions of all shown pictures, with a look at it before it is written."""
    every = len(texts) == of
    about = _("All {pictures}") if every else _("The {pictures} that the filter shows")
    st.caption(about.format(pictures=plural(len(texts), "picture")))
    name = st.selectbox(_("What to do"), list(bulk.OPERATIONS), format_func=_, key="bulk")
    _change, asks_what, asks_with = bulk.OPERATIONS[name]
    what = st.text_input(_("Which"), key="bulk what", placeholder="hat, smile") if asks_what else ""
    by = st.text_input(_("By"), key="bulk by") if asks_with else ""
    changes = bulk.preview(name, what, by, texts)
    for path, (before, after) in list(changes.items())[:PREVIEWED]:
        with st.container(gap=None):
            st.caption(escape(Path(path).name))
            st.text(f"− {before or '…'}\n+ {after or '…'}")
    if len(changes) > PREVIEWED:
        st.caption(_("… and {n} more").format(n=len(changes) - PREVIEWED))
    if asks_what and what and not changes:
        st.caption(_("This changes nothing."))
    label = _("Change {captions}").format(captions=plural(len(changes), "caption"))
    st.button(
        label,
        type="primary",
        key="bulk go",
        disabled=not changes,
        on_click=change_many,
        args=(folder, changes, f"{name.lower()}: {what}".rstrip(": ")),
    )


def change_many(folder: Path, changes: dict, operation: str) -> None:
    try:
        state.notify(editing.save_many(folder, changes, operation))
    except UserError as error:
        state.notify(str(error))


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────


def ask_filter(found: Contents, picked: list[str]) -> list[Path]:
    """Those that pass, in the chosen order."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        wanted = st.text_input(
            _("Filter"),
            key="filter",
            placeholder=_("hat, -smile   (press / )"),
            icon=":material/search:",
            help=_("Tags or words with commas between; - before one leaves it out; - alone: without a caption."),
        )
        order = st.selectbox(_("Order"), list(sieve.ORDERS), format_func=_, key="order", width=180)
    terms, texts, nothing = sieve.terms_of(", ".join([wanted, *picked])), found.texts, frozenset()
    kept = [
        path
        for path in found.pictures
        if sieve.keep(path, texts.get(path.as_posix()), found.tags.get(path.as_posix(), nothing), terms)
    ]
    return sorted(kept, key=lambda path: sieve.ORDERS[order](path, texts.get(path.as_posix())))


def show_gallery(folder: Path, shown: list[Path], found: Contents) -> None:
    if not shown:
        st.info(_("No picture passes this filter."))
        return
    pages = -(-len(shown) // PAGE)
    page = 1
    if pages > 1:
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.caption(plural(len(shown), "picture"), width="content")
            page = st.pagination(pages, key=f"page {folder.name} {pages}")
    gallery.show(f"gallery {folder.name}", shown[(page - 1) * PAGE : page * PAGE], found.texts, found.counts, save_edit)


def save_edit(key: str) -> None:
    """A card of the gallery was changed."""
    change = st.session_state[key].get("edit")
    if not change:
        return
    try:
        folder = places.dataset(key.removeprefix("gallery "))
        if said := editing.save(folder, change):
            state.notify(said)
    except UserError as error:
        state.notify(str(error))


# ── beside them ─────────────────────────────────────────────────────────────────────────────────────────


def show_tags(counts: dict[str, int]) -> list[str]:
    """The tags with their numbers; those that are clicked must be there."""
    st.header(_("Tags"))
    if not counts:
        st.caption(_("No captions yet: **Tag with …** writes them."))
        return []
    offered = list(counts)[:TAGS]
    picked = st.pills(
        _("Tags"),
        offered,
        selection_mode="multi",
        key="picked",
        wrap=True,
        label_visibility="collapsed",
        format_func=lambda tag: f"{escape(tag)} **{counts.get(tag, 0)}**",
    )
    if len(counts) > TAGS:
        st.caption(_("… and {n} more").format(n=len(counts) - TAGS))
    return picked


def show_findings(verdict: health.Health) -> None:
    if not verdict.findings:
        return
    st.header(_("To look at"))
    for reason in verdict.reasons:
        st.caption(escape(reason))
    with st.expander(plural(len(verdict.findings), "finding"), key="findings"):
        for finding in verdict.findings[:50]:
            st.caption(escape(f"{finding.what}. {finding.remedy}."))


main()
