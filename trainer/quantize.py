"""A frozen UNet in fewer bits: one function per storage, giving the layer that takes the place of a linear.

Only what lies inside the blocks is packed; the small layers at the ends matter more than they weigh. The packed
layers compute in the dtype of their input, and hold no unpacked copy for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import UserError

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def nf4(layer: nn.Linear, device: torch.device) -> nn.Module:
    """bitsandbytes' 4-bit normal float with doubly quantised scales (Dettmers et al., QLoRA, 2023)."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    dtype, bias = layer.weight.dtype, layer.bias is not None
    packed = Linear4bit(layer.in_features, layer.out_features, bias, dtype, quant_type="nf4", device="meta")
    packed.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4").to(device)
    packed.bias = _bias(layer, device)
    # A CPU would repack the weight for itself at the first answer without gradients, and could not unpack it again.
    packed.support_avx512bf16_for_cpu = False
    return packed


def int8(layer: nn.Linear, device: torch.device) -> nn.Module:
    """bitsandbytes' 8-bit integers with a scale per row (Dettmers et al., LLM.int8(), 2022)."""
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    packed = Linear8bitLt(
        layer.in_features, layer.out_features, layer.bias is not None, has_fp16_weights=False, device="meta"
    )
    packed.weight = Int8Params(layer.weight.data.cpu(), requires_grad=False, has_fp16_weights=False).to(device)
    packed.bias = _bias(layer, device)
    packed.init_8bit_state()
    return packed


def fp8(layer: nn.Linear | nn.Conv2d, device: torch.device) -> nn.Module:
    """8-bit floats (e4m3) with a scale per row, unpacked layer by layer as they are used; convolutions as well."""
    packed = (Fp8Conv2d if isinstance(layer, nn.Conv2d) else Fp8Linear).of(layer)
    return packed.to(device)


KINDS: dict[str, Callable[..., nn.Module]] = {"nf4": nf4, "int8": int8, "fp8": fp8}


def pack(unet: nn.Module, kind: str, device: torch.device | str) -> None:
    """Replace the layers inside the UNet's blocks, one by one, and put them on `device`: the whole of the base is
    never there unpacked. Raises UserError when the storage does not work on this machine."""
    chosen = _packable(unet, kind)
    try:
        for path, layer in chosen:
            parent, _, name = path.rpartition(".")
            packed = KINDS[kind](layer, torch.device(device)).eval()
            setattr(unet.get_submodule(parent), name, packed)
            _probe(packed) if layer is chosen[0][1] else None
    except (ImportError, RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model.quantize={kind} does not work on this machine ({reason}): use model.quantize=fp8, or none."
        ) from error


def _packable(unet: nn.Module, kind: str) -> list[tuple[str, nn.Module]]:
    kinds = (nn.Linear, nn.Conv2d) if kind == "fp8" else (nn.Linear,)
    return [
        (path, layer)
        for path, layer in unet.named_modules()
        if isinstance(layer, kinds) and path.startswith(("down_blocks.", "mid_block.", "up_blocks."))
    ]


# Bytes a weight takes when packed: nf4 has 64 weights to an 8-bit scale, whose own scale hardly counts.
BYTES = {"nf4": 0.5 + 1 / 64, "int8": 1.0, "fp8": 1.0}


def saved(unet: nn.Module, kind: str) -> int:
    """Bytes that packing saves on the frozen weights of a UNet as it stands; none for "none"."""
    if kind == "none":
        return 0
    weights = [layer.weight for _, layer in _packable(unet, kind) if not layer.weight.requires_grad]
    return round(sum(weight.numel() * (weight.element_size() - BYTES[kind]) for weight in weights))


def _probe(layer: nn.Module) -> None:
    """Once forward and backward: not every build of bitsandbytes can do both on every device."""
    if hasattr(layer, "in_features"):
        x = torch.ones(
            1, 8, layer.in_features, device=layer.bias.device if layer.bias is not None else layer.weight.device
        )
        x = x.to(torch.bfloat16).requires_grad_()
        layer(x).sum().backward()


def _bias(layer: nn.Module, device: torch.device) -> nn.Parameter | None:
    return None if layer.bias is None else nn.Parameter(layer.bias.data.to(device), requires_grad=False)


# ── 8-bit floats ────────────────────────────────────────────────────────────────────────────────────────


class _Fp8:
    """weight = packed [out, …] · row [out, 1, …]."""

    def _pack(self, layer: nn.Module) -> None:
        weight = layer.weight.data.float()
        row = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp(min=1e-12) / LARGEST
        self.weight = nn.Parameter((weight / row).to(torch.float8_e4m3fn), requires_grad=False)
        self.register_buffer("row", row)
        self.bias = _bias(layer, layer.weight.device)

    def unpacked(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return (self.weight.to(torch.float32) * self.row).to(dtype)


class Fp8Linear(_Fp8, nn.Linear):
    @classmethod
    def of(cls, layer: nn.Linear) -> Fp8Linear:
        packed = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        packed._pack(layer)
        return packed

    def forward(self, x: Tensor) -> Tensor:
        return _Apply.apply(x, self.bias, self)

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)

    def to_input(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        return gradient @ weight


class Fp8Conv2d(_Fp8, nn.Conv2d):
    @classmethod
    def of(cls, layer: nn.Conv2d) -> Fp8Conv2d:
        arguments = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        packed = cls(*arguments, bias=layer.bias is not None, device="meta")
        packed._pack(layer)
        return packed

    def forward(self, x: Tensor) -> Tensor:
        return _Apply.apply(x, self.bias, self)

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, weight, bias, self.stride, self.padding)

    def to_input(self, shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
        return nn.grad.conv2d_input(shape, weight, gradient, self.stride, self.padding)


class _Apply(torch.autograd.Function):
    """The layer's product with a weight that is unpacked anew for the backward pass, and kept for neither."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor | None, layer: nn.Module) -> Tensor:
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        return layer.compute(x, layer.unpacked(x.dtype), bias)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight = ctx.layer.unpacked(ctx.dtype)
        return ctx.layer.to_input(ctx.shape, weight, gradient.to(ctx.dtype)), None, None
