"""Dataset: pictures with their captions, what is said how often, and whether the folder is ready to train."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from studio import (
    adding,
    bulk,
    completion,
    contents,
    counting,
    crops,
    editing,
    gallery,
    handwork,
    jobs,
    mending,
    panels,
    pasting,
    places,
    sieve,
    state,
    tables,
    tagging,
)
from studio.contents import Contents
from studio.language import _, plural
from studio.sentences import done
from studio.text import escape
from trainer.dataset import aside, health, images, masks
from trainer.errors import UserError

PAGE = 12  # pictures at once
TAGS = 60  # in the list
REFRESH = 2.0


def main() -> None:
    # Also while one picture is shown alone, and once more when it no longer is, or the browser shows them empty.
    state.hold("filter", "order", "picked", "page ")
    names = places.datasets()
    if handwork.wanted() and (name := state.chosen("dataset", names)):
        state.show_notice()
        show_alone(places.dataset(name))
        return
    st.title(_("Dataset"))
    state.show_notice()
    if not names:
        panels.empty(_("No pictures yet"), _("15 to 30 pictures of one character or style are a good start."))
        with st.container(border=True):
            adding.ask("")
        return
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        name = state.select(_("Folder in datasets/"), "dataset", names)
    with right, panels.popover("add", _("Add pictures"), ":material/add_photo_alternate:"):
        adding.ask(name)
    adding.say_refused()
    pasting.listen(lambda files: adding.add_pasted(name, files))
    try:
        show_folder(name, places.dataset(name))
    except UserError as error:
        st.error(escape(error))


# ── the folder ──────────────────────────────────────────────────────────────────────────────────────────


def show_folder(name: str, folder: Path) -> None:
    stamp = panels.stamp(folder)
    found = contents.of(folder.as_posix(), stamp)
    if not found.pictures:
        st.info(_("No picture in this folder yet: add some."))
        with st.container(horizontal=True):
            show_undo(folder)
        return
    contents.look(folder.as_posix(), stamp[0])
    with st.spinner(_("Looking at every picture …")):
        verdict = contents.health_of(folder.as_posix(), found.trigger, stamp)
    top = st.container()
    middle, side = st.columns([3, 1], gap="large")
    with side:
        mending.show(folder, verdict, found.trigger)
        picked = show_tags(found.counts)
    with middle:
        shown = ask_filter(folder, stamp, picked)
        if shown is not None:
            show_gallery(folder, shown, found)
    with top:
        show_head(name, folder, found, shown or [], verdict)
        handwork.show_waiting(folder, found.pictures)
    show_parts(folder, found, stamp)


def show_alone(folder: Path) -> None:
    """One picture, to crop and mask it."""
    try:
        stamp = panels.stamp(folder)
        found = contents.of(folder.as_posix(), stamp)
        path = handwork.chosen(folder, found.pictures)
        if path is None:
            handwork.close()
            st.rerun()
        size = contents.survey(folder.as_posix(), stamp[0]).get(path)
        handwork.show(folder, path, passing(folder, stamp, found.pictures), size)
    except UserError as error:
        st.error(escape(error))


def show_parts(folder: Path, found: Contents, stamp: tuple[str, str]) -> None:
    """What takes a moment to work out, and only when it is opened."""
    parts = {
        "groups": (_("Pictures that show the same"), ":material/filter_none:"),
        "tag tables": (_("Tag tables"), ":material/table_rows:"),
        "crops": (_("Buckets and crops"), ":material/crop:"),
    }
    for key, (title, icon) in parts.items():
        with st.expander(title, icon=icon, key=key, on_change="rerun") as expander:
            if not expander.open:
                continue
            if key == "groups":
                mending.show_groups(folder, contents.alike(folder.as_posix(), stamp[0]))
            elif key == "tag tables":
                tables.show(list(found.texts.values()), found.counts, found.trigger)
            else:
                sizes = contents.survey(folder.as_posix(), stamp[0])
                crops.show([sizes[path] for path in found.pictures if path in sizes])


def show_head(name: str, folder: Path, found: Contents, shown: list[Path], verdict: health.Health) -> None:
    """Count, score, and what can be done to all captions at once."""
    job = jobs.latest("tag", name)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(plural(len(found.pictures), "picture"), width="content")
        word = _("ready to train") if verdict.ready else _("not ready")
        st.badge(f"{word}: {verdict.score}/100", color="green" if verdict.ready and verdict.score >= 80 else "orange")
        busy = bool(job and job.active)
        with panels.popover("tag", _("Tag with …"), ":material/label:", width="content", disabled=busy):
            tagging.ask(name, folder)
        with panels.popover("bulk", _("Bulk edit"), ":material/edit_note:", width="content"):
            # A caption that cannot be read is not there to be changed.
            texts = {path: found.texts[path.as_posix()] for path in shown if path.as_posix() in found.texts}
            bulk.ask(folder, texts, len(found.pictures))
        show_undo(folder)
    st.fragment(tagging.watch, run_every=REFRESH if job and job.active else None)(name)


def show_undo(folder: Path) -> None:
    undoable = aside.newest(folder)[0]
    redoable = aside.redoable(folder)[0]
    st.button(
        _("Undo"),
        key="undo",
        on_click=take_back,
        args=(folder, "undo"),
        disabled=not undoable,
        icon=":material/undo:",
        shortcut="Mod+Z",
        help=escape(done(undoable)) or None,
    )
    st.button(
        _("Redo"),
        key="redo",
        on_click=take_back,
        args=(folder, "redo"),
        disabled=not redoable,
        icon=":material/redo:",
        shortcut="Mod+Shift+Z",
        help=escape(done(redoable)) or None,
    )


def take_back(folder: Path, verb: str) -> None:
    """Edits, masks and what was set aside, whichever came last."""
    try:
        name, touched = aside.undo(folder) if verb == "undo" else aside.redo(folder)
        text = _("Took back “{name}”: {files}.") if verb == "undo" else _("Did “{name}” again: {files}.")
        if touched:
            state.notify(text.format(name=done(name), files=plural(len(touched), "file")))
    except UserError as error:
        state.complain(error)


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────


def ask_filter(folder: Path, stamp: tuple[str, str], picked: list[str]) -> list[Path] | None:
    """Those that pass, in the chosen order; none while the filter cannot be read."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        wanted = st.text_input(
            _("Filter"),
            key="filter",
            placeholder=_("tag:hat AND NOT tag:smile   (press / )"),
            icon=":material/search:",
            help=_(
                "Words are looked for in the captions. tag:blue hair, tag:*hair, name:cat, tokens:>75, tags:<5, "
                "width:512..1024, ratio:>1.5, size:>2 (MB), missing:caption and issue:blurry ask for one thing; AND, "
                "OR, NOT and brackets join them."
            ),
        )
        order = st.selectbox(_("Order"), list(sieve.ORDERS), format_func=_, key="order", width=180)
    try:
        return [
            item.path
            for item in sieve.select(contents.items(folder.as_posix(), stamp, counting.chosen()), wanted, picked, order)
        ]
    except UserError as error:
        st.error(escape(error))
        return None


def passing(folder: Path, stamp: tuple[str, str], pictures: list[Path]) -> list[Path]:
    """What the gallery shows while it is not on the page: by the filter that waits for it."""
    wanted, picked, order = (st.session_state.get(key) for key in ("filter", "picked", "order"))
    if not wanted and not picked and order in (None, next(iter(sieve.ORDERS))):
        return pictures
    try:
        items = sieve.select(
            contents.items(folder.as_posix(), stamp, counting.chosen()), wanted or "", picked or [], order
        )
    except UserError:
        return pictures
    return [item.path for item in items]


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
    cards = shown[(page - 1) * PAGE : page * PAGE]
    marks = marks_of(folder, cards)
    completion.serve(found.counts)
    counted = counting.chosen()
    gallery.show(f"gallery {folder.name}", cards, found.texts, found.counts, marks, counted, save_edit, open_card)


def marks_of(folder: Path, pictures: list[Path]) -> dict[Path, list[str]]:
    """What was done to these pictures by hand."""
    boxes = handwork.boxes(folder)
    cropped = {path: [_("crop drawn")] if handwork.relative(folder, path) in boxes else [] for path in pictures}
    return {path: marks + ([_("masked")] if masks.of(folder, path) else []) for path, marks in cropped.items()}


def open_card(key: str) -> None:
    """Look at one picture alone, to crop and mask it."""
    folder = places.dataset(key.removeprefix("gallery "))
    wanted = (st.session_state[key].get("open") or {}).get("id")
    if path := next((path for path in images.find(folder) if path.as_posix() == wanted), None):
        handwork.open_picture(folder, path)


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
        state.complain(error)


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


main()
