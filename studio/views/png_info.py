"""PNG info: what a picture or a LoRA was made with, and the way to use that."""

from __future__ import annotations

import tempfile
from pathlib import Path

import streamlit as st

from studio import facts, forms, loras, places, state
from studio.language import _
from studio.text import escape
from trainer import pnginfo
from trainer.dataset import images
from trainer.errors import UserError
from trainer.kohya import LoraInfo, describe
from trainer.run import slug
from trainer.webui import infotext

LARGEST = 1_000_000_000  # bytes of a file that is dropped in
SETS = places.PRESETS / "prompts"


def main() -> None:
    st.title(_("PNG info"))
    state.show_notice()
    st.caption(
        _(
            "What was it made with? Reads what A1111, Forge, ComfyUI and InvokeAI write into their pictures, and "
            "what trainers write into LoRA files. Nothing is kept."
        )
    )
    dropped = st.file_uploader(
        _("Drop a picture or a LoRA (.safetensors)"), type=[*(e[1:] for e in images.ENDINGS), "safetensors"], key="drop"
    )
    if dropped is None:
        show_what_comes()
        return
    if dropped.size > LARGEST:
        st.error(_("A LoRA is smaller than 1 GB; this is likely a base model."))
        return
    with tempfile.TemporaryDirectory() as folder:
        # The name that the browser sends decides about nothing but the ending.
        path = Path(folder) / f"dropped{Path(dropped.name).suffix.lower()}"
        path.write_bytes(dropped.getbuffer())
        try:
            if path.suffix == ".safetensors":
                show_lora(dropped.name, describe(path))
            else:
                show_picture(dropped.name, path)
        except UserError as error:
            st.error(escape(str(error).replace(str(path), dropped.name)))


def show_what_comes() -> None:
    """What the page has to offer, while nothing was dropped."""
    cards = (
        (":material/image:", _("A picture"), _("Prompt, seed, sampler, model: each by its name, ready to be copied.")),
        (":material/grid_view:", _("A prompt to compare with"), _("Appended to a set, every epoch is drawn from it.")),
        (":material/tune:", _("A LoRA"), _("The settings that it was trained with go into the train form.")),
    )  # fmt: skip
    with st.grid(3, min_column_width=240):
        for icon, title, about in cards:
            with st.container(border=True, height="stretch"):
                st.markdown(f"{icon} **{title}**")
                st.caption(about)


def show_picture(name: str, path: Path) -> None:
    left, right = st.columns([1, 1.6], gap="large")
    with left:
        st.image(images.open_rgb(path), width="stretch", alt=name)
    with right:
        found = pnginfo.read(path)
        facts.show(pnginfo.lines(found))
        with st.expander(_("To copy, as A1111 writes it"), icon=":material/content_copy:", key="infotext"):
            st.code(infotext.write(found.info), language=None, wrap_lines=True)
        with st.container(border=True):
            ask_append(found, name)


def ask_append(found: pnginfo.Found, name: str) -> None:
    """Make a prompt of it, in a set of the working folder's own."""
    st.markdown("**" + _("Use it to compare epochs") + "**")
    sets = sorted(path.stem for path in SETS.glob("*.toml"))
    target = st.selectbox(
        _("Prompt set"),
        sets or ["mine"],
        accept_new_options=True,
        key="set",
        help=_("Choose one of yours in presets/prompts, or type a new name."),
    )
    title = st.text_input(_("Name of the prompt"), Path(name).stem[:40], key="prompt name").strip()
    if st.button(_("Append to the prompt set"), type="primary", key="append", disabled=not (target and title)):
        path = SETS / f"{slug(target)}.toml"
        added = pnginfo.append(found.info, path, title)
        st.success(escape(_("Added {name} to {path}.").format(name=added.name, path=path)))
        for note in added.notes:
            st.caption(escape(note))


def show_lora(name: str, info: LoraInfo) -> None:
    loras.show_info(info, Path(Path(name).name))
    values = loras.settings_of(info)
    if not values:
        st.caption(_("The file says nothing about its training settings."))
        return
    with st.expander(_("{n} training settings").format(n=len(values)), expanded=True, key="lora settings"):
        known = forms.by_path()
        facts.show((known[path].label, forms.shown(values[path])) for path in known if path in values)
    if st.button(_("Use these settings to train"), type="primary", key="use", icon=":material/tune:"):
        state.set_draft(values, "Defaults")
        st.switch_page("views/train.py")


main()
