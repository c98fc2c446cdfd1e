"""Keys that work on every page; those of single buttons are their `shortcut`s."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

_keys = st.components.v2.component(
    "lora_studio_keys", js=(Path(__file__).parent / "components" / "keys.js").read_text(encoding="utf-8")
)


def listen() -> None:
    """`/` puts the cursor into the filter (the text field with the key "filter"), where the page has one; a file that
    is pasted goes into the page's first field for files."""
    _keys(key="keys")
