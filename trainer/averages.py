"""The moving average of the adapter's weights, which is what an epoch's file holds when it is on."""

from __future__ import annotations

from typing import Any

import torch

from trainer.adapters import Adapter


class Average:
    """diffusers' EMAModel over the adapter's weights; with a decay of 0 every call does nothing.

    The decay rises as (1 + n) / (10 + n) up to the one that was set, so that a short run is averaged as well.
    """

    def __init__(self, adapter: Adapter, decay: float):
        from diffusers.training_utils import EMAModel

        self.adapter = adapter
        self._ema = EMAModel(adapter.parameters(), decay=decay, foreach=True) if decay > 0 else None
        if self._ema is not None:
            self._ema.to(dtype=torch.float32)  # small steps would be lost in fewer bits

    def step(self) -> None:
        """After each update of the weights."""
        if self._ema is not None:
            self._ema.step(self.adapter.parameters())

    def use(self) -> None:
        """Put the average in the place of the trained weights; the caller keeps those."""
        if self._ema is not None:
            self._ema.copy_to(self.adapter.parameters())

    def state(self) -> dict[str, Any] | None:
        return None if self._ema is None else self._ema.state_dict()

    def load(self, state: dict[str, Any] | None) -> None:
        if self._ema is not None and state is not None:
            self._ema.load_state_dict(state)
            self._ema.to(device=self.adapter.parameters()[0].device)
