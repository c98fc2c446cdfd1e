"""LoRA layers on a base model, through PEFT: attach, read, load, scale, detach. The only place that knows PEFT.

Tensors go in and out under the keys of a kohya LoRA file, so what is trained, saved, resumed and rendered is
one and the same dict. ΔW = up · down · alpha / rank, as kohya defines it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.config import AdapterConfig
from trainer.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import Parameter

    from trainer.families import BaseModel

NAME = "default"  # PEFT keeps several adapters by name; there is only ever this one
ENDINGS = ("lora_down.weight", "lora_up.weight", "alpha")


@dataclass(frozen=True)
class Site:
    """One module that gets a LoRA: where it is, what it is called in the file, and its rank and alpha."""

    component: str
    path: str
    key: str
    rank: int
    alpha: float


class Adapter:
    """LoRA layers sitting on a BaseModel. Made by `attach` (to train) or `from_file` (to render)."""

    def __init__(self, model: BaseModel, sites: list[Site], *, trainable: bool):
        self.model = model
        self.trainable = trainable
        self._sites: list[Site] = []
        self._layers: dict[str, Any] = {}
        self._strength = (1.0, 1.0)
        self._inject(sites)

    # ── making and removing ─────────────────────────────────────────────────────────────────────────

    @classmethod
    def attach(cls, model: BaseModel, config: AdapterConfig, *, seed: int) -> Adapter:
        """Put fresh LoRA layers on the UNet and, if `config.text_encoder`, on the text encoders.

        Weights are float32; down is Kaiming-uniform (a = √5) from `seed` alone, up is zero, so the model's
        output does not change by a single bit until something is learned.
        """
        import torch

        components = model.modules() if config.text_encoder else {"unet": model.unet}
        sites = [
            Site(component, path, model.family.kohya_name(component, path, model.unet), config.rank, config.alpha)
            for component, module in components.items()
            for path in model.family.lora_targets(component, module)
        ]
        adapter = cls(model, sites, trainable=True)
        generator = torch.Generator().manual_seed(seed)
        for layer in adapter._layers.values():
            down, up = _weights(layer)
            with torch.no_grad():
                fresh = torch.empty(down.shape)
                torch.nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                down.copy_(fresh)
                up.zero_()
        return adapter

    @classmethod
    def from_file(cls, model: BaseModel, tensors: dict[str, Tensor]) -> Adapter:
        """Put the LoRA of a file (`kohya.read(path).tensors`) on the model for rendering, frozen.

        Ranks, alphas and modules are read off the tensors; 3×3 convolutions (LoCon) work too. Raises UserError
        when it is no plain LoRA or made for another architecture.
        """
        adapter = cls(model, _sites_of(model, tensors), trainable=False)
        adapter._fill(tensors)
        return adapter

    def detach(self) -> None:
        """Put the original modules back: the inverse of attaching. The adapter is empty afterwards."""
        modules = self.model.modules()
        for site in self._sites:
            parent, _, name = site.path.rpartition(".")
            setattr(modules[site.component].get_submodule(parent), name, self._layers[site.key].base_layer)
        for component in {site.component for site in self._sites}:
            del modules[component].peft_config
        self._sites, self._layers = [], {}

    def _inject(self, sites: list[Site]) -> None:
        import torch
        from peft import inject_adapter_in_model

        modules = self.model.modules()
        occupied = [component for component in modules if hasattr(modules[component], "peft_config")]
        if occupied:
            raise RuntimeError(f"there is already an adapter on {', '.join(occupied)}: detach it first")
        # PEFT draws initial weights from the global generator; they are replaced, so nobody shall notice.
        with torch.random.fork_rng(devices=[]):
            for component in dict.fromkeys(site.component for site in sites):
                own = [site for site in sites if site.component == component]
                inject_adapter_in_model(_peft_config(own), modules[component], adapter_name=NAME)
        self._sites = sites
        self._layers = {site.key: modules[site.component].get_submodule(site.path) for site in sites}
        for parameter in self.parameters():
            # PEFT gives new weights the base's dtype; a LoRA is trained in float32 whatever the base is in.
            parameter.data = parameter.data.float()
            parameter.requires_grad_(self.trainable)
        self.set_strength(*self._strength)

    # ── weights ─────────────────────────────────────────────────────────────────────────────────────

    def named_parameters(self, component: str | None = None) -> list[tuple[str, Parameter]]:
        """(kohya key, weight) pairs in a stable order; of one component, or of all. "text_encoder" means the
        first one only: SDXL's second is "text_encoder_2"."""
        return [
            (f"{site.key}.{ending}", weight)
            for site in self._sites
            if component in (None, site.component)
            for ending, weight in zip(ENDINGS, _weights(self._layers[site.key]), strict=False)
        ]

    def parameters(self, component: str | None = None) -> list[Parameter]:
        return [weight for _, weight in self.named_parameters(component)]

    @property
    def components(self) -> list[str]:
        """The components that carry LoRA layers, UNet first."""
        return list(dict.fromkeys(site.component for site in self._sites))

    def tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """A copy of all weights and alphas on the CPU, under kohya's keys; float32 or `dtype`."""
        import torch

        dtype = dtype or torch.float32
        found: dict[str, Tensor] = {}
        for site in self._sites:
            for ending, weight in zip(ENDINGS, _weights(self._layers[site.key]), strict=False):
                found[f"{site.key}.{ending}"] = weight.detach().to("cpu", dtype, copy=True).contiguous()
            found[f"{site.key}.alpha"] = torch.tensor(site.alpha, dtype=dtype)
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over the weights of `tensors`.

        When training, they must fit exactly: raises UserError naming the first key that is missing, unknown or
        of another shape. When rendering, a file of other ranks or modules takes the place of this one.
        """
        if self.trainable:
            return self.load_exact(tensors)
        sites = _sites_of(self.model, tensors)
        if sites != self._sites:
            self.detach()
            self._inject(sites)
        return self._fill(tensors)

    def exact(self) -> dict[str, Tensor]:
        """All weights in float32, for the state that a resumed run goes on from."""
        return self.tensors()

    def load_exact(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `exact` gave. Raises UserError when the keys or shapes differ."""
        self._check(tensors)
        self._fill(tensors)

    def _check(self, tensors: dict[str, Tensor]) -> None:
        ours = self.tensors()
        for key in [*ours, *tensors]:
            if key not in tensors or key not in ours:
                raise UserError(
                    f"The LoRA does not fit this base and its settings: {key} is "
                    f"{'missing' if key not in tensors else 'not expected'}. Use the base, rank and text encoder "
                    "setting it was trained with."
                )
            if ours[key].shape != tensors[key].shape:
                raise UserError(
                    f"The LoRA does not fit: {key} has shape {list(tensors[key].shape)}, expected "
                    f"{list(ours[key].shape)}. Use the base and rank it was trained with."
                )

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        import torch

        with torch.no_grad():
            for key, weight in self.named_parameters():
                weight.copy_(tensors[key])

    # ── strength ────────────────────────────────────────────────────────────────────────────────────

    def set_strength(self, strength: float, text_encoder: float | None = None) -> None:
        """Weight of the LoRA as in <lora:name:text_encoder:strength>; the text encoders' defaults to the UNet's."""
        self._strength = (strength, strength if text_encoder is None else text_encoder)
        for site in self._sites:
            factor = self._strength[site.component != "unet"]
            self._layers[site.key].scaling[NAME] = factor * site.alpha / site.rank

    @contextmanager
    def enabled(self, on: bool) -> Iterator[None]:
        """`with adapter.enabled(False):` the base model alone, bit for bit."""
        self._switch(on)
        try:
            yield
        finally:
            self._switch(True)

    def _switch(self, on: bool) -> None:
        for layer in self._layers.values():
            layer.enable_adapters(on)
        for parameter in self.parameters():  # PEFT changes it along the way
            parameter.requires_grad_(self.trainable)


def _weights(layer: Any) -> tuple[Parameter, Parameter]:
    return layer.lora_A[NAME].weight, layer.lora_B[NAME].weight


def _peft_config(sites: list[Site]) -> Any:
    """One PEFT config for the sites of one component, each with its own rank and alpha."""
    from peft import LoraConfig

    def pattern(values: dict[str, float]) -> dict[str, float]:
        # One alternation per value: PEFT tries every pattern on every module.
        return {
            "|".join(re.escape(path) for path in values if values[path] == value): value
            for value in dict.fromkeys(values.values())
        }

    ranks, alphas = {site.path: site.rank for site in sites}, {site.path: site.alpha for site in sites}
    uniform = len(set(ranks.values())) == len(set(alphas.values())) == 1
    return LoraConfig(
        r=sites[0].rank,
        lora_alpha=sites[0].alpha,
        target_modules=list(ranks),
        rank_pattern={} if uniform else pattern(ranks),
        alpha_pattern={} if uniform else pattern(alphas),
        bias="none",
        lora_dropout=0.0,
    )


def _sites_of(model: BaseModel, tensors: dict[str, Tensor]) -> list[Site]:
    """Where the tensors of a file belong on this model. Raises UserError when they do not."""
    places = _places(model)
    names = dict.fromkeys(key.partition(".")[0] for key in tensors)
    sites = []
    for name in names:
        if name not in places:
            raise UserError(
                f"This LoRA does not fit {model.name} ({model.family.title}): the model has no module for {name}. "
                "Use the kind of base it was trained on."
            )
        component, path, module = places[name]
        down, up, alpha = (tensors.get(f"{name}.{ending}") for ending in ENDINGS)
        extra = [key for key in tensors if key.startswith(f"{name}.") and key.partition(".")[2] not in ENDINGS]
        if down is None or up is None or extra:
            raise UserError(
                f"{name} is no plain LoRA (it has {', '.join(extra) or 'only one of its two matrices'}): "
                "LoHa, LoKr, DoRA and PEFT files cannot be loaded here."
            )
        _check_shapes(name, module, down, up)
        rank = down.shape[0]
        # Without an alpha every tool takes scale 1.
        sites.append(Site(component, path, name, rank, rank if alpha is None else float(alpha)))
    order = {key: index for index, key in enumerate(places)}
    return sorted(sites, key=lambda site: order[site.key])


def _check_shapes(name: str, module: nn.Module, down: Tensor, up: Tensor) -> None:
    weight = module.weight
    fits = (
        down.ndim == weight.ndim
        and down.shape[1:] == weight.shape[1:]
        and up.shape[:2] == (weight.shape[0], down.shape[0])
    )
    if not fits:
        raise UserError(
            f"This LoRA does not fit the base: {name} has shapes {list(down.shape)} and {list(up.shape)} where the "
            f"model's weight is {list(weight.shape)}. Use the kind of base it was trained on."
        )


def _places(model: BaseModel) -> dict[str, tuple[str, str, nn.Module]]:
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


ADAPTERS = {"lora": Adapter.attach}
