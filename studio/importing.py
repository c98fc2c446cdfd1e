"""Settings of other trainers into the train form: what each of them became is shown before any is taken over."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePath

import streamlit as st

from studio import state
from studio.language import _
from studio.text import escape
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.kohya import migrate
from trainer.kohya.sources import read_source
from trainer.presets import flatten

TAKEN = ["json", "toml", "sh", "bat", "ps1", "txt", "safetensors"]
FOLDER = "data.folder"
LARGEST = 1_000_000_000  # bytes; a LoRA is smaller, and everything else far smaller
READ = "imported"  # in the session: (the upload's id, what was made of it)


def ask(preset: str) -> None:
    """A file dropped in, the three lists, and the button that fills the form over `preset`, one without values."""
    dropped = st.file_uploader(
        _("Settings of kohya_ss, sd-scripts or OneTrainer, or a LoRA that carries its own"),
        type=TAKEN,
        key="import",
        help=_(
            "A JSON of kohya_ss or OneTrainer, a training or dataset TOML, a script that calls sd-scripts, or a "
            ".safetensors file."
        ),
    )
    if dropped is None:
        return
    if dropped.size > LARGEST:
        st.error(_("A LoRA is smaller than 1 GB; this is likely a base model."))
        return
    if st.session_state.get(READ, ("",))[0] != dropped.file_id:
        st.session_state[READ] = (dropped.file_id, translated(dropped.name, dropped.getvalue()))
    made = st.session_state[READ][1]
    if isinstance(made, str):
        st.error(escape(made))
        return
    st.button(
        _("Fill the form with these {n} settings").format(n=len(made.values.keys() - {FOLDER})),
        type="primary",
        key="import go",
        disabled=not made.values.keys() - {FOLDER},
        on_click=take,
        args=(made, PurePath(dropped.name).name, preset),
    )
    elsewhere = [line for line in made.mapped if line.what.startswith(f"{FOLDER} =")]
    for title, lines in (
        (_("Without equal here, so it is lost"), made.unequal),
        (_("Chosen below, among the folders in datasets/"), elsewhere),
        (_("Mapped"), [line for line in made.mapped if line not in elsewhere]),
        (_("Ignored, because it changes nothing"), made.ignored),
    ):
        if not lines:
            continue
        st.markdown(f"**{title}** · {len(lines)}")
        with st.container(gap=None):
            for line in lines:
                st.caption(escape(f"{line.name} {line.value} → {line.what}"))


def translated(name: str, content: bytes) -> migrate.Migration | str:
    """What a file's settings are here, or why it cannot be read. Files that it names are not looked for."""
    name = PurePath(name).name
    with tempfile.TemporaryDirectory() as folder:
        # Readers go by the ending alone, so nothing of the name that was given reaches the disk.
        path = Path(folder) / f"dropped{PurePath(name).suffix.lower()}"
        path.write_bytes(content)
        try:
            return migrate.translate(read_source(path, alone=True))
        except UserError as error:
            return str(error).replace(str(path), name)


def take(made: migrate.Migration, name: str, preset: str) -> None:
    """Into the form, but for the folder: that one is chosen among those in datasets/."""
    usual = flatten(TrainConfig().model_dump())
    values = {path: value for path, value in made.values.items() if path != FOLDER and value != usual.get(path)}
    state.set_draft(values, preset)
    state.notify(_("Took over the settings of {file}. Choose base model and pictures.").format(file=name))
