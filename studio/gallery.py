"""The picture grid of the Dataset page: chips with autocomplete and arrow keys, which Streamlit has no widget for."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path

import streamlit as st

from studio import panels
from studio.counting import Counting, limit
from studio.language import _
from trainer.dataset import captions

PARTS = Path(__file__).parent / "components"
THUMBNAIL = 320  # longest side, px
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
    counting: Counting,
    on_edit: Callable,
    on_open: Callable,
) -> None:
    """Cards with these pictures and what is marked on them.

    `on_edit(key)` is called when somebody has changed a caption, `on_open(key)` when one is to be cropped or masked.
    """
    numbers = counting.count([texts.get(path.as_posix()) or "" for path in pictures])
    data = {
        "items": [_item(path, texts, number, marks.get(path, [])) for path, number in zip(pictures, numbers)],
        "vocabulary": list(tags.items())[:SUGGESTIONS],
        "exact": bool(counting.folder),
        "words": _words(counting),
    }
    _gallery(data=data, key=key, on_edit_change=lambda: on_edit(key), on_open_change=lambda: on_open(key))


def _words(counting: Counting) -> dict[str, str]:
    counted = _("Tokens of the caption, counted with the tokenizer of {base}; 75 fill one window of the text encoder")
    estimated = _(
        "About how many tokens the caption takes, since no tokenizer of {base} is at hand; 75 fill one window of the "
        "text encoder"
    )
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
        "tokens": (counted if counting.folder else estimated).format(base=counting.name),
    }


def _item(path: Path, texts: dict[str, str | None], tokens: int, marks: list[str]) -> dict:
    small = panels.thumbnail(path, THUMBNAIL)
    source = "data:image/webp;base64," + base64.b64encode(small.read_bytes()).decode() if small else ""
    readable = path.as_posix() in texts
    text = (texts[path.as_posix()] or "") if readable else None
    return {
        "id": path.as_posix(),
        "name": path.name,
        "src": source,
        "text": text,
        "tags": captions.split(text or ""),
        "tokens": tokens,
        "limit": limit(tokens),
        "marks": marks,
    }
