"""Several processes as one trainer: who writes, who does which part, and how their parts become one.

The adapter is small, so its gradients are summed in one reduction of one flat buffer; nothing is wrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from trainer.errors import UserError

Result = TypeVar("Result")


def on_main(make: Callable[[], Result]) -> Result:
    """What the main process makes, in every process that `accelerate launch` started.

    A UserError is raised in the main process; the others end without a word, for one has been said.
    """
    main = PartialState().is_main_process
    made: list = [None, None]
    if main:
        try:
            made[0] = make()
        except UserError as error:
            made[1] = error
    result, error = broadcast_object_list(made)
    if error is not None:
        raise error if main else SystemExit(2)
    return result


def part(accelerator: Accelerator, work: Sequence[Result]) -> Sequence[Result]:
    """The entries that are this process's own."""
    return work[accelerator.process_index :: accelerator.num_processes]


def total(accelerator: Accelerator, value: Tensor) -> Tensor:
    """The sum over all processes."""
    return accelerator.reduce(value, reduction="sum") if accelerator.num_processes > 1 else value


def share_gradients(accelerator: Accelerator, parameters: Sequence[Tensor]) -> None:
    """Sum the gradients over processes; a process that had no batch gives zeros."""
    if accelerator.num_processes == 1:
        return
    flat = torch.cat([_gradient(parameter).flatten() for parameter in parameters])
    flat = total(accelerator, flat)
    for parameter, values in zip(parameters, flat.split([parameter.numel() for parameter in parameters])):
        parameter.grad = values.view_as(parameter)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
