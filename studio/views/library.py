"""Library: the exported LoRAs, and what any LoRA file is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import streamlit as st

from studio import facts, loras, panels, places, shelf, state
from studio.language import _
from studio.text import escape
from trainer.errors import UserError
from trainer.kohya import describe

PREVIEW = 512  # px
PAGE = 12  # cards at once
LARGEST = 1_000_000_000  # bytes of a file that is dropped in


def main() -> None:
    st.title(_("Library"))
    state.show_notice()
    show_cards()
    st.divider()
    show_inspector()


def show_cards() -> None:
    files = places.loras()
    if not files:
        panels.empty(
            _("No LoRA here yet"),
            _("When you export an epoch on the Compare page it appears here, ready for A1111, Forge and ComfyUI."),
            "views/compare.py",
            _("Compare epochs"),
        )
        return
    wanted = st.text_input(
        _("Search"),
        placeholder=_("name, trigger or description   (press / )"),
        icon=":material/search:",
        key="filter",
        label_visibility="collapsed",
    )
    files = [path for path in files if shelf.fits(path, wanted)]
    if not files:
        st.info(_("Nothing here is called that."))
    pages = -(-len(files) // PAGE)
    page = st.pagination(pages, key="library page") if pages > 1 else 1
    for path in files[(page - 1) * PAGE : page * PAGE]:
        with st.container(border=True):
            show_card(path)


def show_card(path: Path) -> None:
    picture, about = st.columns([1, 3.4], gap="medium")
    preview = next((p for p in (path.with_suffix(".png"), path.with_suffix(".preview.png")) if p.is_file()), None)
    small = panels.thumbnail(preview, PREVIEW) if preview else None
    with picture:
        if small:
            st.image(str(small), width="stretch", alt=path.stem)
        else:
            st.caption(_("No preview"))
    with about:
        with st.container(horizontal=True, horizontal_alignment="distribute"):
            st.markdown(f"**{escape(path.stem)}**", width="content")
            if not places.is_own(path):
                st.badge(_("of another tool"), color="gray")
        try:
            info = loras.read(path)
        except UserError as error:
            st.error(escape(error))
            return
        if text := loras.card_of(path).get("description"):
            st.text(str(text))
        loras.show_info(info, path)
        show_actions(path, info)


def show_actions(path: Path, info) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if run := loras.run_of(info):
            link = {"icon": ":material/monitoring:", "query_params": {"run": run}}
            st.page_link("views/runs.py", label=_("Open its run"), **link)
        # Read only when it is asked for: a page of cards must not hold every file in memory.
        st.download_button(
            _("Download"),
            data=lambda: path.read_bytes(),
            file_name=path.name,
            key=f"get {path}",
            icon=":material/download:",
            on_click="ignore",
        )
        with st.popover(_("Everything in the file"), icon=":material/info:"):
            facts.show(line for line in info.lines() if line[0] != "File")
            st.caption(_("Path"))
            st.code(str(path.resolve()), language=None, wrap_lines=True)
        if places.is_own(path):
            with st.popover(_("Name and card"), icon=":material/edit:"):
                ask_card(path)


def ask_card(path: Path) -> None:
    """Name, description, trigger and weight, as A1111 and Forge show them on their cards."""
    card = loras.card_of(path)
    with st.form(f"card {path}", border=False):
        name = st.text_input(_("Name"), path.stem)
        description = st.text_area(_("Description"), str(card.get("description", "")), height=90)
        trigger = st.text_input(_("Trigger words"), str(card.get("activation text", "")))
        given = card.get("preferred weight", 1.0)
        usual = float(given) if isinstance(given, (int, float)) and 0 < given <= 2 else 1.0
        weight = st.number_input(_("Preferred weight"), 0.05, 2.0, usual, 0.05)
        notes = st.text_area(_("Notes"), str(card.get("notes", "")), height=70)
        if not st.form_submit_button(_("Save"), type="primary"):
            return
    try:
        values = {"description": description, "activation text": trigger, "preferred weight": weight, "notes": notes}
        shelf.describe(path, values)
        renamed = shelf.rename(path, name)
        state.notify(_("Saved {name}.").format(name=renamed.stem))
        st.rerun()
    except UserError as error:
        st.error(escape(error))


def show_inspector() -> None:
    """Any LoRA file, whoever made it; it is looked at and not kept."""
    st.header(_("What is this LoRA?"))
    dropped = st.file_uploader(
        _("Drop a .safetensors file: family, size, trigger words, training settings, and which tools load it."),
        type=["safetensors"],
        key="inspect",
    )
    if dropped is None:
        return
    if dropped.size > LARGEST:
        st.error(_("A LoRA is smaller than 1 GB; this is likely a base model."))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dropped.safetensors"
        path.write_bytes(dropped.getbuffer())
        try:
            info = describe(path)
        except UserError:
            st.error(_("This is not a safetensors file, or it is damaged: get it again."))
            return
    with st.container(border=True):
        st.text(dropped.name)
        loras.show_info(info, Path(Path(dropped.name).name))
        with st.expander(_("Everything in the file"), key="inspected"):
            facts.show(line for line in info.lines() if line[0] != "File")


main()
