"""LoRA files on pages: what one is, where it came from, and the settings that it was trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import streamlit as st

from studio import places
from studio.language import _
from studio.sentences import said
from studio.text import escape
from trainer import presets
from trainer.config import settings
from trainer.errors import UserError
from trainer.kohya import LoraInfo, describe, session_id
from trainer.texts import file_size

TAGS = 12  # shown of a file


@st.cache_data(max_entries=500, show_spinner=False)
def info_of(path: str, modified: int, size: int) -> LoraInfo:
    """Reading hashes the whole file, so the answer is kept until the file changes."""
    return describe(Path(path))


def read(path: Path) -> LoraInfo:
    """Raises UserError when the file is gone or no LoRA."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    return info_of(path.as_posix(), status.st_mtime_ns, status.st_size)


def show_info(info: LoraInfo, path: Path) -> None:
    """Family, size, trigger, tags, and the line that goes into a prompt."""
    ranks = ", ".join(map(str, info.ranks)) or "?"
    size = file_size(path) if path.exists() else f"{info.size / 1e6:.3g} MB"
    st.caption(escape(f"{said(info.family)} · {info.kind} · dim {ranks} · {size} · hash {info.model_hash}"))
    card = card_of(path)
    stated = card.get("activation text")
    triggers = list(info.triggers) or ([str(stated)] if stated else [])
    if triggers:
        st.text(_("Trigger: {words}").format(words=", ".join(triggers)))
    if info.tags:
        with st.container(horizontal=True, gap="xxsmall"):
            for tag, number in info.tags[:TAGS]:
                st.badge(f"{escape(tag)} {number}", color="gray")
    weight = card.get("preferred weight") or 1
    prompt = f"<lora:{path.stem}:{weight:g}>" if isinstance(weight, (int, float)) else f"<lora:{path.stem}:1>"
    st.code(prompt + "".join(f" {word}" for word in triggers[:1]), language=None, wrap_lines=True)
    for warning in info.warnings:
        st.caption(escape(_("Careful:") + " " + said(warning)))


def card_of(path: Path) -> dict[str, Any]:
    """The card beside a file, as A1111 reads and writes it; {} where there is none."""
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def settings_of(info: LoraInfo) -> dict[str, Any]:
    """The settings in a file's metadata, as {setting path: value}: kohya's `ss_` names, those that fit here."""
    known = {name for setting in settings() for name in setting.kohya}
    values: dict[str, Any] = {}
    for key, text in info.metadata.items():
        name = key.removeprefix("ss_")
        if not key.startswith("ss_") or name not in known or text in ("", "None"):
            continue
        try:
            path, value = presets.parse_override(f"{name}={text}")
            presets.layer({path: value})
        except UserError:
            continue  # a value of another trainer that has no meaning here
        values[path] = value
    return values


def run_of(info: LoraInfo) -> str:
    """The run that a file was exported from: it says so itself, by the number that its trainer gave the run."""
    session = info.metadata.get("ss_session_id")
    return next((run.name for run in places.runs() if session_of(run.name) == session), "") if session else ""


def session_of(run: str) -> str:
    """`ss_session_id` in the files of a run of this name."""
    return str(session_id(run))
