"""Library: the exported LoRAs, and what any LoRA file is."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import streamlit as st

from studio import panels, places, state
from studio.language import _
from studio.text import escape
from trainer.errors import UserError
from trainer.kohya import LoraInfo, describe
from trainer.texts import file_size

PREVIEW = 512  # px
PAGE = 12  # cards at once
LARGEST = 1_000_000_000  # bytes of a file that is dropped in


@st.cache_data(max_entries=500, show_spinner=False)
def info_of(path: str, modified: int, size: int) -> LoraInfo:
    """Reading hashes the whole file, so the answer is kept until the file changes."""
    return describe(Path(path))


def main() -> None:
    st.title("Library")
    state.show_notice()
    show_cards()
    st.divider()
    show_inspector()


def show_cards() -> None:
    files = places.loras()
    if not files:
        panels.empty(
            "No LoRA here yet",
            "When you export an epoch on the Compare page it appears here, ready for A1111, Forge and ComfyUI.",
            "pages/compare.py",
            "Compare epochs",
        )
        return
    if len(files) > 6:
        wanted = st.text_input("Search", placeholder="Name", icon=":material/search:", key="search").strip().lower()
        files = [path for path in files if wanted in path.stem.lower()]
    pages = -(-len(files) // PAGE)
    page = st.pagination(pages, key="library page") if pages > 1 else 1
    for path in files[(page - 1) * PAGE : page * PAGE]:
        with st.container(border=True):
            show_card(path)


def show_card(path: Path) -> None:
    picture, about = st.columns([1, 3.4], gap="medium")
    preview = next((p for p in (path.with_suffix(".png"), path.with_suffix(".preview.png")) if p.is_file()), None)
    small = panels.thumbnail(preview, PREVIEW) if preview else None
    with picture:
        if small:
            st.image(str(small), width="stretch")
        else:
            st.caption("No preview")
    with about:
        st.text(path.stem)
        try:
            status = path.stat()
            info = info_of(path.as_posix(), status.st_mtime_ns, status.st_size)
        except (UserError, OSError) as error:
            st.error(escape(error))
            return
        show_info(info, path)


def show_info(info: LoraInfo, path: Path) -> None:
    ranks = ", ".join(map(str, info.ranks)) or "?"
    size = file_size(path) if path.exists() else f"{info.size / 1e6:.3g} MB"
    st.caption(escape(f"{info.family} · {info.kind} · dim {ranks} · {size} · hash {info.model_hash}"))
    triggers = list(info.triggers) or triggers_of(path)
    if triggers:
        st.text("Trigger: " + ", ".join(triggers))
    if info.tags:
        with st.container(horizontal=True, gap="xxsmall"):
            for tag, number in info.tags[:12]:
                st.badge(f"{escape(tag)} {number}", color="gray")
    prompt = f"<lora:{path.stem}:1>" + "".join(f" {word}" for word in triggers[:1])
    st.code(prompt, language=None, wrap_lines=True)
    for warning in info.warnings:
        st.caption("Careful: " + escape(warning))
    with st.container(horizontal=True, vertical_alignment="center"):
        if run := run_of(info):
            st.page_link("pages/runs.py", label="Open its run", icon=":material/monitoring:", query_params={"run": run})
        with st.popover("Everything in the file"):
            for label, value in info.lines():
                if label != "File":
                    st.caption(label)
                    st.text(value)


def triggers_of(path: Path) -> list[str]:
    """The trigger from the card that was written beside the file on export."""
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return [str(card["activation text"])] if card.get("activation text") else []
    except (OSError, ValueError, KeyError, AttributeError):
        return []


def run_of(info: LoraInfo) -> str:
    """The run whose saved epoch this file was made from, by the hash of the weights."""
    for run in places.runs():
        for epoch in run.epochs():
            if abs(epoch.path.stat().st_size - info.size) < 100_000 and hash_of(epoch.path) == info.model_hash:
                return run.name
    return ""


def hash_of(path: Path) -> str:
    try:
        status = path.stat()
        return info_of(path.as_posix(), status.st_mtime_ns, status.st_size).model_hash
    except (UserError, OSError):
        return ""


def show_inspector() -> None:
    """Any LoRA file, whoever made it; it is looked at and not kept."""
    st.subheader("What is this LoRA?")
    dropped = st.file_uploader(
        "Drop a .safetensors file: family, size, trigger words, training settings, and which tools load it.",
        type=["safetensors"],
        key="inspect",
    )
    if dropped is None:
        return
    if dropped.size > LARGEST:
        st.error(f"A LoRA is smaller than {LARGEST / 1e9:g} GB; this is likely a base model.")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dropped.safetensors"
        path.write_bytes(dropped.getbuffer())
        try:
            info = describe(path)
        except UserError:
            st.error("This is not a safetensors file, or it is damaged: get it again.")
            return
    with st.container(border=True):
        st.text(dropped.name)
        show_info(info, Path(Path(dropped.name).name))


main()
