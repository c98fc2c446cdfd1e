"""A cell of the comparison's grid at full size: the viewer of the comparison's own report, laid over the page."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from studio import panels, sentences
from studio.language import _
from trainer import report
from trainer.cells import Evaluation

PARTS = Path(__file__).parent / "components"

_viewer = st.components.v2.component(
    "lora_studio_fullsize",
    html="<dialog><p></p></dialog>",
    css=(PARTS / "fullsize.css").read_text(encoding="utf-8"),
    js=(PARTS / "fullsize.js").read_text(encoding="utf-8"),
)


def serve(evaluation: Evaluation, folder: Path, key: str) -> None:
    """Open what is clicked of the grid on this page.

    The report holds every picture, so it travels only once somebody has clicked.
    """
    key = f"{key} {folder.as_posix()}"
    wanted = (st.session_state.get(key) or {}).get("wanted")
    stamp, _captions = panels.stamp(folder / "cells")
    words = {"title": _("Picture at full size"), "waiting": _("Fetching the pictures …")}
    data = {"stamp": stamp, "report": page(evaluation, folder) if wanted else "", "words": words}
    _viewer(data=data, key=key, on_wanted_change=lambda: None)


def page(evaluation: Evaluation, folder: Path) -> str:
    """The report in the reader's language, whichever it is written in; written anew where there is none, or one whose
    viewer is of another version.
    """
    path = folder / "report.html"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not report.is_current(text):
        text = report.write_report(evaluation, folder).read_text(encoding="utf-8")
    return report.in_words(text, **sentences.of_report(evaluation))
