"""What a run has made so far: its curves, its newest pictures, its saved epochs."""

from __future__ import annotations

import re

import streamlit as st

from studio import charts, panels, places
from studio.language import _, plural
from studio.text import escape
from trainer.run import Run
from trainer.texts import file_size

SAMPLES = 6  # newest pictures


def show_curves(run: Run, runs: dict[str, Run]) -> None:
    """Loss, learning rate and whatever else the run wrote down, over its steps."""
    names = charts.measured(metrics_of(run.name, size_of(run)))
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        shown = "loss"
        if len(names) > 1:
            shown = st.segmented_control(
                _("Curve"), names, default=names[0], required=True, key="curve", label_visibility="collapsed"
            )
        else:
            st.text(_("Loss"))
        with st.popover(_("Chart"), icon=":material/tune:"):
            smoothing = st.slider(_("Smoothing"), 0.0, 0.99, 0.9, 0.01, key="smoothing")
            log = st.toggle(_("Logarithmic"), key="log scale")
            clip = st.toggle(
                _("Cut outliers off"), value=True, key="clip", help=_("The axis ends at the 99th percentile.")
            )
            others = [name for name in runs if name != run.name]
            overlaid = st.multiselect(_("Compare with"), others, key="overlaid", disabled=not others)
    curves = {name: metrics_of(name, size_of(runs[name])) for name in [run.name, *overlaid]}
    charts.over_steps(curves, shown, smoothing, log, clip)


def size_of(run: Run) -> int:
    try:
        return (run.path / "metrics.jsonl").stat().st_size
    except OSError:
        return 0


@st.cache_data(max_entries=20, show_spinner=False)
def metrics_of(name: str, size: int) -> list[dict]:
    """Keyed by size: the file only ever grows."""
    return Run(places.RUNS / name).metrics()


def show_samples(run: Run) -> None:
    """The pictures that were rendered last, by a comparison or because somebody asked for them while it trains."""
    found = [*run.path.glob("evaluations/*/cells/*.png"), *run.path.glob("samples/*.png")]
    newest = sorted(found, key=lambda path: -path.stat().st_mtime)[:SAMPLES]
    small = [(path, thumbnail) for path in newest if (thumbnail := panels.thumbnail(path, 256))]
    if not small:
        return
    st.text(_("Newest samples"))
    with st.container(horizontal=True, gap="small"):
        for path, thumbnail in small:
            with st.container(width=110, gap="xxsmall"):
                st.image(str(thumbnail), width="stretch", alt=_("Rendered picture"))
                if asked := re.match(r"step(\d+)-\d+-(.+)", path.stem):
                    st.caption(escape(_("step {n}").format(n=int(asked[1])) + f" · {asked[2]}"))


def show_epochs(run: Run) -> None:
    epochs = run.epochs()
    if not epochs:
        return
    with st.expander(plural(len(epochs), "saved epoch"), key=f"epochs {run.name}"):
        st.caption(escape(epochs[0].path.parent.as_posix() + "/"))
        for epoch in reversed(epochs):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.text(_("epoch {n}").format(n=epoch.number), width=90)
                st.caption(f"{escape(epoch.path.name)} · {file_size(epoch.path)}")
