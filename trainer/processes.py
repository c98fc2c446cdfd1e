"""Several processes as one trainer or renderer: who writes, who does which part, and how their parts become one.

The adapter is small, so its gradients are summed in one reduction of one flat buffer; nothing is wrapped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from torch import Tensor

from trainer.errors import UserError

Result = TypeVar("Result")


def state() -> PartialState:
    """Which of the processes this is, and how many there are.

    accelerate joins processes without an accelerator only where it is told that they are to run on processors.
    """
    alone = "LOCAL_RANK" not in os.environ
    processors = parse_flag_from_env("ACCELERATE_USE_CPU") or not (alone or torch.accelerator.is_available())
    return PartialState(cpu=processors)


def on_main(make: Callable[[], Result]) -> Result:
    """What the main process makes, in every process that `accelerate launch` started.

    A UserError is raised in the main process; the others end without a word, for one has been said.
    """
    main = state().is_main_process
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


def is_main() -> bool:
    return state().is_main_process


def wait() -> None:
    """Until all processes are here."""
    state().wait_for_everyone()


def leave() -> None:
    """The others are no longer needed."""
    state().destroy_process_group()


def device(wanted: str, default: Callable[[], str]) -> str:
    """Where this process works: `wanted`, or the default; of several processes each on a card of its own."""
    if state().num_processes > 1 and wanted in ("", "cuda"):
        return str(state().device)
    return wanted or default()


def part(accelerator: Accelerator | PartialState, work: Sequence[Result]) -> Sequence[Result]:
    """The entries that are this process's own."""
    return work[accelerator.process_index :: accelerator.num_processes]


def shares(work: Sequence[Result]) -> list[Sequence[Result]]:
    """The parts of all processes, this one's own first; the others' from their ends, since who is done early helps
    where most is left."""
    here = state()
    others = [index for index in range(here.num_processes) if index != here.process_index]
    return [part(here, work), *(work[index :: here.num_processes][::-1] for index in others)]


def merged(found: dict) -> dict:
    """What all processes found, as one dict that each of them has."""
    return {key: value for one in gather_object([found]) for key, value in one.items()}


def total(accelerator: Accelerator, value: Tensor) -> Tensor:
    """The sum over all processes."""
    return accelerator.reduce(value, reduction="sum") if accelerator.num_processes > 1 else value


def share_gradients(accelerator: Accelerator, parameters: Sequence[Tensor]) -> None:
    """Sum the gradients over processes, where they lie; a process that had no batch gives zeros."""
    if accelerator.num_processes == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    flat = total(accelerator, torch.cat([gradient.flatten() for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    # In place: a recorded step goes on adding to these very tensors.
    torch._foreach_copy_(gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients)])
