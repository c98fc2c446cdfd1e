"""The weights of a frozen layer, however they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def weight_of(layer: nn.Module) -> Tensor:
    """A layer's weight as numbers: bitsandbytes' 4- and 8-bit layers and our 8-bit floats are unpacked."""
    if hasattr(layer, "unpacked"):
        return layer.unpacked()
    kind = type(layer.weight).__name__
    if kind == "Int8Params":
        return layer.state.CB.float() * (layer.state.SCB.float()[:, None] / 127)
    if kind == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.weight


def shape_of(layer: nn.Module) -> tuple[int, ...]:
    """Shape of the weight as numbers: packed ones have another."""
    if hasattr(layer, "in_features"):
        return (layer.out_features, layer.in_features)
    return tuple(layer.weight.shape)
