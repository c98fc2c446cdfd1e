"""PEFT's LoRA layers with kohya's arithmetic: its three dropouts, its axis of DoRA, and cheap 1×1 convolutions.

ΔW = up · down · scale. With DoRA (Liu et al. 2024) the weight becomes (W + ΔW) · m / ‖W + ΔW‖, with one
magnitude m and one norm for each *input* channel: A1111 and ComfyUI read this axis alike. Since it scales
columns, it is the same as scaling the layer's input, and costs no second product with W.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

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
        if self.disable_adapters or _sits_out(self, self.module_dropout):
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
        """ΔW · x · strength, in the dtype of x, which the float32 matrices follow."""
        # The factor goes onto the few ranks and not onto the wide output.
        scale = self.scaling[NAME] * self.strength
        ranks = self._down(x)
        if self.training and self.dropout:
            ranks = functional.dropout(ranks, self.dropout)
        if self.training and self.rank_dropout:
            kept = torch.rand(self._mask_shape(ranks), device=ranks.device) > self.rank_dropout
            ranks = ranks * kept
            scale = scale / (1 - self.rank_dropout)
        return self._up(ranks * scale)

    def change_norm(self) -> Tensor:
        """‖ΔW‖, from the two r × r Gram matrices: ΔW itself need not be made."""
        up, down = self.up.flatten(1).float(), self.down.flatten(1).float()
        square = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0)
        return square.sqrt() * abs(self.scaling[NAME])


class LoraLinear(_Kohya, PeftLinear):
    def forward(self, x: Tensor) -> Tensor:
        base = self.base_layer
        drawn = self.training and (self.dropout or self.rank_dropout or self.module_dropout)
        # A packed base has its own product, and a DoRA another input.
        if self.disable_adapters or drawn or self.magnitude is not None or type(base) is not nn.Linear:
            return super().forward(x)
        return Product.apply(x, base.weight, base.bias, self.down, self.up, self.scaling[NAME] * self.strength)

    def _down(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.down.to(x.dtype))

    def _up(self, ranks: Tensor) -> Tensor:
        return functional.linear(ranks, self.up.to(ranks.dtype))

    def _mask_shape(self, ranks: Tensor) -> tuple[int, ...]:
        return (len(ranks), *(1,) * (ranks.ndim - 2), ranks.shape[-1])


class LoraConv2d(_Kohya, PeftConv2d):
    def _down(self, x: Tensor) -> Tensor:
        base, down = self.base_layer, self.down.to(x.dtype)
        if math.prod(base.kernel_size) * math.prod(base.stride) == 1:
            return pointwise(x, down)
        return functional.conv2d(x, down, None, base.stride, base.padding, base.dilation)

    def _up(self, ranks: Tensor) -> Tensor:
        return pointwise(ranks, self.up.to(ranks.dtype))

    def _mask_shape(self, ranks: Tensor) -> tuple[int, ...]:
        return (*ranks.shape[:2], 1, 1)


class Product(torch.autograd.Function):
    """x·Wᵀ + bias + scale · x·downᵀ·upᵀ with nothing written twice: the LoRA's part is added by the matrix product
    that makes it, to the answer on the way forward and to the gradient on the way back.

    x [..., in], weight [out, in] frozen, bias [out] or None, down [r, in], up [out, r] → [..., out]. The float32
    matrices follow the dtype of x; autograd brings their gradients back to float32.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
        rows, down, up = x.reshape(-1, x.shape[-1]), down.to(x.dtype), up.to(x.dtype)
        ranks = rows @ down.mT
        answer = functional.linear(x, weight, bias)  # on x itself, as without a LoRA: the same to the last bit
        answer.view(-1, answer.shape[-1]).addmm_(ranks, up.mT, alpha=scale)
        ctx.save_for_backward(rows, weight, down, up, ranks)
        ctx.scale = scale
        return answer

    @staticmethod
    def backward(ctx, gradient: Tensor):
        rows, weight, down, up, ranks = ctx.saved_tensors
        shape, gradient = gradient.shape, gradient.reshape(-1, gradient.shape[-1])
        through = _scaled(gradient, up, ctx.scale)
        to_input = None
        if ctx.needs_input_grad[0]:
            to_input = (gradient @ weight).addmm_(through, down).view(*shape[:-1], -1)
        to_up = _scaled(gradient.mT, ranks, ctx.scale)
        return to_input, None, None, through.mT @ rows, to_up, None


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale · left · right, the factor inside the product."""
    return torch.addmm(left.new_empty(1), left, right, beta=0, alpha=scale)


def _sits_out(layer: nn.Module, module_dropout: float) -> bool:
    """Whether the layer leaves this step out. No dice without the setting: they could be neither recorded nor
    compiled, and a run's needs not be counted in advance."""
    return layer.training and 0 < module_dropout > float(torch.rand(()))


class _AsInput:
    """PEFT's layers of the other kinds compute in the dtype of their weights; this, in that of what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        if self.disable_adapters or _sits_out(self, self.module_dropout[NAME]):
            return result
        return result + self._get_delta_activations(NAME, x)

    def _get_delta_activations(self, adapter_name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(x.device.type, x.dtype, enabled=x.dtype != torch.float32):
            return super()._get_delta_activations(adapter_name, x, *args, **kwargs)


@cache
def computing_as_input(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of PEFT's layers that multiplies in the dtype of its input."""
    return type(kind.__name__, (_AsInput, kind), {})


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """A 1×1 convolution as the matrix product it is, which small convolution kernels do far more slowly.

    x [B, in, h, w], weight [out, in, 1, 1] → [B, out, h, w], in the memory format of x.
    """
    matrix = weight.flatten(1)
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return functional.linear(x.permute(0, 2, 3, 1), matrix).permute(0, 3, 1, 2)
    # torch.matmul goes another way, with other last bits, for a matrix that is trained than for one that is not.
    return torch.bmm(matrix.expand(len(x), -1, -1), x.flatten(2)).unflatten(2, x.shape[2:])
