"""Settings: language, device, where models are looked for, and whether this machine is put together rightly."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import streamlit as st

from studio import completion, jobs, language, panels, places, preferences, state
from studio.language import _, plural
from studio.sentences import said
from studio.text import escape
from trainer.errors import UserError

REFRESH = 1.0
LEVELS = {
    "problem": ":red[:material/cancel:]",
    "note": ":orange[:material/info:]",
    "ok": ":green[:material/check_circle:]",
}


def main() -> None:
    st.title(_("Settings"))
    state.show_notice()
    left, right = st.columns(2, gap="large")
    with left:
        ask_language()
        ask_device()
        show_folders()
    with right:
        ask_models()
        ask_tag_list()
        show_doctor()


def keep(**changes) -> None:
    try:
        preferences.save(replace(preferences.load(), **changes))
    except UserError as error:
        state.complain(error)


def ask_language() -> None:
    st.header(_("Language"))
    current = preferences.load().language
    names = {"": _("As in the browser"), **language.LANGUAGES}
    options = list(names)
    picked = st.selectbox(
        _("Language"),
        options,
        index=options.index(current) if current in options else 0,
        format_func=names.get,
        key="language choice",
        label_visibility="collapsed",
    )
    if picked != current:
        keep(language=picked)
        st.rerun()


def ask_device() -> None:
    st.header(_("Device"))
    names = {"auto": _("The best there is"), "cpu": _("Processor (slow, for the toybox)")}
    current = preferences.load().device
    picked = st.selectbox(
        _("Device"),
        preferences.DEVICES,
        index=preferences.DEVICES.index(current),
        key="device",
        format_func=lambda name: names.get(name) or _("Graphics card {n}").format(n=name),
        label_visibility="collapsed",
    )
    st.caption(_("For whatever is started from now on. Training and rendering take turns on it."))
    if picked != current:
        keep(device=picked)


def show_folders() -> None:
    st.header(_("Folders"))
    st.caption(_("Everything lies in the folder that the studio was started in:"))
    st.code(str(Path.cwd()), language=None, wrap_lines=True)
    known = {
        places.DATASETS: _("pictures and captions"),
        places.RUNS: _("trainings, every epoch of them"),
        places.MODELS: _("base models, and the LoRAs you exported"),
        places.PRESETS: _("presets and prompt sets of your own"),
    }
    for folder, about in known.items():
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            st.text(f"{folder}/", width=80)
            st.caption(about, width=250)


def ask_models() -> None:
    """Folders of other tools, whose models are offered beside one's own; they are only read."""
    st.header(_("Models of other tools"))
    st.caption(
        _(
            "The folder of an A1111, Forge or ComfyUI installation, or any folder with models. Its base models "
            "are offered on the Train page and its LoRAs shown in the library. Nothing in it is changed."
        )
    )
    linked = preferences.load().model_folders
    for folder in linked:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            found = places.linked(Path(folder))
            number = plural(len(found.bases), "base model") + ", " + plural(len(found.loras), "LoRA")
            st.text(folder, width="stretch")
            st.caption(number if Path(folder).is_dir() else _("not there"), width="content")
            st.button(
                "",
                key=f"unlink {folder}",
                icon=":material/close:",
                type="tertiary",
                on_click=keep,
                kwargs={"model_folders": [other for other in linked if other != folder]},
                help=_("No longer look here"),
            )
    with (
        st.form("link", clear_on_submit=True, border=False),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        given = st.text_input(_("Folder"), placeholder="/home/you/stable-diffusion-webui").strip()
        if st.form_submit_button(_("Link in")) and given:
            folder = Path(given).expanduser()
            if folder.is_absolute() and folder.is_dir():
                keep(model_folders=[*linked, str(folder)] if str(folder) not in linked else linked)
                st.rerun()
            st.error(escape(_("{folder} is not a folder here: give its whole path.").format(folder=given)))


def ask_tag_list() -> None:
    """A .csv of known tags, offered while captions are typed."""
    st.header(_("Known tags"))
    st.caption(
        _(
            "A list of tags to complete from, after those of the folder: a .csv as the extension tagcomplete has it, "
            "name,category,count,aliases. That of a linked A1111 or Forge is found by itself."
        )
    )
    given = st.text_input(
        _("List of tags"),
        preferences.load().tag_list,
        key="tag list",
        label_visibility="collapsed",
        placeholder=str(places.tag_list() or "/home/you/danbooru.csv"),
    ).strip()
    if given != preferences.load().tag_list:
        if given and not Path(given).expanduser().is_file():
            st.error(escape(_("{path} is no file here: give its whole path.").format(path=given)))
            return
        keep(tag_list=str(Path(given).expanduser()) if given else "")
    try:
        known = completion.tag_list()
        if known is not None:
            st.caption(_("{tags} at hand.").format(tags=plural(len(known), "tag")))
    except UserError as error:
        st.error(escape(error))


def show_doctor() -> None:
    st.header(_("Is everything in order?"))
    job = jobs.latest("doctor")
    if st.button(
        _("Examine this machine"), key="doctor", icon=":material/stethoscope:", disabled=job is not None and job.active
    ):
        jobs.start("doctor", "--json")
        st.rerun()
    st.fragment(watch_doctor, run_every=REFRESH if job and job.active else None)()


def watch_doctor() -> None:
    job = jobs.latest("doctor")
    if job is None:
        return
    if job.active:
        st.caption(_("Looking …"))
        st.session_state["doctor watched"] = True
        return
    if st.session_state.pop("doctor watched", False):
        st.rerun()
    if findings := report(job):
        show_findings(findings)
    else:
        panels.show_log(job.tail(60))


def report(job: jobs.Job) -> list[dict[str, str]]:
    """What the doctor found; nothing where it did not come to its end."""
    # Libraries may have said something before it.
    found = re.search(r"^\[$.*?^\]$", job.tail(500), re.MULTILINE | re.DOTALL)
    try:
        return json.loads(found[0]) if found else []
    except ValueError:
        return []


def show_findings(findings: list[dict[str, str]]) -> None:
    """What is not right comes first, each with what to do about it."""
    with st.container(gap="xsmall"):
        for level, icon in LEVELS.items():
            for finding in (one for one in findings if one["level"] == level):
                with st.container(gap=None):
                    st.markdown(f"{icon} {escape(said(finding['what']))}")
                    if finding["remedy"]:
                        st.caption(escape(said(finding["remedy"])))


main()
