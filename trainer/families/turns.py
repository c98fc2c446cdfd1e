"""The parts of a base one after the other on a card that cannot hold all of them, as A1111's --medvram does it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def needed(weights: int, memory: int) -> bool:
    """Whether weights of so many bytes leave a card too little for the work: decoding one SDXL picture takes 3 GB."""
    return weights > memory / 2


class Turns:
    """Each part comes to the card when it works, and the others leave it.

    Frozen weights keep their place in main memory, where that of the file they are mapped from may do: leaving copies
    none of them.
    """

    def __init__(self, parts: Sequence[nn.Module], device: str | torch.device):
        self.device, self.at_work = torch.device(device), ()
        children = {child for part in parts for child in part.modules()}
        self._home = {child: {name: kept.data for name, kept in _weights(child)} for child in children}

    def bring(self, *parts: nn.Module) -> None:
        if parts == self.at_work:
            return
        for part in self.at_work:
            if part not in parts:
                self._leave(part)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        for part in parts:
            part.to(self.device)
        self.at_work = parts

    def _leave(self, part: nn.Module) -> None:
        for child in part.modules():
            home = self._home.get(child, {})  # an adapter that was put in has none
            for name, weight in _weights(child):
                # A VAE that overflowed has become float32 since.
                if name in home and home[name].dtype == weight.dtype:
                    child._parameters[name] = nn.Parameter(home[name], requires_grad=False)
        part.to("cpu")


def _weights(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in module._parameters.items() if weight is not None]
