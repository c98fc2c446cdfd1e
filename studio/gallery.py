"""The picture grid of the Dataset page: chips with autocomplete and arrow keys, which Streamlit has no widget for."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import streamlit as st

from studio import panels
from studio.language import _
from trainer.dataset import captions

PARTS = Path(__file__).parent / "components"
THUMBNAIL = 320  # longest side, px
WINDOW = 75  # tokens of CLIP's window; longer captions take two or three of them
SUGGESTIONS = 2000  # tags that are offered while one types

_gallery = st.components.v2.component(
    "lora_studio_gallery",
    html='<div id="gallery" class="grid"></div>',
    css=(PARTS / "gallery.css").read_text(encoding="utf-8"),
    js=(PARTS / "gallery.js").read_text(encoding="utf-8"),
)


def show(
    key: str,
    pictures: list[Path],
    texts: dict[str, str | None],
    tags: dict[str, int],
    marks: Mapping[Path, list[str]],
    on_edit: Callable,
    on_open: Callable,
) -> None:
    """Cards with these pictures and what is marked on them.

    `on_edit(key)` is called when somebody has changed a caption, `on_open(key)` when one is to be cropped or masked.
    """
    data = {
        "items": [_item(path, texts) | {"marks": marks.get(path, [])} for path in pictures],
        "vocabulary": list(tags.items())[:SUGGESTIONS],
        "words": _words(),
    }
    _gallery(data=data, key=key, on_edit_change=lambda: on_edit(key), on_open_change=lambda: on_open(key))


def _words() -> dict[str, str]:
    return {
        "add": _("add a tag …"),
        "tags": _("Tags that fit"),
        "remove": _("remove"),
        "caption": _("Caption of"),
        "text": _("as text"),
        "chips": _("as tags"),
        "open": _("Crop and mask"),
        "broken": _("This picture cannot be read."),
        "unreadable": _("Its caption cannot be read."),
        "tokens": _("About how many tokens the caption takes of the 75 in one window of the text encoder"),
    }


def _item(path: Path, texts: dict[str, str | None]) -> dict:
    small = panels.thumbnail(path, THUMBNAIL)
    source = "data:image/webp;base64," + base64.b64encode(small.read_bytes()).decode() if small else ""
    readable = path.as_posix() in texts
    text = (texts[path.as_posix()] or "") if readable else None
    tokens = estimate_tokens(text or "")
    return {
        "id": path.as_posix(),
        "name": path.name,
        "src": source,
        "text": text,
        "tags": captions.split(text or ""),
        "tokens": tokens,
        "limit": WINDOW * max(1, min(3, -(-tokens // WINDOW))),
    }


def estimate_tokens(text: str) -> int:
    """About how many tokens CLIP makes of a text, without its vocabulary.

    Its splitting into words, digits and punctuation is followed exactly; words longer than eight letters are
    taken for two pieces, longer than fourteen for three.
    """
    pieces = re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_", text.lower())
    return sum(1 + (len(piece) > 8) + (len(piece) > 14) for piece in pieces)
