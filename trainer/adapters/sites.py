"""Where an adapter sits: which modules a run trains, at which rank, and where the tensors of a file belong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from trainer import blocks
from trainer.adapters.frozen import shape_of
from trainer.adapters.kinds import KINDS, Kind, kind_of
from trainer.config import AdapterConfig
from trainer.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.families import BaseModel


@dataclass(frozen=True)
class Site:
    """One module that gets an adapter: where it is, what it is called in the file, and how large it is."""

    component: str
    path: str
    key: str
    block: str
    kind: str
    rank: int
    scale: float  # of ΔW at full strength
    alpha: float  # as the file has it: other tools take alpha / rank for the scale
    fold: float = 1.0  # what the file's matrices hold beyond ours, because its alpha does not say it

    @property
    def maker(self) -> Kind:
        return KINDS[self.kind]


# ── of a run ────────────────────────────────────────────────────────────────────────────────────────────


def sites_to_train(model: BaseModel, config: AdapterConfig, trains: Callable[[str, str], bool]) -> list[Site]:
    """The modules that a run trains. `trains(component, block)` says whether a part learns at all.

    Raises UserError when nothing is left, or a pattern of `adapter.only` fits no module.
    """
    sites = []
    for component, module in model.modules().items():
        paths = model.family.lora_targets(component, module)
        if conv_size(config):
            paths = paths + model.family.conv_targets(component, module)
        for path in paths:
            block = model.family.block(component, path, model.unet)
            if trains(component, block) and _is_target(config.targets, path):
                key = model.family.kohya_name(component, path, model.unet)
                sites.append(_site(config, component, path, key, block, module.get_submodule(path)))
    sites = _chosen([site for site in sites if site is not None], config.only)
    if not sites:
        raise UserError(
            "Nothing is left to train: adapter.targets, adapter.only, adapter.block_ranks and the learning rates leave "
            "out every module."
        )
    return sites


def conv_size(config: AdapterConfig) -> int:
    """Rank of the 3×3 convolutions; 0 when they are not trained."""
    return config.conv_rank or (config.rank if config.kind == "locon" else 0)


def _site(config: AdapterConfig, component: str, path: str, key: str, block: str, module: nn.Module) -> Site | None:
    wide = math.prod(getattr(module, "kernel_size", (1,))) > 1
    rank, alpha = config.rank, config.alpha
    if wide:
        rank = conv_size(config)
        alpha = config.conv_alpha or config.alpha / config.rank * rank
    own_rank = blocks.parse(config.block_ranks, "adapter.block_ranks").get(block)
    own_alpha = blocks.parse(config.block_alphas, "adapter.block_alphas").get(block)
    linear = config.rank if own_rank is None else own_rank
    if linear != config.rank:
        # Convolutions keep their proportion to the rest of the block.
        size = max(1, round(linear * rank / config.rank)) if linear else 0
        rank, alpha = size, alpha / rank * size
    if own_alpha is not None and linear:
        alpha *= own_alpha / (config.alpha / config.rank * linear)
    if not rank or not alpha:
        return None
    scale = alpha / (math.sqrt(rank) if config.rslora else rank)
    kind = "lora" if config.kind == "locon" else config.kind
    if KINDS[kind].unit_scale:
        return Site(component, path, key, block, kind, rank, scale, float(rank), scale)
    return Site(component, path, key, block, kind, rank, scale, scale * rank)


def _is_target(targets: str, path: str) -> bool:
    attention = {"attention": (".attn1.", ".attn2.", ".self_attn."), "cross_attention": (".attn2.", ".self_attn.")}
    return targets == "all" or any(part in path for part in attention[targets])


def _chosen(sites: list[Site], patterns: str) -> list[Site]:
    """The sites that `adapter.only` names. Later patterns overrule earlier ones."""

    def matches(site: Site, pattern: str) -> bool:
        return fnmatchcase(site.key, pattern) or fnmatchcase(site.block, pattern.upper())

    given = patterns.replace(",", " ").split()
    for pattern in given:
        if sites and not any(matches(site, pattern.lstrip("!")) for site in sites):
            raise UserError(
                f"adapter.only: no module fits {pattern!r}; give blocks such as IN04 or OUT0*, or names such as "
                f"{sites[0].key} with * for any part."
            )
    if not given:
        return sites
    only_out = all(pattern.startswith("!") for pattern in given)

    def kept(site: Site) -> bool:
        fitting = [pattern for pattern in given if matches(site, pattern.lstrip("!"))]
        return not fitting[-1].startswith("!") if fitting else only_out

    return [site for site in sites if kept(site)]


# ── of a file ───────────────────────────────────────────────────────────────────────────────────────────


def modules_in(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file by module name, then by what stands behind it."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, ending = key.partition(".")
        found.setdefault(name, {})[ending] = tensor
    return found


def sites_of(model: BaseModel, tensors: dict[str, Tensor]) -> list[Site]:
    """Where the tensors of a file belong on this model. Raises UserError when they do not."""
    places = places_of(model)
    sites = []
    for name, own in modules_in(tensors).items():
        if name not in places:
            raise UserError(
                f"This LoRA does not fit {model.name} ({model.family.title}): the model has no module for {name}. "
                "Use the kind of base it was trained on."
            )
        component, path, module = places[name]
        kind = kind_of(set(own))
        if kind is None:
            raise UserError(
                f"{name} cannot be loaded here (it has {', '.join(own)}): LoRA, LoCon, DoRA, LoHa and LoKr can, whole "
                "and in the names of kohya and LyCORIS."
            )
        _check_shapes(name, module, kind, own)
        rank = KINDS[kind].rank(own)
        # Without an alpha every tool takes scale 1, and so it does where there is no rank to divide it by.
        alpha = float(own["alpha"]) if "alpha" in own else float(rank or 1)
        block = model.family.block(component, path, model.unet)
        scale = alpha / rank if rank else 1.0
        sites.append(Site(component, path, name, block, kind, rank or 1, scale, alpha))
    order = {key: index for index, key in enumerate(places)}
    return sorted(sites, key=lambda site: order[site.key])


def _check_shapes(name: str, module: nn.Module, kind: str, own: dict[str, Tensor]) -> None:
    weight, made = shape_of(module), KINDS[kind].shape(own)
    fits = made[0] == weight[0] and math.prod(made[1:]) == math.prod(weight[1:])
    if "lora_down.weight" in own:
        down, up = own["lora_down.weight"], own["lora_up.weight"]
        fits = fits and down.shape[1:] == weight[1:] and up.shape[1] == down.shape[0]
    if not fits:
        shapes = " and ".join(str(list(tensor.shape)) for ending, tensor in own.items() if ending != "alpha")
        raise UserError(
            f"This LoRA does not fit the base: {name} has shapes {shapes} where the model's weight is {list(weight)}. "
            "Use the kind of base it was trained on."
        )
    scale = own.get("dora_scale")
    if scale is not None and tuple(scale.shape) != (1, weight[1], *(1,) * (len(weight) - 2)):
        raise UserError(
            f"{name} is a DoRA with its sizes along the output ({list(scale.shape)}), which A1111 and ComfyUI read "
            "differently: it cannot be loaded here."
        )


def places_of(model: BaseModel) -> dict[str, tuple[str, str, nn.Module]]:
    """Every name that a LoRA file may use for a module of this model -> (component, path, bare module)."""
    from torch import nn

    found: dict[str, tuple[str, str, nn.Module]] = {}
    for component, module in model.modules().items():
        bare = {path.replace(".base_layer", ""): child for path, child in _bare_modules(module)}
        for path, child in bare.items():
            if isinstance(child, (nn.Linear, nn.Conv2d)):
                place = (component, path, child)
                found[model.family.kohya_name(component, path, model.unet)] = place
                if component == "unet":  # files that call SDXL's blocks by diffusers' names are about as well
                    found.setdefault("lora_unet_" + path.replace(".", "_"), place)
    return found


def _bare_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules as they were before PEFT: neither its wrappers nor what is inside them but the base layer."""
    for path, child in module.named_modules():
        wrapped = hasattr(child, "base_layer")
        if not wrapped and ".lora_" not in path:
            yield path, child
