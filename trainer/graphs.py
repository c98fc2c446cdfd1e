"""The work of a step recorded on an NVIDIA card, once for each shape of batch, and replayed from then on.

A step of a UNet with a LoRA on it is ten thousand kernels, most of them small. Where the processor cannot send them
as fast as the card computes them, the card waits; a replayed recording (a CUDA graph) is sent as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainer.errors import UserError

WARM_UP = 2  # times before the recording: libraries choose their kernels and compiled code is built
Tensors = dict[str, Tensor]


class Graphs:
    """`work` takes a batch's tensors by name, adds to the gradients of `parameters` and returns the loss."""

    def __init__(self, work: Callable[[Tensors], Tensor], parameters: Sequence[nn.Parameter]):
        self._work, self._parameters = work, list(parameters)
        self._recorded: dict[tuple, tuple[torch.cuda.CUDAGraph, Tensors, Tensor]] = {}
        self._pool = None

    def prepare(self, tensors: Tensors) -> None:
        """Record what is done with a batch of this shape, unless it is known. Gradients stay as they were.

        Raises UserError when something in the step cannot be recorded.
        """
        if self._key(tensors) not in self._recorded:
            try:
                self._recorded[self._key(tensors)] = self._record(tensors)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"model.cuda_graphs: this step cannot be recorded ({reason}): turn it off.") from error

    def __call__(self, tensors: Tensors) -> Tensor:
        """What `work` does, from its recording. The loss is overwritten by the next call."""
        graph, own, loss = self._recorded[self._key(tensors)]
        for name, value in tensors.items():
            own[name].copy_(value, non_blocking=True)
        graph.replay()
        return loss

    @staticmethod
    def _key(tensors: Tensors) -> tuple:
        return tuple((name, value.shape, value.dtype) for name, value in tensors.items())

    def _record(self, tensors: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Tensor]:
        own = {name: value.clone() for name, value in tensors.items()}
        # A recording adds to the gradients where they lie now: they must never be taken away.
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self._parameters]
        before = [gradient.clone() for gradient in gradients]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._work(own)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # One pool for all: only one of them is ever replayed at a time, and its loss is read before the next.
        with torch.cuda.graph(graph, pool=self._pool):
            loss = self._work(own)
        self._pool = graph.pool()
        torch._foreach_copy_(gradients, before)
        return graph, own, loss
