"""The kinds of adapter: what PEFT is asked for, and which weights stand under which names in a file.

The names are kohya's for LoRA and LyCORIS' for the others, which is what A1111, Forge and ComfyUI load. torch and
PEFT are imported inside: listing the kinds is cheap.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from trainer.config import AdapterConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Parameter

    from trainer.adapters.sites import Site

NAME = "default"  # PEFT keeps several adapters by name; there is only ever this one
Own = dict[str, "Tensor"]  # a module's tensors by what stands behind its name in the file


class Kind(ABC):
    """One kind. Stateless: everything is told the PEFT layer, the site or the module's own tensors."""

    endings: tuple[str, ...]  # of the tensors that are trained, in the order of a file
    scaled: tuple[str, ...]  # the ending that takes up a factor of ΔW: the first of these that is there
    unit_scale = False  # stores its matrices so that alpha equals the rank
    pairs = False  # has a lower and an upper matrix, which LoRA+ tells apart, and whose ranks can be dropped

    @abstractmethod
    def peft_config(self, sites: list[Site], settings: AdapterConfig) -> Any:
        """The PEFT configuration for sites of one component and of this kind."""

    @abstractmethod
    def weights(self, layer: Any) -> dict[str, Parameter]:
        """The layer's trained weights by their endings in the file."""

    @abstractmethod
    def start(self, layer: Any, generator: torch.Generator) -> None:
        """First values, from `generator` alone; the layer then changes nothing."""

    @abstractmethod
    def rank(self, own: Own) -> int | None:
        """The rank that alpha is divided by in a file, None where there is none and the scale is 1."""

    @abstractmethod
    def shape(self, own: Own) -> tuple[int, ...]:
        """(out, in, …) of the ΔW that these tensors make."""

    def multiplied(self, own: Own, factor: float) -> Own:
        """The same tensors with `factor` times their ΔW."""
        ending = next(ending for ending in self.scaled if ending in own)
        return own if factor == 1 else {**own, ending: own[ending] * factor}

    def prepare(self, layer: Any, settings: AdapterConfig) -> None:  # noqa: B027 - not every kind needs any
        """What the layer needs beyond what PEFT made."""

    def fit(self, layer: Any, own: Own) -> None:  # noqa: B027 - the rank says it all where PEFT knows no other shapes
        """Give the layer's weights the shapes of a file's; its first values come later."""

    def scale(self, layer: Any, scale: float, strength: float) -> None:
        layer.scaling[NAME] = scale * strength

    def change_norm(self, layer: Any) -> Tensor:
        """‖ΔW‖ at full strength."""
        return layer.get_delta_weight(NAME).norm()


class Lora(Kind):
    """Two thin matrices, or for a convolution a thin one and a 1×1 one (Hu et al., LoRA, 2021; cloneofsimo, kohya)."""

    endings = ("lora_down.weight", "lora_up.weight")
    scaled = ("lora_up.weight",)
    pairs = True

    def peft_config(self, sites: list[Site], settings: AdapterConfig) -> Any:
        from peft import LoraConfig
        from torch import nn

        from trainer.adapters.layers import LoraConv2d, LoraLinear

        config = LoraConfig(lora_dropout=0.0, bias="none", **_ranks(sites, "lora_alpha"))
        config._register_custom_module({nn.Linear: LoraLinear, nn.Conv2d: LoraConv2d})
        return config

    def prepare(self, layer: Any, settings: AdapterConfig) -> None:
        layer.dropout = settings.dropout
        layer.rank_dropout = settings.rank_dropout
        layer.module_dropout = settings.module_dropout

    def weights(self, layer: Any) -> dict[str, Parameter]:
        return dict(zip(Lora.endings, (layer.down, layer.up), strict=True))

    def start(self, layer: Any, generator: torch.Generator) -> None:
        _kaiming(layer.down, generator)
        layer.up.data.zero_()

    def rank(self, own: Own) -> int | None:
        return own["lora_down.weight"].shape[0]

    def shape(self, own: Own) -> tuple[int, ...]:
        return (own["lora_up.weight"].shape[0], *own["lora_down.weight"].shape[1:])

    def scale(self, layer: Any, scale: float, strength: float) -> None:
        layer.scaling[NAME], layer.strength = scale, strength

    def change_norm(self, layer: Any) -> Tensor:
        return layer.change_norm()


class Dora(Lora):
    """LoRA that learns the size of each input's weights apart from their direction (Liu et al., DoRA, 2024).

    A1111 multiplies alpha / rank onto the finished change and ComfyUI onto the matrices, so files hold alpha = rank.
    """

    endings = (*Lora.endings, "dora_scale")
    unit_scale = True

    def prepare(self, layer: Any, settings: AdapterConfig) -> None:
        super().prepare(layer, settings)
        layer.add_magnitude()

    def weights(self, layer: Any) -> dict[str, Parameter]:
        return {**super().weights(layer), "dora_scale": layer.magnitude}


class Lycoris(Kind):
    """What PEFT's own layers need to serve a base in half precision."""

    def prepare(self, layer: Any, settings: AdapterConfig) -> None:
        from trainer.adapters.layers import computing_as_input

        layer.__class__ = computing_as_input(type(layer))


class Loha(Lycoris):
    """The element-wise product of two LoRAs: rank² from the size of two (Hyeon-Woo et al., FedPara, 2022; LyCORIS)."""

    endings = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
    scaled = ("hada_w1_a",)

    def peft_config(self, sites: list[Site], settings: AdapterConfig) -> Any:
        from peft import LoHaConfig

        return LoHaConfig(**_dropouts(settings), **_ranks(sites, "alpha"))

    def weights(self, layer: Any) -> dict[str, Parameter]:
        return _present(layer, self.endings)

    def fit(self, layer: Any, own: Own) -> None:
        _fit(layer, self.endings, own)

    def start(self, layer: Any, generator: torch.Generator) -> None:
        # LyCORIS' first values, which the learning rates people know belong to.
        for ending, deviation in zip(self.endings, (0.1, 1.0, 0.0, 1.0), strict=False):
            weight = getattr(layer, ending)[NAME]
            _normal(weight, deviation, generator)

    def rank(self, own: Own) -> int | None:
        return own["hada_w1_b"].shape[0]

    def shape(self, own: Own) -> tuple[int, ...]:
        if "hada_t1" in own:
            return (own["hada_w1_a"].shape[1], own["hada_w1_b"].shape[1], *own["hada_t1"].shape[2:])
        return (own["hada_w1_a"].shape[0], own["hada_w1_b"].shape[1])


class Lokr(Lycoris):
    """The Kronecker product of a small matrix and a LoRA: the smallest files (Edalati et al., KronA, 2022; LyCORIS)."""

    endings = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    scaled = ("lokr_w1", "lokr_w1_a")

    def peft_config(self, sites: list[Site], settings: AdapterConfig) -> Any:
        from peft import LoKrConfig

        factor = settings.lokr_factor or -1
        return LoKrConfig(decompose_factor=factor, **_dropouts(settings), **_ranks(sites, "alpha"))

    def weights(self, layer: Any) -> dict[str, Parameter]:
        return _present(layer, self.endings)

    def fit(self, layer: Any, own: Own) -> None:
        _fit(layer, self.endings, own)

    def start(self, layer: Any, generator: torch.Generator) -> None:
        for ending, weight in self.weights(layer).items():
            if ending in ("lokr_w2", "lokr_w2_b"):  # LyCORIS leaves the second factor at zero
                weight.data.zero_()
            else:
                _kaiming(weight, generator)

    def rank(self, own: Own) -> int | None:
        """Of the second factor, else of the first; two full matrices have none, and every tool takes scale 1."""
        thin = own.get("lokr_w2_b", own.get("lokr_w1_b"))
        return None if thin is None else thin.shape[0]

    def shape(self, own: Own) -> tuple[int, ...]:
        first = _factor(own, "lokr_w1")
        second = _factor(own, "lokr_w2")
        if "lokr_t2" in own:
            second = (own["lokr_w2_a"].shape[1], own["lokr_w2_b"].shape[1], *own["lokr_t2"].shape[2:])
        return (first[0] * second[0], first[1] * second[1], *second[2:])


KINDS: dict[str, Kind] = {"lora": Lora(), "locon": Lora(), "dora": Dora(), "loha": Loha(), "lokr": Lokr()}

# What tells the kind of a module in a file, the most particular first.
SIGNS = {
    "lokr": ({"lokr_w1", "lokr_w2"}, {"lokr_w1_a", "lokr_w1_b", "lokr_w2"}, {"lokr_w1", "lokr_w2_a", "lokr_w2_b"},
             {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"}),
    "loha": ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},),
    "dora": ({"lora_down.weight", "lora_up.weight", "dora_scale"},),
    "lora": ({"lora_down.weight", "lora_up.weight"},),
}  # fmt: skip


def kind_of(endings: set[str]) -> str | None:
    """The kind whose tensors these are, all of them and nothing more but an alpha; None when there is none."""
    for name, signs in SIGNS.items():
        known = {*KINDS[name].endings, "alpha"}
        if any(sign <= endings for sign in signs) and endings <= known:
            return name
    return None


# ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────


def _ranks(sites: list[Site], alpha: str) -> dict[str, Any]:
    """Each module's own rank for a PEFT configuration; scales are set afterwards."""
    import re

    ranks = {site.path: site.rank for site in sites}
    # One alternation per value: PEFT tries every pattern on every module.
    patterns = {
        "|".join(re.escape(path) for path in ranks if ranks[path] == value): value
        for value in dict.fromkeys(ranks.values())
    }
    return {
        "r": sites[0].rank,
        alpha: sites[0].rank,
        "target_modules": list(ranks),
        "rank_pattern": patterns if len(patterns) > 1 else {},
    }


def _dropouts(settings: AdapterConfig) -> dict[str, float]:
    return {"rank_dropout": settings.rank_dropout, "module_dropout": settings.module_dropout}


def _present(layer: Any, endings: tuple[str, ...]) -> dict[str, Parameter]:
    return {ending: getattr(layer, ending)[NAME] for ending in endings if NAME in getattr(layer, ending)}


def _fit(layer: Any, endings: tuple[str, ...], own: Own) -> None:
    """A LyCORIS file may divide a weight in any of several ways: PEFT's layers compute with what is there."""
    import torch

    device = next(iter(_present(layer, endings).values())).device
    for ending in endings:
        weights = getattr(layer, ending)
        if NAME in weights:
            del weights[NAME]
        if ending in own:
            weights[NAME] = torch.nn.Parameter(torch.empty(own[ending].shape, device=device))


def _factor(own: Own, name: str) -> tuple[int, ...]:
    return tuple(own[name].shape) if name in own else (own[f"{name}_a"].shape[0], own[f"{name}_b"].shape[1])


def _kaiming(weight: Parameter, generator: torch.Generator) -> None:
    """Kaiming-uniform with a = √5, as kohya and LyCORIS begin."""
    import torch

    fresh = torch.empty(weight.shape)
    torch.nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
    weight.data.copy_(fresh)


def _normal(weight: Parameter, deviation: float, generator: torch.Generator) -> None:
    import torch

    weight.data.copy_(torch.randn(weight.shape, generator=generator) * deviation)
