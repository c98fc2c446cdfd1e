"""What a model would take, counted without its weights: every operation is run on tensors that have no memory.

torch's fake tensors know shape, dtype and device and choose the kernels that the real ones would; a meter around
them counts what is alive at each moment, and the arithmetic.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from trainer import environment, losses, optimizers, quantize
from trainer.adapters import Adapter
from trainer.config import TrainConfig
from trainer.families.base import BaseModel, Conditioning
from trainer.families.convolutions import as_products
from trainer.families.outline import outline


@dataclass(frozen=True)
class Cost:
    """Of one piece of work, beyond the weights that lie there anyway."""

    peak: int  # bytes alive at once
    flops: int


# torch counts the attention of graphics cards; here the same is computed by the kernel for processors.
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention
FORMULAS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[ATTENTION],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        torch.ops.aten._scaled_dot_product_flash_attention_backward
    ],
}
# Where a convolution's weight stands among its arguments.
WEIGHTS = {torch.ops.aten.convolution: 1, torch.ops.aten.convolution_backward: 2}


class Meter(TorchDispatchMode):
    """Bytes of all tensors made inside that are still alive, their peak, and floating-point operations."""

    def __init__(self, there: Iterable[Tensor], *, blocked: bool = False) -> None:
        """`there`: tensors that lie in memory anyway; views of them are not counted either. `blocked`: convolutions
        are oneDNN's, which lays a copy of the weight out in blocks and drops it after each product."""
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._blocked = blocked
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in there)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        if self._blocked and (place := WEIGHTS.get(func._overloadpacket)):
            self.peak = max(self.peak, self.live + args[place].untyped_storage().nbytes())
        return result

    def _note(self, storage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.live -= size


class Dummy:
    """A base with a LoRA on it, as a run of these settings would hold them, but without memory."""

    def __init__(self, config: TrainConfig, device: str = "cpu"):
        self.config, self.device = config, device
        dtype = environment.DTYPES[config.model.precision]
        self.model: BaseModel = outline(config.model.base, dtype, config.model.vae)
        if device == "cpu":
            as_products(self.model.unet)
        self.texts_learn = config.trains_any(self.model.family.text_components)
        if config.model.gradient_checkpointing:
            environment.use_checkpointing(self.model, self.texts_learn, config.adapter.drops)
        trains = lambda component, block: config.learning_rate(component, block) > 0  # noqa: E731
        # Whole steps are counted: what a module's dice would say is not known, and no step is larger.
        whole = config.adapter.model_copy(update={"module_dropout": 0.0})
        dtype = torch.bfloat16 if config.model.full_bf16 else torch.float32
        self.adapter = Adapter.attach(self.model, whole, seed=0, trains=trains, dtype=dtype)
        self.parts = {name: _bytes(module) for name, module in self.model.modules().items()}
        self.parts["vae"] = _bytes(self.model.vae)
        self.unpacked = self.parts["unet"]
        self.parts["unet"] -= quantize.saved(self.model.unet, config.model.quantize)
        # Shapes under the names of the file.
        self.tensors = {name: tuple(weight.shape) for name, weight in self.adapter.named_parameters()}
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        with self._fake:
            for module in (*self.model.modules().values(), self.model.vae):
                _materialise(module)

    def training(self, batch: int, size: tuple[int, int], chunks: int, *, encodes: bool) -> Cost:
        """One forward and backward pass of `batch` pictures of `size` (width, height) px.

        `encodes`: the text encoders run in it. Gradients of the LoRA are part of the peak.
        """
        config, model = self.config, self.model

        def work() -> None:
            latents = torch.randn(batch, 4, size[1] // 8, size[0] // 8)
            timesteps, sizes = torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, 6)
            with torch.set_grad_enabled(self.texts_learn and encodes):
                conditioning = self._conditioning(batch, chunks, encodes)
            predicted = model.family.predict(model, latents, timesteps, conditioning, sizes)
            ones = torch.ones(batch)
            losses.error(config.loss, predicted, torch.randn_like(latents), ones).sum().backward()

        cost = self._measure(work)
        for parameter in self.adapter.parameters():
            parameter.grad = None
        return cost

    def rendering(self, rows: int, size: tuple[int, int]) -> Cost:
        """One call of the UNet for `rows` pictures of `size` px."""
        model, (width, height) = self.model, size

        def denoise() -> None:
            said, noisy = self._conditioning(rows, 1, False), torch.randn(rows, 4, height // 8, width // 8)
            model.family.predict(model, noisy, torch.zeros(rows), said, torch.zeros(rows, 6))

        with torch.no_grad():
            return self._measure(denoise)

    def decoding(self, size: tuple[int, int]) -> Cost:
        """The VAE's picture of `size` px from its latents."""
        vae = self.model.vae
        with torch.no_grad():
            # Without the family's look at the numbers, of which there are none here.
            return self._measure(lambda: vae.decode(torch.zeros(1, 4, size[1] // 8, size[0] // 8, dtype=vae.dtype)))

    def caching(self, size: tuple[int, int]) -> Cost:
        """Encoding one picture of `size` px with the VAE."""
        vae = self.model.vae
        with torch.no_grad():
            return self._measure(lambda: vae.encode(torch.zeros(1, 3, size[1], size[0], dtype=vae.dtype)))

    def conditioning(self, chunks: int) -> int:
        """Bytes of what one caption is told as, in float32."""
        with self._fake:
            said = self._conditioning(1, chunks, False)
        return 4 * (said.hidden.numel() + (0 if said.pooled is None else said.pooled.numel()))

    def _conditioning(self, batch: int, chunks: int, encodes: bool) -> Conditioning:
        model = self.model
        if encodes:
            return model.family.encode(model, [torch.zeros(batch, chunks, 77, dtype=torch.int64)] * len(self._texts))
        width = model.unet.config.cross_attention_dim
        pooled = getattr(model.text_encoders[-1].config, "projection_dim", None) if len(self._texts) > 1 else None
        hidden = torch.zeros(batch, 77 * chunks, width)
        return Conditioning(hidden, None if pooled is None else torch.zeros(batch, pooled))

    @property
    def _texts(self) -> list[nn.Module]:
        return self.model.text_encoders

    def _measure(self, work: Callable[[], None]) -> Cost:
        modules = (*self.model.modules().values(), self.model.vae)
        there = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
        meter = Meter(there, blocked=self.device == "cpu")
        with self._fake, meter:
            work()
        return Cost(meter.peak, meter.flops)


def _bytes(module: nn.Module) -> int:
    """Of a module's frozen weights and buffers."""
    tensors = [*module.buffers(), *(weight for weight in module.parameters() if not weight.requires_grad)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _materialise(module: nn.Module) -> None:
    """Fake tensors that claim to be on the CPU in the place of those on the meta device."""
    for child in module.modules():
        for name, weight in child._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=weight.dtype)
                child._parameters[name] = nn.Parameter(fake, requires_grad=weight.requires_grad)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def optimizer_state(config: TrainConfig, shapes: dict[str, tuple[int, ...]]) -> int:
    """Bytes of the optimizer's state, measured: it takes a real step on weights of each shape."""
    sizes = {shape: _state_of(config, shape) for shape in dict.fromkeys(shapes.values())}
    return sum(sizes[shape] for shape in shapes.values())


def _state_of(config: TrainConfig, shape: tuple[int, ...]) -> int:
    """Of one weight. There are two, so that a table which all share counts for none: the map of an 8-bit number."""
    dtype = torch.bfloat16 if config.model.full_bf16 else torch.float32
    pair = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for _ in range(2)]
    for weight in pair:
        weight.grad = torch.full(shape, 1e-3, dtype=dtype)
    groups = [{"params": pair, "lr": config.optimizer.learning_rate}]
    optimizer: Any = optimizers.build(config.optimizer.name, groups, config.optimizer.args)
    getattr(optimizer, "train", lambda: None)()  # schedule-free ones must be told
    optimizer.step()
    one, other = (_storages(optimizer.state[weight]) for weight in pair)
    return sum(storage.nbytes() for place, storage in one.items() if place not in other)


def _storages(state: Any) -> dict[int, Any]:
    found = [value.untyped_storage() for value in tree_leaves(dict(state)) if isinstance(value, Tensor)]
    return {storage.data_ptr(): storage for storage in found}
