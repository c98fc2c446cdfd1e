"""Prompt sets as they are written: TOML in presets/prompts/, checked before it is kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import streamlit as st

from studio import places
from studio.language import _, plural
from studio.text import escape
from trainer import presets
from trainer.errors import UserError
from trainer.files import write_text
from trainer.prompt_sets import read_prompts
from trainer.run import slug

OWN = places.PRESETS / "prompts"


def edit(name: str) -> None:
    """A window over the page with the set's text."""
    st.dialog(_("Prompts of a comparison"), width="large")(_editor)(name)


def _editor(name: str) -> None:
    try:
        text = presets.locate(name, "prompts").read_text(encoding="utf-8-sig")
    except (UserError, OSError, UnicodeDecodeError) as error:
        st.error(escape(error))
        return
    st.caption(
        _(
            "One [[prompt]] for each column: name and prompt, and if you like negative, seed, width, height, "
            "sampler, steps, cfg_scale, clip_skip, leak. [trigger] and [class] are filled in."
        ).replace("[", "\\[")
    )
    typed = st.text_area(_("Prompts"), text, height=360, key=f"prompts text {name}", label_visibility="collapsed")
    own = st.text_input(_("Save as"), Path(name).stem, key=f"prompts name {name}").strip()
    if st.button(_("Save"), type="primary", key="save prompts", disabled=not own):
        try:
            path = save(own, typed)
        except UserError as error:
            st.error(escape(error))
            return
        number = plural(len(read_prompts(path)), "prompt")
        st.success(escape(_("Saved {prompts} to {path}.").format(prompts=number, path=path)))


def save(name: str, text: str) -> Path:
    """Write a set of the working folder's own. Raises UserError, and writes nothing, when it cannot be read as one."""
    path = OWN / f"{slug(name)}.toml"
    with tempfile.TemporaryDirectory() as folder:
        draft = write_text(Path(folder) / path.name, text)
        try:
            read_prompts(draft)
        except UserError as error:
            raise UserError(str(error).replace(str(draft), path.name)) from None
    return write_text(path, text)
