"""What the captions of a folder say together, as tables to sort and search."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from studio.language import _
from studio.text import escape
from trainer.dataset import tags

PAIRS = 500  # rows


def show(texts: Sequence[str | None], counts: dict[str, int], trigger: str) -> None:
    """Every tag with its number, which stand together, and which describe the character."""
    captioned = sum(1 for text in texts if text)
    if not captioned:
        st.caption(_("No captions yet: **Tag with …** writes them."))
        return
    left, right = st.columns(2)
    share = st.column_config.NumberColumn(format="percent")
    with left:
        rows = [{_("tag"): tag, _("captions"): n, _("share"): n / captioned} for tag, n in counts.items()]
        st.dataframe(rows, hide_index=True, height=320, column_config={_("share"): share}, key="tag table")
    with right:
        pairs = [
            {_("tags"): " + ".join(pair.tags), _("together"): pair.captions, _("of the rarer"): pair.share}
            for pair in tags.together(texts)[:PAIRS]
        ]
        if pairs:
            st.dataframe(pairs, hide_index=True, height=320, column_config={_("of the rarer"): share}, key="pair table")
    for trait in tags.traits(texts, trigger=trigger):
        st.caption(escape(trait))
