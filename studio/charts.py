"""The studio's curves: over the steps of runs, and over the epochs of a comparison."""

from __future__ import annotations

from typing import Any

import streamlit as st

from studio.language import _

MOST_POINTS = 1500  # per run in a chart; more than the screen has pixels only costs time
OUTLIER = 0.99  # what lies above this share of all values is cut off


VALIDATION = {"loss/validation": "held-back pictures", "loss/validation_trained": "trained pictures"}  # one chart


def measured(metrics: list[dict[str, Any]]) -> list[str]:
    """What a run wrote down, the loss first; both kinds of validation loss are one chart under the first's name."""
    found = {key for entry in metrics for key, value in entry.items() if isinstance(value, (int, float))}
    validated = [name for name in VALIDATION if name in found][:1]
    return ["loss", *validated, *sorted(found - {"loss", "step", "epoch", *VALIDATION})]


def over_steps(curves: dict[str, list[dict[str, Any]]], name: str, smoothing: float, log: bool, clip: bool) -> None:
    """A measure over steps, a colour for each run: raw values pale, their running mean strong."""
    import altair

    rows = rows_of(curves, name, smoothing)
    if not rows:
        st.caption(_("The curve appears here after the first steps."))
        return
    values = sorted(row["raw"] for row in rows)
    top = values[min(len(values) - 1, int(OUTLIER * len(values)))]
    domain = {"domainMax": top} if clip and top > values[0] else {}
    scale = altair.Scale(type="log" if log else "linear", zero=False, nice=not domain, **domain)
    base = altair.Chart(altair.Data(values=rows)).encode(
        x=altair.X(
            "step:Q", title=_("step"), axis=altair.Axis(grid=False, tickMinStep=1), scale=altair.Scale(nice=False)
        ),
        color=altair.Color(
            "run:N", title=None, legend=altair.Legend(orient="top", labelLimit=320) if len(curves) > 1 else None
        ),
    )
    tooltip = ["run:N", "step:Q", altair.Tooltip("raw:Q", format=".4g", title=name)]
    style = altair.Axis(format="~g" if log or top >= 0.001 else ".1e")
    if name in VALIDATION:
        dashes = altair.StrokeDash("kind:N", title=None, legend=altair.Legend(orient="top", labelLimit=320))
        base, tooltip = base.encode(strokeDash=dashes), [*tooltip, "kind:N"]
    raw = base.mark_line(opacity=0.22, strokeWidth=1, clip=True).encode(
        y=altair.Y("raw:Q", title=name, scale=scale, axis=style)
    )
    smooth = base.mark_line(strokeWidth=2.2, clip=True, point=name in VALIDATION).encode(
        y=altair.Y("smoothed:Q", title=name, scale=scale, axis=style), tooltip=tooltip
    )
    st.altair_chart((raw + smooth).properties(height=260), width="stretch")


def rows_of(curves: dict[str, list[dict[str, Any]]], name: str, smoothing: float) -> list[dict[str, Any]]:
    """All runs' values as chart rows; validation has two kinds, and one value an epoch, which needs no smoothing."""
    kinds = VALIDATION if name in VALIDATION else {name: name}
    return [
        row | {"kind": _(kind)}
        for run, metrics in curves.items()
        for each, kind in kinds.items()
        for row in curve(run, metrics, each, 0.0 if name in VALIDATION else smoothing)
    ]


def curve(run: str, metrics: list[dict[str, Any]], name: str, smoothing: float) -> list[dict[str, Any]]:
    """One run's values as chart rows: an exponential mean beside each, thinned out evenly when there are many."""
    rows, mean, weight = [], 0.0, 0.0
    for entry in metrics:
        value = entry.get(name)
        if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            continue
        mean, weight = smoothing * mean + (1 - smoothing) * value, smoothing * weight + (1 - smoothing)
        rows.append({"run": run, "step": entry["step"], "raw": value, "smoothed": mean / weight})
    return rows[:: max(1, len(rows) // MOST_POINTS)]


def over_epochs(rows: list[dict[str, Any]], best: int | None) -> None:
    """One score over the epochs: rows of {"run", "epoch", "strength", "score"}, the recommended epoch marked."""
    import altair

    strengths = len({row["strength"] for row in rows}) > 1
    epochs = sorted({row["epoch"] for row in rows})
    data = altair.Chart(altair.Data(values=rows)).encode(
        x=altair.X(
            "epoch:Q",
            title=_("epoch"),
            axis=altair.Axis(grid=False, tickMinStep=1, values=epochs, format="d"),
            scale=altair.Scale(zero=False, padding=8),
        ),
        y=altair.Y("score:Q", title=None, scale=altair.Scale(zero=False)),
        tooltip=["epoch:Q", "strength:Q", altair.Tooltip("score:Q", format=".3f")],
    )
    if strengths:
        data = data.encode(color=altair.Color("strength:O", title=_("strength"), legend=altair.Legend(orient="top")))
    if len({row["run"] for row in rows}) > 1:
        legend = altair.Legend(orient="top", labelLimit=200)
        data = data.encode(strokeDash=altair.StrokeDash("run:N", title=None, legend=legend))
    layers = data.mark_line(strokeWidth=2, point=True)
    if best in epochs:
        mark = altair.Chart(altair.Data(values=[{"epoch": best}])).mark_rule(strokeDash=[4, 4], color="#7c868d")
        layers = mark.encode(x="epoch:Q") + layers
    st.altair_chart(layers.properties(height=170), width="stretch")
