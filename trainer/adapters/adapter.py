"""An adapter on a base model: attach, read, load, scale, detach.

Tensors go in and out under the keys of a kohya or LyCORIS file, so what is trained, saved, resumed and rendered
is one and the same dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainer.adapters.kinds import NAME
from trainer.adapters.sites import Site, modules_in, sites_of, sites_to_train
from trainer.config import AdapterConfig
from trainer.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Parameter

    from trainer.families import BaseModel


class Adapter:
    """Adapter layers sitting on a BaseModel. Made by `attach` (to train) or `from_file` (to render)."""

    def __init__(self, model: BaseModel, sites: list[Site], settings: AdapterConfig, *, trainable: bool):
        self.model = model
        self.trainable = trainable
        self._settings = settings
        self._sites: list[Site] = []
        self._layers: dict[str, Any] = {}
        self._strength = (1.0, 1.0)
        self._inject(sites)

    # ── making and removing ─────────────────────────────────────────────────────────────────────────

    @classmethod
    def attach(
        cls,
        model: BaseModel,
        config: AdapterConfig,
        *,
        seed: int,
        trains: Callable[[str, str], bool] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Adapter:
        """Put fresh layers of `config.kind` on the UNet and, if `config.text_encoder`, on the text encoders.

        `trains(component, block)` leaves out what does not learn. Weights are float32 unless `dtype` says
        otherwise; their first values come from `seed` alone, and the model's output does not change by a single
        bit until something is learned. Raises UserError when the settings leave nothing to train.
        """
        import torch

        asked = trains or (lambda component, block: True)
        sites = sites_to_train(
            model, config, lambda part, block: asked(part, block) and (config.text_encoder or part == "unet")
        )
        adapter = cls(model, sites, config, trainable=True)
        generator = torch.Generator().manual_seed(seed)
        for place, site in enumerate(adapter._sites):
            layer = adapter._layers[site.key]
            site.maker.start(layer, generator)
            if site.maker.rank(site.maker.weights(layer)) is None:
                adapter._sites[place] = replace(site, scale=1.0, alpha=float(site.rank))
        for parameter in adapter.parameters():
            parameter.data = parameter.data.to(dtype or torch.float32)
        adapter.set_strength(1.0)
        return adapter

    @classmethod
    def from_file(cls, model: BaseModel, tensors: dict[str, Tensor]) -> Adapter:
        """Put the adapter of a file (`kohya.read(path).tensors`) on the model for rendering, frozen.

        Kinds, ranks, alphas and modules are read off the tensors. Raises UserError when it is made for another
        architecture or of a kind that is not known.
        """
        adapter = cls(model, sites_of(model, tensors), AdapterConfig(), trainable=False)
        adapter._fit(tensors)
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
            for component, kind in dict.fromkeys((site.component, site.kind) for site in sites):
                own = [site for site in sites if (site.component, site.kind) == (component, kind)]
                config = own[0].maker.peft_config(own, self._settings)
                if hasattr(modules[component], "peft_config"):
                    del modules[component].peft_config  # of another kind on the same component; only PEFT's notes
                inject_adapter_in_model(config, modules[component], adapter_name=NAME)
        self._sites = sites
        self._layers = {site.key: modules[site.component].get_submodule(site.path) for site in sites}
        for site in sites:
            site.maker.prepare(self._layers[site.key], self._settings)
        self._own_weights()
        self.set_strength(*self._strength)

    def _own_weights(self) -> None:
        for parameter in self.parameters():
            # PEFT gives new weights the base's dtype; a LoRA is trained in float32 whatever the base is in.
            parameter.data = parameter.data.float()
            parameter.requires_grad_(self.trainable)

    def _fit(self, tensors: dict[str, Tensor]) -> None:
        """Give the weights the shapes that those of a file have."""
        own = modules_in(tensors)
        for site in self._sites:
            site.maker.fit(self._layers[site.key], own[site.key])
        self._own_weights()

    # ── weights ─────────────────────────────────────────────────────────────────────────────────────

    def named_parameters(self, component: str | None = None) -> list[tuple[str, Parameter]]:
        """(kohya key, weight) pairs in a stable order; of one component, or of all. "text_encoder" means the
        first one only: SDXL's second is "text_encoder_2"."""
        return [
            (f"{site.key}.{ending}", weight)
            for site in self._sites
            if component in (None, site.component)
            for ending, weight in site.maker.weights(self._layers[site.key]).items()
        ]

    def parameters(self, component: str | None = None) -> list[Parameter]:
        return [weight for _, weight in self.named_parameters(component)]

    @property
    def sites(self) -> list[Site]:
        return list(self._sites)

    @property
    def kind(self) -> str:
        return self._settings.kind

    @property
    def components(self) -> list[str]:
        """The components that carry LoRA layers, UNet first."""
        return list(dict.fromkeys(site.component for site in self._sites))

    def groups(self) -> dict[tuple[str, str, bool], list[Parameter]]:
        """The weights by (component, block, whether it is the upper matrix of a pair), for their learning rates."""
        found: dict[tuple[str, str, bool], list[Parameter]] = {}
        for site in self._sites:
            for ending, weight in site.maker.weights(self._layers[site.key]).items():
                upper = site.maker.pairs and ending == "lora_up.weight"
                found.setdefault((site.component, site.block, upper), []).append(weight)
        return found

    def tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """A copy of all weights and alphas on the CPU, as a file holds them; float32 or `dtype`."""
        import torch

        dtype = dtype or torch.float32
        found: dict[str, Tensor] = {}
        for site in self._sites:
            own = {key: value.detach() for key, value in site.maker.weights(self._layers[site.key]).items()}
            for ending, weight in site.maker.multiplied(own, site.fold).items():
                found[f"{site.key}.{ending}"] = weight.to("cpu", dtype, copy=True).contiguous()
            # Not every alpha is a round number: rank-stabilised ones are irrational.
            kind = dtype if float(torch.tensor(site.alpha, dtype=dtype)) == site.alpha else torch.float32
            found[f"{site.key}.alpha"] = torch.tensor(site.alpha, dtype=kind)
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over the weights of a file.

        When training, they must fit exactly: raises UserError naming the first key that is missing, unknown or
        of another shape. When rendering, a file of other ranks or modules takes the place of this one.
        """
        if self.trainable:
            _check(self.tensors(), tensors)
            return self._fill(tensors)
        sites = sites_of(self.model, tensors)
        if sites != self._sites or any(tensors[key].shape != now.shape for key, now in self.named_parameters()):
            self.detach()
            self._inject(sites)
            self._fit(tensors)
        return self._fill(tensors)

    def exact(self) -> dict[str, Tensor]:
        """All weights as they are trained, in float32, for the state that a resumed run goes on from."""
        return {key: weight.detach().float().cpu().clone() for key, weight in self.named_parameters()}

    def load_exact(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `exact` gave. Raises UserError when the keys or shapes differ."""
        import torch

        _check(dict(self.named_parameters()), tensors)
        with torch.no_grad():
            for key, weight in self.named_parameters():
                weight.copy_(tensors[key])

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        import torch

        own = modules_in(tensors)
        with torch.no_grad():
            for site in self._sites:
                weights = site.maker.weights(self._layers[site.key])
                values = {ending: own[site.key][ending].float() for ending in weights}
                for ending, value in site.maker.multiplied(values, 1 / site.fold).items():
                    weights[ending].copy_(value)

    def limit_norms(self, largest: float) -> None:
        """Scale back every module whose ‖ΔW‖ has grown beyond `largest`, each of its matrices by the same share.

        Max-norm regularisation as kohya's scale_weight_norms; nothing waits for the device.
        """
        import torch

        with torch.no_grad():
            for site in self._sites:
                layer = self._layers[site.key]
                norm = site.maker.change_norm(layer).clamp(min=largest / 2)
                matrices = [weight for key, weight in site.maker.weights(layer).items() if key != "dora_scale"]
                torch._foreach_mul_(matrices, (largest / norm).clamp(max=1) ** (1 / len(matrices)))

    # ── strength ────────────────────────────────────────────────────────────────────────────────────

    def set_strength(self, strength: float, text_encoder: float | None = None) -> None:
        """Weight of the LoRA as in <lora:name:text_encoder:strength>; the text encoders' defaults to the UNet's."""
        self._strength = (strength, strength if text_encoder is None else text_encoder)
        for site in self._sites:
            site.maker.scale(self._layers[site.key], site.scale, self._strength[site.component != "unet"])

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


def _check(ours: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
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
