"""Parts that several pages share: empty states, job logs, thumbnails, charts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import streamlit as st

from studio import jobs, places
from studio.text import escape
from trainer import toybox
from trainer.dataset import images
from trainer.errors import UserError
from trainer.files import write_with

THUMBNAILS = Path(".studio") / "thumbnails"


def empty(title: str, text: str, page: str = "", label: str = "", icon: str = "") -> None:
    """What a page says when there is nothing yet: why, and the way to the next step."""
    with st.container(border=True, horizontal_alignment="center", gap="small"):
        st.space("small")
        st.subheader(title, text_alignment="center")
        st.markdown(text, text_alignment="center")
        if page:
            st.page_link(page, label=label, icon=icon or ":material/arrow_forward:")
        st.space("small")


def stamp(folder: Path) -> tuple:
    """Changes whenever a picture or caption of the folder does: what a cached answer about it is keyed by."""
    try:
        found = images.files(folder, (*images.ENDINGS, ".txt"))
        return tuple((path.as_posix(), s.st_mtime_ns, s.st_size) for path in found for s in (path.stat(),))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.") from None


def toybox_bases() -> list[str]:
    """The built-in bases whose weights are installed."""
    return [f"toybox/{name}" for name in ("sd15", "sdxl") if (toybox.PARTS[name] / "model_index.json").is_file()]


def thumbnail(path: Path, side: int) -> Path | None:
    """A small WebP of a picture, made once and kept on disk; None when the picture cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    key = hashlib.sha256(f"{path.resolve()}|{status.st_mtime_ns}|{status.st_size}|{side}".encode()).hexdigest()[:24]
    small = THUMBNAILS / f"{key}.webp"
    if small.exists():
        return small
    try:
        picture = images.open_rgb(path)
        picture.thumbnail((side, side))
        return write_with(small, lambda temporary: picture.save(temporary, "WEBP", quality=85))
    except UserError:
        return None


def show_job(job: jobs.Job | None, key: str, label: str = "") -> bool:
    """How a started command is doing: bar and cancel while it runs, its last words when it failed.

    Returns whether it is still at work.
    """
    if job is None:
        return False
    state, progress = job.state, job.progress
    if job.active:
        text = escape(progress.text or label or "Starting …")
        st.progress(progress.done / progress.total if progress.total else 0.0, text=text + count(progress))
        if st.button("Cancel", key=f"cancel {key}", icon=":material/stop:"):
            job.cancel()
        return True
    if state in ("failed", "lost"):
        words = job.tail(1) if state == "failed" else "It ended without a word (killed, crash or power cut)."
        st.error(escape(words.removeprefix("lora-studio: ") or "It failed without a word."))
        if log := job.tail(40):
            with st.expander("Log", key=f"log {key}"):
                st.code(log, language=None, wrap_lines=True)
    elif state == "cancelled":
        st.caption("Cancelled. What was finished before is kept.")
    return False


def count(progress: jobs.Progress) -> str:
    return f" · {progress.done} of {progress.total}" if progress.total else ""


def loss_chart(curves: dict[str, list[dict[str, Any]]], smoothing: float, log: bool) -> None:
    """Loss over steps: each run's raw values pale, their running mean strong."""
    import altair

    rows = [row for name, metrics in curves.items() for row in curve(name, metrics, smoothing)]
    if not rows:
        st.caption("The loss appears here after the first steps.")
        return
    scale = altair.Scale(type="log" if log else "linear", zero=False, nice=True)
    base = altair.Chart(altair.Data(values=rows)).encode(
        x=altair.X("step:Q", title="step", axis=altair.Axis(grid=False, tickMinStep=1)),
        color=altair.Color("run:N", title=None, legend=altair.Legend(orient="top") if len(curves) > 1 else None),
    )
    tooltip = ["run:N", "step:Q", altair.Tooltip("loss:Q", format=".4f")]
    raw = base.mark_line(opacity=0.22, strokeWidth=1).encode(y=altair.Y("loss:Q", title="loss", scale=scale))
    smooth = base.mark_line(strokeWidth=2.2).encode(
        y=altair.Y("smoothed:Q", title="loss", scale=scale), tooltip=tooltip
    )
    st.altair_chart((raw + smooth).properties(height=260), width="stretch")


MOST_POINTS = 1500  # per run in a chart; more than the screen has pixels only costs time


def curve(name: str, metrics: list[dict[str, Any]], smoothing: float) -> list[dict[str, Any]]:
    """One run's loss as chart rows: an exponential mean beside it, thinned out evenly when there are many."""
    rows, mean, weight = [], 0.0, 0.0
    for entry in metrics:
        loss = entry.get("loss")
        if not isinstance(loss, (int, float)) or not 0 < loss < float("inf"):
            continue
        mean, weight = smoothing * mean + (1 - smoothing) * loss, smoothing * weight + (1 - smoothing)
        rows.append({"run": name, "step": entry["step"], "loss": loss, "smoothed": mean / weight})
    return rows[:: max(1, len(rows) // MOST_POINTS)]


def show_log(text: str) -> None:
    """Lines of a log as text."""
    if text:
        st.code(text, language=None, wrap_lines=True, height=260)
    else:
        st.caption("Nothing has been written to the log yet.")


def demo_ready() -> bool:
    """Whether the toybox's weights are installed."""
    return bool(toybox_bases()) and toybox.PARTS["tagger"].is_dir()


def runs_by_name() -> dict[str, Any]:
    return {run.name: run for run in places.runs()}


def clip_option() -> list[str]:
    """Likeness by CLIP where its weights are at hand."""
    return ["--clip=toybox/clip"] if toybox.PARTS["clip"].is_dir() else []
