"""One picture under the hand: a crop box and a mask, which Streamlit has no widgets for, and what becomes of them.

Masks are written at once. Boxes wait in .studio/boxes/ until the person has drawn all of them and asks for the new
folder; a worker writes that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from studio import jobs, panels, places, state, uploads
from studio.cutting import BOXES
from studio.language import _, plural
from studio.text import escape
from trainer import files
from trainer.config import DataConfig
from trainer.dataset import buckets, byhand, masks
from trainer.dataset.buckets import Box
from trainer.dataset.images import Picture
from trainer.errors import UserError

PARTS = Path(__file__).parent / "components"
SIDE = 1600  # longest side of what is drawn on, px
MOST = 16_000_000  # letters of a mask that arrives
REFRESH = 1.0
PICTURE = "picture"  # in the page's address: which one is under the hand

_editor = st.components.v2.component(
    "lora_studio_byhand",
    html='<div id="byhand" class="byhand"></div>',
    css=(PARTS / "byhand.css").read_text(encoding="utf-8"),
    js="".join((PARTS / name).read_text(encoding="utf-8") for name in ("box.js", "byhand.js")),
)


def wanted() -> str:
    """The relative name of the picture that the address asks for, "" for none."""
    return st.query_params.get(PICTURE, "")


def chosen(folder: Path, pictures: Sequence[Path]) -> Path | None:
    """The picture that the address asks for, if it is there."""
    name = wanted()
    return next((path for path in pictures if relative(folder, path) == name), None)


def open_picture(folder: Path, path: Path) -> None:
    st.query_params[PICTURE] = relative(folder, path)


def close() -> None:
    if PICTURE in st.query_params:
        del st.query_params[PICTURE]


def relative(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def show(folder: Path, path: Path, shown: Sequence[Path], size: Picture | None) -> None:
    """The editor of one picture; `shown` are those that previous and next go through."""
    name = relative(folder, path)
    small = panels.thumbnail(path, SIDE)
    if small is None or size is None:
        st.error(_("This picture cannot be read."))
        st.button(_("Back to the pictures"), on_click=close)
        return
    st.header(escape(f"{folder.name} / {name}"))
    order = list(shown) if path in shown else [path]
    usual = DataConfig()
    resolution = st.session_state.get("crop resolution") or usual.resolution
    data = {
        "id": name,
        "name": path.name,
        "src": "data:image/webp;base64," + base64.b64encode(small.read_bytes()).decode(),
        "width": size.width,
        "height": size.height,
        "box": boxes(folder).get(name),
        "mask": _mask(folder, name, small),
        "version": version(folder, name),
        "buckets": buckets.make_buckets(
            resolution, min(usual.bucket_min, resolution), usual.bucket_max, usual.bucket_step
        ),
        "place": [order.index(path) + 1, len(order)],
        "words": _words(),
    }
    key = f"by hand {folder.name}"
    _editor(data=data, key=key, on_done_change=lambda: _done(folder, key, order))
    st.caption(
        _(
            "Keys: C crop, B paint, E erase, [ and ] the brush, I invert, X clear, arrows move the box, with Alt they "
            "change its size, Page up and Page down go on, Ctrl-S saves. The picture itself is never changed."
        )
    )


def _words() -> dict[str, str]:
    return {
        "crop": _("Crop"),
        "paint": _("Paint"),
        "erase": _("Erase"),
        "shape": _("Shape"),
        "free": _("free"),
        "buckets": _("a bucket's"),
        "bucket": _("bucket"),
        "all": _("Whole picture"),
        "size": _("Brush"),
        "invert": _("Invert"),
        "clear": _("Clear"),
        "undo": _("Undo"),
        "redo": _("Redo"),
        "save": _("Save"),
        "done": _("Done"),
        "previous": _("Previous picture"),
        "next": _("Next picture"),
        "wide": _("Width"),
        "high": _("Height"),
        "x": _("Left edge, px"),
        "y": _("Top edge, px"),
        "w": _("Width, px"),
        "h": _("Height, px"),
        "of": _("of"),
        "red": _("Paint over what is not to be learned: it turns red."),
        "keys": _("Arrow keys move the crop box, with Alt they change its size."),
    }


def _mask(folder: Path, name: str, small: Path) -> str:
    """The picture's mask in the size that is drawn on, as a data URL."""
    mask = byhand.mask_of(folder, name)
    if mask is None:
        return ""
    with Image.open(small) as drawn:
        mask = mask.resize(drawn.size)
    content = io.BytesIO()
    mask.save(content, format="PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


# ── what comes back ─────────────────────────────────────────────────────────────────────────────────────


def _done(folder: Path, key: str, order: Sequence[Path]) -> None:
    change = st.session_state[key].get("done")
    if not change:
        return
    try:
        if said := save(folder, change):
            state.notify(said)
    except UserError as error:
        state.complain(error)
        return
    names = [relative(folder, path) for path in order]
    step = {"next": 1, "previous": -1}.get(change.get("go"), 0)
    if change.get("go") == "back":
        close()
    elif step and change.get("id") in names:
        st.query_params[PICTURE] = names[(names.index(change["id"]) + step) % len(names)]


def save(folder: Path, change: Mapping[str, Any]) -> str:
    """Keep what was drawn, {"id", "box", "mask", "version"}, and say so; "" when nothing is new.

    Raises UserError for a picture that is not in the folder, for a box or mask that is none, and when the mask is no
    longer the one that was painted on.
    """
    name, said = str(change.get("id", "")), []
    if "mask" in change:
        if change.get("version", "") != version(folder, name):
            raise UserError(_("The mask of {name} has been changed elsewhere meanwhile: reload it.").format(name=name))
        mask = read_mask(change["mask"])
        if mask.getextrema() == (255, 255):
            if byhand.remove_mask(folder, name):
                said.append(_("Removed the mask of {name}.").format(name=name))
        else:
            byhand.paint_mask(folder, name, mask)
            said.append(_("Saved the mask of {name}.").format(name=name))
    if set_box(folder, name, change.get("box")):
        said.append(_("Noted the crop of {name}.").format(name=name))
    return " ".join(said)


def version(folder: Path, name: str) -> str:
    """Which mask the picture has now, "" for none."""
    mask = masks.of(folder, byhand.find(folder, name))
    return hashlib.sha256(mask.read_bytes()).hexdigest()[:16] if mask else ""


def read_mask(text: Any) -> Image.Image:
    """The grey picture in a data URL that the browser sent. Raises UserError unless it is a PNG of a sane size."""
    head, comma, content = str(text)[:MOST].partition(",")
    try:
        if not comma or head != "data:image/png;base64" or len(str(text)) > MOST:
            raise ValueError(head)
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True)), formats=["PNG"]) as picture:
            if max(picture.size) > SIDE:
                raise ValueError(picture.size)
            return picture.convert("L")
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(_("The mask did not arrive whole: paint it once more.")) from error


# ── boxes that wait ─────────────────────────────────────────────────────────────────────────────────────


def boxes(folder: Path) -> dict[str, Box]:
    """The boxes drawn in this folder: relative name -> (left, top, right, bottom)."""
    try:
        values = json.loads(_file(folder).read_text(encoding="utf-8"))
        return {str(name): _box(box) for name, box in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def set_box(folder: Path, name: str, box: Any) -> bool:
    """Remember this box, None forgets it; whether that changed anything. Raises UserError for what is no box."""
    known = boxes(folder)
    try:
        wanted = None if box is None else _box(box)
    except (ValueError, TypeError) as error:
        raise UserError(_("The crop did not arrive whole: draw it once more.")) from error
    if wanted is not None:
        byhand.check_box(folder, name, wanted)
    if known.get(name) == wanted:
        return False
    known.pop(name, None)
    if wanted is not None:
        known[name] = wanted
    files.write_json(_file(folder), known)
    return True


def _box(values: Any) -> Box:
    left, top, right, bottom = (int(value) for value in values)
    return left, top, right, bottom


def _file(folder: Path) -> Path:
    return BOXES / f"{folder.name}.json"


def show_waiting(folder: Path, pictures: Sequence[Path]) -> None:
    """How many crops were drawn, and the way to the new folder."""
    known = boxes(folder)
    drawn = known.keys() & {relative(folder, path) for path in pictures} if known else ()
    job = jobs.latest("crop", folder.name)
    if drawn and not (job and job.active):
        with st.container(border=True, horizontal=True, vertical_alignment="bottom"):
            to = st.text_input(
                _("{crops} drawn by hand: new folder for them").format(crops=plural(len(drawn), "crop")),
                f"{folder.name}-cropped",
                key=f"crop to {folder.name}",
            )
            others = st.checkbox(_("with the other pictures, whole"), True, key=f"crop others {folder.name}")
            st.button(_("Write it"), type="primary", key="crop", on_click=write, args=(folder, to, others))
            st.button(_("Forget the crops"), key="forget crops", on_click=forget, args=(folder,))
    st.fragment(watch, run_every=REFRESH if job and job.active else None)(folder.name)


def write(folder: Path, to: str, others: bool) -> None:
    try:
        target = uploads.folder_for(to)
        if target.exists():
            raise UserError(_("{folder} is there already: name a new one.").format(folder=target))
        options = [] if others else ["--only"]
        jobs.start("crop", folder.as_posix(), target.as_posix(), *options, subject=folder.name)
    except UserError as error:
        state.complain(error)


def forget(folder: Path) -> None:
    _file(folder).unlink(missing_ok=True)


def watch(name: str) -> None:
    job = jobs.latest("crop", name)
    active = panels.show_job(job, f"crop {name}", _("Cropping"))
    if st.session_state.get("cropping", False) and not active:
        st.session_state["cropping"] = False
        if job and job.state == "done":
            target = Path(job.about["arguments"][2]).name
            state.notify(_("Wrote {folder}: choose it above.").format(folder=places.DATASETS / target))
        st.rerun()
    st.session_state["cropping"] = active
