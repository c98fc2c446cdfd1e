"""Several LoRAs on one base in one forward pass: every row of the batch carries its own.

The matrices of the LoRAs in a batch are stacked, and a hook behind each module that one of them knows adds
x·downᵀ·upᵀ with the matrices that belong to the row. The base's own weights are never touched, so a row that
carries nothing gets the base bit for bit. Several LoRAs on one row lie side by side along the rank, which is
their sum. Down and up matrices without anything else can be stacked (LoRA and LoCon); other kinds cannot: see
`stackable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer import kohya
from trainer.adapters.sites import places_of
from trainer.errors import UserError

if TYPE_CHECKING:
    from trainer.families import BaseModel

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Lora:
    """A LoRA file at its weights, as in <lora:name:text_encoder:unet>."""

    path: Path
    unet: float = 1.0
    text_encoder: float = 1.0


Loras = tuple[Lora, ...]  # what one row carries; () is the base alone


def stackable(path: Path) -> bool:
    """Whether a file holds nothing but pairs of down and up matrices. Raises UserError when it cannot be read."""
    keys = _keys(path)
    names = {key.partition(".")[0] for key in keys}
    return all(f"{name}.{DOWN}" in keys and f"{name}.{UP}" in keys for name in names) and all(
        key.partition(".")[2] in (DOWN, UP, ALPHA) for key in keys
    )


def trains_text(path: Path) -> bool:
    """Whether a LoRA file has any module of a text encoder; one that has not leaves all texts as they are."""
    return any(key.startswith("lora_te") for key in _keys(path))


def _keys(path: Path) -> frozenset[str]:
    path = Path(path)
    return _keys_in(path, path.stat().st_mtime_ns if path.exists() else 0)


@cache
def _keys_in(path: Path, _: int) -> frozenset[str]:
    return frozenset(kohya.read_header(path).shapes)


class Stack:
    """The LoRAs of a batch on a BaseModel: `carry` puts them there, `rows` says which row carries which."""

    def __init__(self, model: BaseModel):
        self.model = model
        self._places = places_of(model)
        self._components = {module: component for component, _, module in self._places.values()}
        self._files: dict[Path, dict[nn.Module, Pair]] = {}
        self._layers: dict[nn.Module, Pair] = {}
        self._hooks: list = []
        self._carried: list[Loras] = []
        self._rows: Tensor | int | None = None

    def carry(self, sets: Sequence[Loras]) -> None:
        """Put these sets of LoRAs on the base; what was there before goes.

        Raises UserError when a file was made for another architecture.
        """
        sets = list(sets)
        if sets == self._carried:
            return
        wanted = {lora.path for loras in sets for lora in loras}
        self._files = {path: self._files.get(path) or self._read(path) for path in wanted}
        for hook in self._hooks:
            hook.remove()
        self._layers = dict(self._stacked(sets))
        self._hooks = [module.register_forward_hook(self._add) for module in self._layers]
        self._carried = sets

    @contextmanager
    def rows(self, indices: Sequence[int]) -> Iterator[None]:
        """`with stack.rows([0, 0, 1]):` the rows of the forward passes inside carry these of the sets.

        One index stands for all rows, however many there are.
        """
        same = len(set(indices)) == 1
        self._rows = indices[0] if same else torch.tensor(indices, device=self.model.device)
        try:
            yield
        finally:
            self._rows = None

    # ── weights ─────────────────────────────────────────────────────────────────────────────────────

    def _read(self, path: Path) -> dict[nn.Module, Pair]:
        """Module -> (down, up · alpha / rank), in the base's precision on its device."""
        tensors, names, scales = kohya.read(path).tensors, [], []
        for name in dict.fromkeys(key.partition(".")[0] for key in tensors):
            if name not in self._places:
                raise UserError(
                    f"{path} does not fit {self.model.name} ({self.model.family.title}): the model has no module "
                    f"for {name}. Use the kind of base it was trained on."
                )
            down = tensors[f"{name}.{DOWN}"]
            self._check(path, name, down, tensors[f"{name}.{UP}"])
            # Without an alpha every tool takes scale 1.
            alpha = tensors.get(f"{name}.{ALPHA}")
            names.append(name)
            scales.append(1.0 if alpha is None else float(alpha) / down.shape[0])
        downs = self._moved([tensors[f"{name}.{DOWN}"] for name in names], [1.0] * len(names))
        ups = self._moved([tensors[f"{name}.{UP}"].flatten(1) for name in names], scales)
        return {self._places[name][2]: pair for name, pair in zip(names, zip(downs, ups))}

    def _moved(self, matrices: list[Tensor], scales: list[float]) -> list[Tensor]:
        """Scaled, in the base's precision on its device: in one piece, since hundreds of small copies take longer."""
        if not matrices:
            return []  # a file without any module changes nothing
        device = self.model.device
        flat = torch.cat([matrix.flatten() for matrix in matrices]).to(device).float()
        if set(scales) != {1.0}:
            sizes = torch.tensor([matrix.numel() for matrix in matrices], device=device)
            flat *= torch.tensor(scales, device=device).repeat_interleave(sizes, output_size=len(flat))
        parts = flat.to(self.model.dtype).split([matrix.numel() for matrix in matrices])
        return [part.view(matrix.shape) for part, matrix in zip(parts, matrices)]

    def _check(self, path: Path, name: str, down: Tensor, up: Tensor) -> None:
        module = self._places[name][2]
        if isinstance(module, nn.Linear):
            inner, outer = (module.in_features,), module.out_features
        else:
            inner, outer = (module.in_channels, *module.kernel_size), module.out_channels
        if tuple(down.shape[1:]) != inner or tuple(up.shape[:2]) != (outer, down.shape[0]):
            raise UserError(
                f"{path} does not fit the base: {name} has shapes {list(down.shape)} and {list(up.shape)}, where the "
                f"model's module takes {list(inner)} and gives {outer}. Use the kind of base it was trained on."
            )

    def _stacked(self, sets: list[Loras]) -> Iterator[tuple[nn.Module, Pair]]:
        """For each module (down [K, r, …], up [K, out, r]) of K sets, filled with zeros where one has less."""
        for module in dict.fromkeys(module for file in self._files.values() for module in file):
            pairs = [self._side_by_side(module, loras) for loras in sets]
            some = next(filter(None, pairs), None)
            if some is None:
                continue
            if len(pairs) == 1:
                yield module, (some[0][None], some[1][None])
                continue
            rank = max(down.shape[0] for down, _ in filter(None, pairs))
            downs = some[0].new_zeros(len(sets), rank, *some[0].shape[1:])
            ups = some[1].new_zeros(len(sets), some[1].shape[0], rank)
            for index, pair in enumerate(pairs):
                if pair is not None:
                    downs[index, : pair[0].shape[0]], ups[index, :, : pair[1].shape[1]] = pair
            yield module, (downs, ups)

    def _side_by_side(self, module: nn.Module, loras: Loras) -> Pair | None:
        """The sum of a set's LoRAs as one pair; None where none of them has this module."""
        pairs = []
        for lora in loras:
            weight = lora.unet if self._components[module] == "unet" else lora.text_encoder
            if weight and module in self._files[lora.path]:
                down, up = self._files[lora.path][module]
                pairs.append((down, up if weight == 1 else up * weight))
        if len(pairs) < 2:
            return pairs[0] if pairs else None
        return torch.cat([down for down, _ in pairs]), torch.cat([up for _, up in pairs], dim=1)

    # ── the forward pass ────────────────────────────────────────────────────────────────────────────

    def _add(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        if self._rows is None:
            return None
        down, up = self._layers[module]
        x = inputs[0]
        down, up = down[self._rows].to(x.dtype), up[self._rows].to(x.dtype)
        if isinstance(module, nn.Linear):
            return _linear(x, down, up, output)
        return _convolution(module, x, down, up, output)


def _linear(x: Tensor, down: Tensor, up: Tensor, output: Tensor) -> Tensor:
    """x [B, …, in], one pair for all rows or one for each -> output + x·downᵀ·upᵀ."""
    if down.ndim == 2:
        return output + functional.linear(functional.linear(x, down), up)
    rows = x.reshape(len(x), -1, x.shape[-1])
    inner = torch.bmm(rows, down.mT)
    return torch.baddbmm(output.reshape(len(x), -1, output.shape[-1]), inner, up.mT).view_as(output)


def _convolution(module: nn.Conv2d, x: Tensor, down: Tensor, up: Tensor, output: Tensor) -> Tensor:
    """x [B, in, h, w]: the down convolution with the module's own stride and padding, then up over the channels."""
    how = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
    if down.ndim == 4:
        return output + functional.conv2d(functional.conv2d(x, down, **how), up[:, :, None, None])
    if module.kernel_size == (1, 1) and module.stride == (1, 1):
        inner = torch.bmm(down.flatten(2), x.flatten(2))
    else:
        # One group of channels for each row: a convolution whose filters differ from row to row.
        grouped = functional.conv2d(x.flatten(0, 1)[None], down.flatten(0, 1), groups=len(x), **how)
        inner = grouped.view(len(x), down.shape[1], -1)
    return torch.baddbmm(output.flatten(2), up, inner).view_as(output)
