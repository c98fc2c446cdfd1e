"""Captions written by a tagger: what is asked for it, and how far it is."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from studio import jobs, panels, state
from studio.language import _
from trainer import toybox

# Of the hub, fetched at the first use; a typed one may lie in a folder here.
TAGGERS = {
    "wd14:SmilingWolf/wd-swinv2-tagger-v3": "WD14 wd-swinv2-tagger-v3",
    "florence:florence-community/Florence-2-large": "Florence-2 large",
    "blip:Salesforce/blip-image-captioning-large": "BLIP large",
}
TOYBOX = "wd14:toybox/tagger"


def ask(name: str, folder: Path) -> None:
    known = dict(TAGGERS)
    if toybox.PARTS["tagger"].is_dir():
        known[TOYBOX] = _("toybox: drawn creatures only, no download")
    help = _(
        "wd14 writes booru tags, florence and blip sentences. Choose one, which the hub sends at its first use, or "
        "type wd14:FOLDER, florence:FOLDER, blip:FOLDER or another model of the hub."
    )
    tagger = st.selectbox(
        _("Tagger"),
        list(known),
        key="tagger",
        format_func=lambda name: known.get(name, name),
        accept_new_options=True,
        help=help,
    )
    trigger = st.text_input(_("Trigger word"), key=f"tag trigger {name}", help=_("Written first into each caption."))
    modes = {_("Leave captions that are there"): [], _("Add to them"): ["--append"], _("Replace them"): ["--overwrite"]}
    mode = st.radio(_("Pictures that have a caption"), list(modes), key="tag mode")
    threshold = st.slider(
        _("Threshold"), 0.05, 0.95, 0.35, 0.05, key="threshold", help=_("Tags less sure are left out.")
    )
    if st.button(_("Start"), type="primary", key="tag", disabled=not tagger.strip()):
        options = [f"--tagger={tagger.strip()}", f"--trigger={trigger.strip()}", f"--threshold={threshold}"]
        jobs.start("tag", folder.as_posix(), *options, *modes[mode], subject=name)
        panels.close("tag")
        st.rerun()


def watch(name: str) -> None:
    job = jobs.latest("tag", name)
    active = panels.show_job(job, f"tag {name}", _("Tagging"))
    if st.session_state.get("tagging", False) and not active:
        st.session_state["tagging"] = False
        if job is not None and job.state == "done":
            state.notify(next((line for line in job.tail(5).splitlines() if line.startswith("Wrote ")), ""))
        st.rerun()
    st.session_state["tagging"] = active
