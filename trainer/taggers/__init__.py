"""Programs that describe pictures with tags: one function a family, named in TAGGERS.

`get("wd14:models/wd-vit-tagger-v3")` loads one; what stands after the colon is that family's business.
"""

from collections.abc import Callable

from trainer.errors import UserError, nearest
from trainer.taggers.base import DEFAULTS, Tagger, TagOptions
from trainer.taggers.wd14 import wd14

TAGGERS: dict[str, Callable[[str], Tagger]] = {"wd14": wd14}

__all__ = ["DEFAULTS", "TAGGERS", "TagOptions", "Tagger", "get"]


def get(spec: str) -> Tagger:
    """The tagger that `FAMILY:WHERE` names. Raises UserError for an unknown family or a missing model."""
    family, colon, where = spec.partition(":")
    if family not in TAGGERS:
        raise UserError(f"Unknown tagger '{family}': {nearest(family, TAGGERS)}")
    if not where:
        raise UserError(
            f"'{spec}' does not say where the model is: write {family}:FOLDER or {family}:OWNER/MODEL."
        )
    return TAGGERS[family](where)
