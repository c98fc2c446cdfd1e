"""Pictures from the clipboard: Ctrl-V anywhere on a page that listens, outside of its text fields."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from studio import uploads

MOST = uploads.MOST_BYTES * 2  # letters of all that is pasted at once

_listener = st.components.v2.component(
    "lora_studio_pasting", js=(Path(__file__).parent / "components" / "pasting.js").read_text(encoding="utf-8")
)


def listen(on_paste: Callable[[list[tuple[str, bytes]]], None]) -> None:
    """`on_paste` gets (name, content) of the files that were pasted; it checks them as an upload is checked."""
    key = "pasting"

    def arrived() -> None:
        if files := read(st.session_state[key].get("pasted")):
            on_paste(files)

    _listener(data={"most": uploads.MOST_BYTES}, key=key, on_pasted_change=arrived)


def read(pasted: Any) -> list[tuple[str, bytes]]:
    """What the browser sent, [[name, base64], …]; whatever is not like that is left out."""
    found = []
    for entry in pasted if isinstance(pasted, list) else []:
        try:
            name, content = entry
            if len(content) <= MOST:
                found.append((str(name), base64.b64decode(content, validate=True)))
        except (ValueError, TypeError, binascii.Error):
            continue
    return found
