"""The gated unit of a UNet's feed-forward layers, GEGLU (Shazeer 2020), with a backward pass that keeps less.

Autograd keeps gelu(gate) for the way back, half as wide as the projection itself, which is kept anyway; at SDXL's
1024 px that is a seventh of what a transformer block keeps. It also writes the gradients of the two halves apart, only
to put them together again. Both answers here equal diffusers' to the last bit.
"""

from __future__ import annotations

import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn
from torch.nn import functional


class Gate(torch.autograd.Function):
    """value · gelu(gate), where `both` [..., 2·d] is value and gate side by side → [..., d]."""

    @staticmethod
    def forward(ctx, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        value, gate = both.chunk(2, dim=-1)
        return value * functional.gelu(gate)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        value, gate = both.chunk(2, dim=-1)
        answer = torch.empty_like(both)
        to_value, to_gate = answer.chunk(2, dim=-1)
        torch.mul(gradient, functional.gelu(gate), out=to_value)
        torch.ops.aten.gelu_backward.grad_input(gradient * value, gate, grad_input=to_gate)
        return answer


class LeanGEGLU(GEGLU):
    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)  # the compiler itself chooses what to keep
        return Gate.apply(self.proj(x))


def keep_less(module: nn.Module) -> None:
    """Let every GEGLU inside keep less for its backward pass. The weights stay where they are."""
    for inner in module.modules():
        if type(inner) is GEGLU:
            inner.__class__ = LeanGEGLU
