"""Tags to complete from while somebody types: those of the folder first, then a list of known tags on this machine.

The list stays here; the browser asks for each word, and only the matches travel. It asks through a component of its
own in a fragment, so that a key press draws nothing else anew.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from studio import places
from trainer.dataset import vocabulary
from trainer.errors import UserError

KEY = "completion"
SHOWN = 7

_bridge = st.components.v2.component(
    "lora_studio_completion",
    js=(Path(__file__).parent / "components" / "completion.js").read_text(encoding="utf-8"),
)


@st.cache_resource(max_entries=2, show_spinner=False)
def read(path: str, stamp: tuple[int, int]) -> vocabulary.TagList:
    return vocabulary.load(Path(path))


def tag_list() -> vocabulary.TagList | None:
    """The person's list of tags, None without one. Raises UserError for one that cannot be read."""
    path = places.tag_list()
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"The list of tags {path} cannot be read: {error.strerror}.") from error
    return read(path.as_posix(), (status.st_mtime_ns, status.st_size))


def parts_words(tags: dict[str, int]) -> bool:
    """Whether the folder's tags are written with spaces; so are those of a folder that does not say."""
    return sum("_" in tag for tag in tags) <= sum(" " in tag for tag in tags)


def serve(tags: dict[str, int]) -> None:
    """Answer what is typed into the gallery; nothing where there is no list."""
    try:
        known = tag_list()
    except UserError:  # Settings say what is wrong with it
        known = None
    if known is not None:
        st.fragment(answer)(parts_words(tags))


def answer(spaces: bool) -> None:
    known = tag_list()
    asked = str((st.session_state.get(KEY) or {}).get("ask") or "")[:100]
    found = known.search(asked, SHOWN, spaces=spaces) if known else []
    data = {"asked": asked, "matches": [[match.tag, match.count, match.alias] for match in found]}
    _bridge(data=data, key=KEY, on_ask_change=lambda: None)
