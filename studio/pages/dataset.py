"""Dataset: pictures with their captions, what is said how often, and whether the folder is ready to train."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import streamlit as st

from studio import jobs, panels, places, state, uploads
from studio.language import _, plural
from studio.text import escape
from trainer import toybox
from trainer.dataset import captions, health, images
from trainer.errors import UserError

PAGE = 12  # pictures at once
COLUMNS = 3
THUMBNAIL = 384  # longest side, px
TAGS = 40  # in the list
REFRESH = 2.0
DEFAULT_TAGGER = "wd14:SmilingWolf/wd-swinv2-tagger-v3"


def main() -> None:
    st.title("Dataset")
    state.show_notice()
    names = places.datasets()
    if not names:
        panels.empty("No pictures yet", "15 to 30 pictures of one character or style are a good start.")
        with st.container(border=True):
            ask_upload([])
        return
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        name = state.select("Folder in datasets/", "dataset", names)
    with right, st.popover("Add pictures", width="stretch", icon=":material/add_photo_alternate:"):
        ask_upload(names)
    try:
        show_folder(name, places.dataset(name))
    except UserError as error:
        st.error(escape(error))


def ask_upload(names: list[str]) -> None:
    """Pictures and captions dropped in; each is checked before it is written, and nothing is written over."""
    with st.form("upload", border=False, clear_on_submit=True):
        files = st.file_uploader("Pictures, and captions if you have them", accept_multiple_files=True, key="files")
        name = st.text_input("Into the folder", state.chosen("dataset", names) or "", placeholder="moss-cat")
        if not st.form_submit_button("Add", type="primary"):
            return
    try:
        report = uploads.save(name, [(file.name, file.getvalue()) for file in files])
    except UserError as error:
        st.error(escape(error))
        return
    for refused in report.refused:
        st.warning(escape(refused))
    if report.written:
        state.notify(f"Added {plural(len(report.written), 'file')} to {report.folder}.")
        state.choose("dataset", report.folder.name)
        if not report.refused:
            st.rerun()


# ── the folder ──────────────────────────────────────────────────────────────────────────────────────────


@st.cache_data(max_entries=20, show_spinner=False)
def health_of(folder: str, trigger: str, stamp: tuple) -> health.Health:
    """`stamp` makes the answer old when a file changes."""
    pictures = tuple(entry for entry in stamp if not entry[0].endswith(".txt"))
    return health.check(Path(folder), trigger=trigger, known=survey_of(folder, pictures))


@st.cache_data(max_entries=20, show_spinner="Looking at every picture …")
def survey_of(folder: str, stamp: tuple) -> dict[Path, images.Picture]:
    """Decoding the pictures takes long, so an edited caption must not cause it."""
    try:
        return {picture.path: picture for picture in images.survey(Path(folder))[0]}
    except UserError:
        return {}


@st.cache_data(max_entries=20, show_spinner=False)
def texts_of(folder: str, stamp: tuple) -> dict[str, str | None]:
    """Picture -> its caption; unreadable ones are left out, the findings name them."""
    texts: dict[str, str | None] = {}
    for path in images.find(Path(folder)):
        try:
            texts[path.as_posix()] = captions.caption_of(path)
        except UserError:
            continue
    return texts


def show_folder(name: str, folder: Path) -> None:
    stamp = panels.stamp(folder)
    pictures = images.find(folder)
    if not pictures:
        st.info("No picture in this folder yet: add some.")
        return
    texts = texts_of(folder.as_posix(), stamp)
    verdict = health_of(folder.as_posix(), common_trigger(texts), stamp)
    show_head(name, folder, len(pictures), verdict)
    gallery, side = st.columns([3, 1], gap="large")
    with gallery:
        shown = filtered(pictures, texts)
        show_gallery(folder, shown, texts)
    with side:
        show_tags(texts)
        show_findings(verdict)


def common_trigger(texts: dict[str, str | None]) -> str:
    firsts = {(captions.split(text or "") or [""])[0] for text in texts.values()}
    return firsts.pop() if len(firsts) == 1 else ""


def show_head(name: str, folder: Path, number: int, verdict: health.Health) -> None:
    """Count, score, and what can be done to all captions at once."""
    job = jobs.latest("tag", name)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(f"{plural(number, 'picture')}", width="content")
        word = "ready to train" if verdict.ready else "not ready"
        st.badge(f"{word}: {verdict.score}/100", color="green" if verdict.score >= 80 else "orange")
        with st.popover("Tag with …", icon=":material/label:", disabled=bool(job and job.active)):
            ask_tag(name, folder)
        done = captions.history(folder)
        undoable = [operation for operation in done if not operation.undone]
        redoable = [operation for operation in done if operation.undone]
        st.button("Undo", key="undo", on_click=take_back, args=(folder, "undo"), disabled=not undoable)
        st.button("Redo", key="redo", on_click=take_back, args=(folder, "redo"), disabled=not redoable)
    st.fragment(watch_tagging, run_every=REFRESH if job and job.active else None)(name)


def take_back(folder: Path, verb: str) -> None:
    try:
        touched = (captions.undo if verb == "undo" else captions.redo)(folder)
        word = "Took back" if verb == "undo" else "Did again"
        state.notify(f"{word} changes to {plural(len(touched), 'caption')}.")
    except UserError as error:
        state.notify(str(error))
    forget_boxes()


def forget_boxes() -> None:
    """Text boxes keep what was typed; after undo and tagging they must show the files again."""
    st.session_state["captions generation"] = st.session_state.get("captions generation", 0) + 1


def ask_tag(name: str, folder: Path) -> None:
    usual = "wd14:toybox/tagger" if toybox.PARTS["tagger"].is_dir() else DEFAULT_TAGGER
    tagger = st.text_input("Tagger", usual, key="tagger", help="wd14:FOLDER or wd14:OWNER/MODEL of the hub.")
    trigger = st.text_input("Trigger word", key=f"tag trigger {name}", help="Written first into each caption.")
    modes = {"Leave captions that are there": [], "Add to them": ["--append"], "Replace them": ["--overwrite"]}
    mode = st.radio("Pictures that have a caption", list(modes), key="tag mode")
    threshold = st.slider("Sureness", 0.05, 0.95, 0.35, 0.05, key="threshold", help="Tags less sure are left out.")
    if st.button("Start", type="primary", key="tag", disabled=not tagger.strip()):
        options = [f"--tagger={tagger.strip()}", f"--trigger={trigger.strip()}", f"--threshold={threshold}"]
        jobs.start("tag", folder.as_posix(), *options, *modes[mode], subject=name)
        st.rerun()


def watch_tagging(name: str) -> None:
    active = panels.show_job(jobs.latest("tag", name), f"tag {name}", "Tagging")
    if st.session_state.get("tagging", False) and not active:
        st.session_state["tagging"] = False
        forget_boxes()
        st.rerun()
    st.session_state["tagging"] = active


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────


def filtered(pictures: list[Path], texts: dict[str, str | None]) -> list[Path]:
    """Those whose caption has every one of the chosen tags, or that have no caption."""
    counts = tag_counts(texts)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        wanted = st.multiselect("Show pictures with", list(counts), placeholder="Any tag", key="wanted")
        bare = st.toggle("Without caption", key="bare")
    if bare:
        return [path for path in pictures if not texts.get(path.as_posix())]
    keys = {captions.same(tag) for tag in wanted}
    return [
        path for path in pictures if keys <= set(map(captions.same, captions.split(texts.get(path.as_posix()) or "")))
    ]


def show_gallery(folder: Path, pictures: list[Path], texts: dict[str, str | None]) -> None:
    if not pictures:
        st.caption("No picture fits.")
        return
    pages = -(-len(pictures) // PAGE)
    page = st.pagination(pages, key=f"page {folder.name} {pages}") if pages > 1 else 1
    shown = pictures[(page - 1) * PAGE : page * PAGE]
    for at in range(0, len(shown), COLUMNS):
        for column, path in zip(st.columns(COLUMNS), shown[at : at + COLUMNS]):
            with column:
                show_picture(folder, path, texts)


def show_picture(folder: Path, path: Path, texts: dict[str, str | None]) -> None:
    small = panels.thumbnail(path, THUMBNAIL)
    if small:
        st.image(str(small), width="stretch")
    else:
        st.error(f"{escape(path.name)} cannot be read.")
    if path.as_posix() not in texts:
        st.error("Its caption cannot be read.")
        return
    caption = texts[path.as_posix()] or ""
    key = f"caption {st.session_state.get('captions generation', 0)} {path.as_posix()}"
    label = f"{path.name} · {plural(len(captions.split(caption)), 'tag')}"
    st.text_area(
        escape(label),
        caption,
        key=key,
        height=90,
        placeholder="No caption yet",
        on_change=save_caption,
        args=(folder, path, caption, key),
    )


def save_caption(folder: Path, path: Path, before: str, key: str) -> None:
    """Write what was typed, unless the file has changed since it was shown: then say so and lose nothing."""
    typed = st.session_state[key].strip()
    try:
        now = captions.caption_of(path) or ""
        if now != before:
            state.notify(f"{path.name} has been changed elsewhere meanwhile; it now reads: {now}. Not saved: {typed}")
            return
        if typed != before:
            captions.write_captions(folder, {captions.sidecar(path): typed or None}, f"edit {path.name}")
            state.notify("Saved 1 caption.")
    except UserError as error:
        state.notify(str(error))


# ── beside them ─────────────────────────────────────────────────────────────────────────────────────────


def tag_counts(texts: dict[str, str | None]) -> dict[str, int]:
    """Tag -> in how many captions, most frequent first; spellings that mean the same count as one."""
    spelling: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for text in texts.values():
        tags = {captions.same(tag): tag for tag in captions.split(text or "")}
        spelling = tags | spelling
        counts.update(tags.keys())
    return {spelling[key]: number for key, number in counts.most_common()}


def show_tags(texts: dict[str, str | None]) -> None:
    counts = tag_counts(texts)
    st.subheader("Tags")
    if not counts:
        st.caption("No captions yet: **Tag with …** writes them.")
        return
    with st.container(height=320, border=False, gap=None):
        for tag, number in list(counts.items())[:TAGS]:
            with st.container(horizontal=True, horizontal_alignment="distribute", gap="small"):
                st.text(tag, width="stretch")
                st.caption(str(number), width="content")
    if len(counts) > TAGS:
        st.caption(f"and {len(counts) - TAGS} more")


def show_findings(verdict: health.Health) -> None:
    if not verdict.findings:
        return
    st.subheader("To look at")
    for reason in verdict.reasons:
        st.caption(escape(reason))
    with st.expander(plural(len(verdict.findings), "finding"), key="findings"):
        for finding in verdict.findings[:50]:
            st.caption(escape(f"{finding.what}. {finding.remedy}."))


main()
