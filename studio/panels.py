"""Parts that several pages share: empty states, job logs, thumbnails, charts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import streamlit as st

from studio import jobs
from studio.language import _
from studio.sentences import duration, said
from studio.text import escape
from trainer import toybox
from trainer.dataset import images
from trainer.errors import UserError
from trainer.files import write_with

CAPTIONS = (".txt", ".caption")
THUMBNAILS = Path(".studio") / "thumbnails"


def empty(title: str, text: str, page: str = "", label: str = "", icon: str = "") -> None:
    """What a page says when there is nothing yet: why, and the way to the next step."""
    with st.container(border=True, horizontal_alignment="center", gap="small"):
        st.space("small")
        st.header(title, text_alignment="center", anchor=False)  # the space for its link would push it to the left
        st.markdown(text, text_alignment="center")
        if page:
            st.page_link(page, label=label, icon=icon or ":material/arrow_forward:")
        st.space("small")


def popover(key: str, label: str, icon: str, **arguments: Any):
    """A popover that `close` shuts once what it asks for has begun: otherwise it would hide the progress."""
    if st.session_state.pop(f"close {key}", False):
        st.session_state[f"popover {key}"] = False
    arguments = {"width": "stretch", **arguments}
    return st.popover(label, icon=icon, key=f"popover {key}", on_change="rerun", **arguments)


def close(key: str) -> None:
    """In the next run of the page."""
    st.session_state[f"close {key}"] = True


def stamp(folder: Path, ending: str = "") -> tuple[str, str]:
    """Changes whenever a picture (first) or caption (second) of the folder does: what cached answers are keyed by.

    `ending`: of caption files that are called otherwise than usual.
    """
    endings = (*CAPTIONS, *filter(None, [ending.lower()]))
    try:
        found = sorted(images.stamps(folder, (*images.ENDINGS, *endings)).items())
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.") from None
    pictures = [entry for entry in found if not entry[0].lower().endswith(endings)]
    others = [entry for entry in found if entry[0].lower().endswith(endings)]
    return _digest(pictures), _digest(others)


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogateescape")).hexdigest()


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
        text = escape(said(progress.text) or label or _("Starting …"))
        # Where nothing can be counted the seconds go on: a bar that stands still looks like one that hangs.
        far = count(progress) or " · " + duration(job.age)
        st.progress(progress.done / progress.total if progress.total else 0.0, text=text + far)
        if st.button(_("Cancel"), key=f"cancel {key}", icon=":material/stop:"):
            job.cancel()
        return True
    if state in ("failed", "lost"):
        words = job.tail(1) if state == "failed" else _("It ended without a word (killed, crash or power cut).")
        st.error(escape(said(words.removeprefix("lora-studio: ")) or _("It failed without a word.")))
        if log := job.tail(40):
            with st.expander(_("Log"), key=f"log {key}"):
                st.code(log, language=None, wrap_lines=True)
    elif state == "cancelled":
        st.caption(_("Cancelled. What was finished before is kept."))
    return False


def count(progress: jobs.Progress) -> str:
    return " · " + _("{n} of {total}").format(n=progress.done, total=progress.total) if progress.total else ""


def show_log(text: str) -> None:
    """Lines of a log as text."""
    if text:
        st.code(text, language=None, wrap_lines=True, height=260)
    else:
        st.caption(_("Nothing has been written to the log yet."))


def demo_ready() -> bool:
    """Whether the toybox's weights are installed."""
    return bool(toybox_bases()) and toybox.PARTS["tagger"].is_dir()


def clip_option() -> list[str]:
    """Likeness by CLIP where its weights are at hand."""
    return ["--clip=toybox/clip"] if toybox.PARTS["clip"].is_dir() else []
