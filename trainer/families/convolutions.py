"""Convolutions as the matrix products they are, where that is far faster: on a CPU, few places and many channels.

oneDNN lays the whole of a convolution's weights out anew at every call, and torch's own small convolution walks them
badly. At the bottom of a UNet, where an answer has 4 to 64 places and the weights 1280² × 9 numbers, that costs up to
ten times the reading of the weights (`benchmarks/train.py --convolutions`). A graphics card has its own kernels, and
keeps them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# How many times the answer's places the channels must be. Below that the unfolded picture outweighs the weights.
WIDE = 8


class ProductConv2d(nn.Conv2d):
    """A convolution that multiplies matrices where this is faster: same weights, same answer but for rounding."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.ndim != 4 or not self._is_plain:
            return super().forward(x)
        height, width = (
            (size + 2 * padding - kernel) // stride + 1
            for size, padding, kernel, stride in zip(
                x.shape[2:], self.padding, self.kernel_size, self.stride, strict=True
            )
        )
        pointwise = self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0)
        if not pointwise and self.out_channels < WIDE * len(x) * height * width:
            return super().forward(x)
        patches = x.flatten(2) if pointwise else functional.unfold(x, self.kernel_size, 1, self.padding, self.stride)
        return product(self.weight.flatten(1), patches, self.bias).unflatten(2, (height, width))

    @property
    def _is_plain(self) -> bool:
        padded = self.padding_mode == "zeros" and isinstance(self.padding, tuple)
        return self.groups == 1 and self.dilation == (1, 1) and padded


def product(matrix: Tensor, columns: Tensor, bias: Tensor | None = None) -> Tensor:
    """matrix [out, in] times columns [B, in, n], plus bias [out] → [B, out, n].

    As one product over all pictures: torch would make one for each, and copy the matrix for them.
    """
    flat = columns.transpose(0, 1).flatten(1)
    answer = torch.mm(matrix, flat) if bias is None else torch.addmm(bias[:, None], matrix, flat)
    return answer.unflatten(1, (len(columns), -1)).transpose(0, 1)


def as_products(module: nn.Module) -> None:
    """Let every convolution inside multiply matrices where this is faster. The weights stay where they are."""
    for inner in module.modules():
        if type(inner) is nn.Conv2d:
            inner.__class__ = ProductConv2d
