"""PEFT's LoRA layers with kohya's arithmetic: its three dropouts, its axis of DoRA, and cheap 1×1 convolutions.

ΔW = up · down · scale. With DoRA (Liu et al. 2024) the weight becomes (W + ΔW) · m / ‖W + ΔW‖, with one
magnitude m and one norm for each *input* channel: A1111 and ComfyUI read this axis alike. Since it scales
columns, it is the same as scaling the layer's input, and costs no second product with W.
"""

from __future__ import annotations

import math

import torch
from peft.tuners.lora import Conv2d as PeftConv2d
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional

from trainer.adapters.frozen import weight_of

NAME = "default"  # PEFT keeps several adapters by name; there is only ever this one


class _Kohya:
    """What both layers share. `strength` is the weight in <lora:name:weight>, `scaling` alpha / rank without it."""

    strength = 1.0
    dropout = rank_dropout = module_dropout = 0.0

    @property
    def down(self) -> nn.Parameter:
        return self.lora_A[NAME].weight

    @property
    def up(self) -> nn.Parameter:
        return self.lora_B[NAME].weight

    def add_magnitude(self) -> None:
        """Make it a DoRA: the magnitudes are those of the base's weights, so at first nothing changes."""
        self.lora_magnitude_vector[NAME] = nn.ParameterList([nn.Parameter(self._norm(weight_of(self.base_layer)))])

    @property
    def magnitude(self) -> nn.Parameter | None:
        """[1, in] for a linear, [1, in, 1, 1] for a convolution."""
        return self.lora_magnitude_vector[NAME][0] if NAME in self.lora_magnitude_vector else None

    def forward(self, x: Tensor) -> Tensor:
        if self.disable_adapters or (self.training and 0 < self.module_dropout > float(torch.rand(()))):
            return self.base_layer(x)
        turned, strength = x, self.strength
        if self.magnitude is not None:
            turn = self._turn()
            turned = (x * turn).to(x.dtype)  # in float32: bfloat16 has no number between 1 and 1.008
            x = turned if strength == 1 else (x * (1 - strength + strength * turn)).to(x.dtype)
        result = self.base_layer(x)
        return result + (self._delta(turned) if strength else 0)

    def _turn(self) -> Tensor:
        """m / ‖W + ΔW‖; the norm is a constant to the gradient, as in section 4.3 of the paper."""
        with torch.no_grad():
            weight = weight_of(self.base_layer)
            change = (self.up.flatten(1).float() @ self.down.flatten(1).float()).view(weight.shape)
            norm = self._norm(weight + self.scaling[NAME] * change)
        return self.magnitude / norm

    @staticmethod
    def _norm(weight: Tensor) -> Tensor:
        axes = tuple(axis for axis in range(weight.ndim) if axis != 1)
        # A column of zeros has no direction to scale.
        return torch.linalg.vector_norm(weight.float(), dim=axes, keepdim=True).clamp(
            min=torch.finfo(torch.float32).tiny
        )

    def _delta(self, x: Tensor) -> Tensor:
        """ΔW · x · strength, in the dtype of x. Under autocast the matrices follow it, else the input follows them."""
        dtype = x.dtype
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.down.dtype)
        # The factor goes onto the few ranks and not onto the wide output.
        scale = self.scaling[NAME] * self.strength
        ranks = self._down(x)
        if self.training and self.dropout:
            ranks = functional.dropout(ranks, self.dropout)
        if self.training and self.rank_dropout:
            kept = torch.rand(self._mask_shape(ranks), device=ranks.device) > self.rank_dropout
            ranks = ranks * kept
            scale = scale / (1 - self.rank_dropout)
        return self._up(ranks * scale).to(dtype)

    def change_norm(self) -> Tensor:
        """‖ΔW‖, from the two r × r Gram matrices: ΔW itself need not be made."""
        up, down = self.up.flatten(1).float(), self.down.flatten(1).float()
        square = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0)
        return square.sqrt() * abs(self.scaling[NAME])


class LoraLinear(_Kohya, PeftLinear):
    def _down(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.down)

    def _up(self, ranks: Tensor) -> Tensor:
        return functional.linear(ranks, self.up)

    def _mask_shape(self, ranks: Tensor) -> tuple[int, ...]:
        return (len(ranks), *(1,) * (ranks.ndim - 2), ranks.shape[-1])


class LoraConv2d(_Kohya, PeftConv2d):
    def _down(self, x: Tensor) -> Tensor:
        base = self.base_layer
        if math.prod(base.kernel_size) * math.prod(base.stride) == 1:
            return pointwise(x, self.down)
        return functional.conv2d(x, self.down, None, base.stride, base.padding, base.dilation)

    def _up(self, ranks: Tensor) -> Tensor:
        return pointwise(ranks, self.up)

    def _mask_shape(self, ranks: Tensor) -> tuple[int, ...]:
        return (*ranks.shape[:2], 1, 1)


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """A 1×1 convolution as the matrix product it is, which small convolution kernels do far more slowly.

    x [B, in, h, w], weight [out, in, 1, 1] → [B, out, h, w], in the memory format of x.
    """
    matrix = weight.flatten(1)
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return functional.linear(x.permute(0, 2, 3, 1), matrix).permute(0, 3, 1, 2)
    return torch.matmul(matrix, x.flatten(2)).unflatten(2, x.shape[2:])
