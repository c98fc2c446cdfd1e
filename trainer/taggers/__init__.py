"""Programs that describe pictures with tags or sentences: one function a family, named in TAGGERS.

`get("wd14:models/wd-vit-tagger-v3")` loads one; what stands after the colon is that family's business.
"""

from collections.abc import Callable, Sequence

from trainer.errors import UserError, nearest
from trainer.taggers.base import DEFAULTS, Service, Tagger, TagOptions
from trainer.taggers.blip import blip
from trainer.taggers.florence import florence
from trainer.taggers.server import server
from trainer.taggers.several import COMBINATIONS, Several
from trainer.taggers.wd14 import wd14

TAGGERS: dict[str, Callable[[str], Tagger]] = {"wd14": wd14, "blip": blip, "florence": florence, "server": server}

__all__ = ["COMBINATIONS", "DEFAULTS", "TAGGERS", "Service", "Several", "TagOptions", "Tagger", "get", "get_all"]

_WHERE = {"server": "ADDRESS"}


def get(spec: str) -> Tagger:
    """The tagger that `FAMILY:WHERE` names. Raises UserError for an unknown family or a missing model."""
    family, colon, where = spec.partition(":")
    if family not in TAGGERS:
        raise UserError(f"Unknown tagger '{family}': {nearest(family, TAGGERS)}")
    if not where:
        place = _WHERE.get(family, f"FOLDER or {family}:OWNER/MODEL")
        raise UserError(f"'{spec}' does not say where the model is: write {family}:{place}.")
    return TAGGERS[family](where)


def get_all(specs: Sequence[str], how: str = "union") -> Tagger:
    """One tagger of one or several specs; `how` their answers are combined is a key of COMBINATIONS."""
    if how not in COMBINATIONS:
        raise UserError(f"Unknown way '{how}' to combine taggers: {nearest(how, COMBINATIONS)}")
    return get(specs[0]) if len(specs) == 1 else Several([get(spec) for spec in specs], how)
