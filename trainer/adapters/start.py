"""Going on from an existing LoRA file: its weights where the asked modules have some, fresh ones elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.adapters.adapter import Adapter
from trainer.adapters.sites import Site, modules_in, sites_of
from trainer.dataset.names import count
from trainer.errors import UserError
from trainer.kohya.deltas import factors, truncated

if TYPE_CHECKING:
    from torch import Tensor


CUT_TO_LORA = ("loha", "lokr")  # a DoRA's change is no sum: the base's own sizes are in it


def start_from(adapter: Adapter, tensors: dict[str, Tensor], file: Path, *, resize: bool) -> str:
    """Give a fresh adapter the ΔW of a file, module by module; returns a sentence on what was taken.

    Which modules are trained stays as it is: what the file has beyond them is left out, what it lacks begins at
    nothing. Another alpha in the file is made up for in the matrices. A file of another rank is fitted with
    `resize`, by the truncated singular value decomposition, and so is a LoHa or LoKr to a LoRA. Raises UserError when
    it is of another kind, or of another rank without `resize`, or shares no module.
    """
    mine = modules_in(adapter.tensors())
    theirs = {(site.component, site.path): site for site in sites_of(adapter.model, tensors)}
    given = modules_in(tensors)
    taken = 0
    for site in adapter.sites:
        source = theirs.get((site.component, site.path))
        if source is None:
            continue
        if source.kind != site.kind and not (resize and site.kind == "lora" and source.kind in CUT_TO_LORA):
            cut = site.kind == "lora" and source.kind in CUT_TO_LORA
            other = "make a LoRA of it with adapter.start_resize=true" if cut else "start from another file"
            raise UserError(
                f"adapter.start_from: {file} is a {source.kind}, the run trains a {adapter.kind}: set adapter.kind="
                f"{source.kind}, or {other}."
            )
        mine[site.key] = _taken(site, mine[site.key], source, given[source.key], file, resize)
        taken += 1
    if not taken:
        raise UserError(f"adapter.start_from: {file} has none of the modules that this run trains.")
    adapter.load({f"{name}.{ending}": tensor for name, own in mine.items() for ending, tensor in own.items()})
    left = f", {len(theirs) - taken} of its modules not trained here" if len(theirs) > taken else ""
    rest = len(adapter.sites) - taken
    fresh = f", {count(rest, 'module')} {'begins' if rest == 1 else 'begin'} at nothing" if rest else ""
    return f"Starting from {file.name}: {count(taken, 'module')}{left}{fresh}."


def _taken(
    site: Site, mine: dict[str, Tensor], source: Site, theirs: dict[str, Tensor], file: Path, resize: bool
) -> dict[str, Tensor]:
    """The module's tensors as our file would hold them, with the ΔW of theirs."""
    own = {ending: tensor.float() for ending, tensor in theirs.items() if ending != "alpha"}
    if own.keys() == mine.keys() - {"alpha"} and all(own[ending].shape == mine[ending].shape for ending in own):
        factor = source.scale / (site.alpha / site.rank)
        return {**site.maker.multiplied(own, factor), "alpha": mine["alpha"]}
    if resize and site.kind == "lora":
        return _resized(site, mine, theirs)
    wide = mine.get("lora_down.weight", next(iter(mine.values()))).shape[-1] == 3
    setting = "adapter.conv_rank" if wide else "adapter.rank"
    how = f"set {setting}={source.rank}"
    if site.kind == "lora":
        how = f"set {setting}={source.rank}, or adapter.start_resize=true"
    raise UserError(
        f"adapter.start_from: {file} has dim {source.rank} in {source.key} where this run has {site.rank}: {how}."
    )


def _resized(site: Site, mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The nearest ΔW of our rank. Where ours is higher, the ranks to spare begin as fresh ones do."""
    whole = factors(theirs)
    near = truncated(whole, min(site.rank, whole.rank))
    down, up = (mine[ending].flatten(1).clone() for ending in ("lora_down.weight", "lora_up.weight"))
    down[: near.rank] = near.down.float()
    up.zero_()
    up[:, : near.rank] = near.up.float() / (site.alpha / site.rank)
    return {
        "lora_down.weight": down.view_as(mine["lora_down.weight"]),
        "lora_up.weight": up.view_as(mine["lora_up.weight"]),
        "alpha": mine["alpha"],
    }
