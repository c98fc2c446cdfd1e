"""Changes to captions from the page: written through the folder's journal, never over what another tab has written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.language import _
from trainer.dataset import captions, images
from trainer.errors import UserError


def save(folder: Path, change: Mapping[str, Any]) -> str:
    """Write what one card of the gallery asks for: {"id", "before", "tags" or "text"}; what to say about it.

    Raises UserError for a picture that is not in the folder, and when the caption is no longer what the page
    showed: the message then holds both texts.
    """
    path = Path(str(change.get("id")))
    if str(path) not in images.stamps(folder, images.ENDINGS):  # among what is there: a name is never taken on trust
        raise UserError(_("This picture is no longer in the folder: reload the page."))
    wanted = captions.join(map(str, change["tags"])) if "tags" in change else str(change.get("text", "")).strip()
    now = captions.caption_of(path) or ""
    if now != change.get("before"):
        raise UserError(
            _("{name} has been changed elsewhere meanwhile; it now reads: {now}. Not saved: {wanted}").format(
                name=path.name, now=now or "–", wanted=wanted or "–"
            )
        )
    if wanted == now:
        return ""
    captions.write_captions(folder, {captions.sidecar(path): wanted or None}, f"edit {path.name}")
    return _("Saved 1 caption.")
