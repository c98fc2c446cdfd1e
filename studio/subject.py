"""What is trained on what: the base, the pictures, and the name and trigger word that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from studio import forms, panels, places, state
from studio.language import _
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.examples import common_first_tag


def ask(preset: dict[str, Any]) -> dict[str, str]:
    """Base, pictures, name and trigger; what follows from the folder for the last two."""
    known = forms.by_path()
    left, right = st.columns(2)
    with right:
        ask_pictures()
    usual = usual_names()
    scope = state.draft().get("data.folder", "")
    with left:
        miniature = ask_base(preset)
        forms.widget(known["name"], preset | usual, scope)
    with right:
        forms.widget(known["data.trigger"], preset | usual, scope)
    if miniature:
        st.caption(_("A miniature to try things on. For pictures like yours, put a checkpoint into models/."))
        st.page_link("views/settings.py", label=_("Or use those of A1111, Forge or ComfyUI"), icon=":material/link:")
    return usual


def usual_names() -> dict[str, str]:
    """Name and trigger as they follow from the folder, where nothing else was said."""
    folder = state.draft().get("data.folder", "")
    return {"name": Path(folder).name, "data.trigger": usual_trigger()} if folder else {}


def ask_base(preset: dict[str, Any]) -> bool:
    """A base that was found or any other that is typed; only here may a path lead outside the working folder.

    Returns whether it is a miniature because there is no other.
    """
    usual = preset.get("model.base", TrainConfig().model.base)
    found = {base.path: base.label for base in places.bases()}
    value = state.draft().get("model.base", usual)
    options = list(dict.fromkeys([value, usual, *found, *panels.toybox_bases()]))
    setting = forms.by_path()["model.base"]
    changed = "model.base" in state.draft()
    picked = st.selectbox(
        forms.label(setting, changed),
        options,
        key=f"set {state.generation()} model.base",
        format_func=lambda path: found.get(path, path),
        accept_new_options=True,
        help=forms.explain(setting, usual, changed) + "\n\n" + _("Choose one, or type a path or hub id."),
    )
    set_or_drop("model.base", picked, usual)
    return not found and picked in panels.toybox_bases()


def ask_pictures() -> None:
    names = places.datasets()
    if not names:
        st.text(_("Pictures"))
        st.caption(_("No folder in datasets/ yet."))
        st.page_link("views/dataset.py", label=_("Add pictures"), icon=":material/add_photo_alternate:")
        return
    name = state.select(_("Pictures"), "dataset", names, help=_("A folder in datasets/ with pictures and captions."))
    state.draft()["data.folder"] = (places.DATASETS / name).as_posix()


def usual_trigger() -> str:
    """What all captions begin with, offered where nothing else was said."""
    folder = state.draft().get("data.folder")
    if not folder:
        return ""
    try:
        return trigger_of(folder, panels.stamp(Path(folder)))
    except UserError:
        return ""


@st.cache_data(max_entries=50, show_spinner=False)
def trigger_of(folder: str, stamp: tuple) -> str:
    return common_first_tag(Path(folder))


def set_or_drop(path: str, value: Any, usual: Any) -> None:
    draft = state.draft()
    changed = path in draft
    if value is None or value == usual:
        draft.pop(path, None)
    else:
        draft[path] = value
    if changed != (path in draft):
        st.rerun()


def link_pictures() -> None:
    """To where what is wrong with them is shown and mended."""
    if name := Path(state.draft().get("data.folder", "")).name:
        label = _("Look at the pictures")
        st.page_link("views/dataset.py", label=label, query_params={"dataset": name}, icon=":material/photo_library:")
