"""Several processes as one trainer or renderer: who writes, who does which part, and how their parts become one.

The adapter is small, so its gradients are summed in one reduction of one flat buffer. The base is whole in each
process, or, where accelerate's config asks for FSDP, shared out between them.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    GradientAccumulationPlugin,
    broadcast_object_list,
    gather_object,
    parse_flag_from_env,
    patch_environment,
)
from torch import Tensor, nn

from trainer import environment
from trainer.config import TrainConfig
from trainer.errors import UserError

Result = TypeVar("Result")

# What accelerate's config may ask for and no LoRA needs: other ways to part a model.
FOREIGN = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
# What it may ask for that has a setting of ours, which decides.
SETTINGS = {
    "ACCELERATE_MIXED_PRECISION": "model.precision",
    "ACCELERATE_DYNAMO_BACKEND": "model.compile",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "loop.gradient_accumulation",
    "FSDP_ACTIVATION_CHECKPOINTING": "model.gradient_checkpointing",
}


def state() -> PartialState:
    """Which of the processes this is, and how many there are. Raises UserError when accelerate's config asks for
    something that cannot be had.

    accelerate joins processes without an accelerator only where it is told that they are to run on processors.
    """
    _require_known()
    alone = "LOCAL_RANK" not in os.environ
    processors = parse_flag_from_env("ACCELERATE_USE_CPU") or not (alone or torch.accelerator.is_available())
    return PartialState(cpu=processors)


def joined(precision: str) -> Accelerator:
    """This process as one of the trainer's. Settings decide, and not what accelerate finds in its environment."""
    state()
    AcceleratorState._reset_state()  # it holds on to the precision of a run that this process has trained before
    with patch_environment(accelerate_use_fsdp="false"):
        return Accelerator(
            mixed_precision={"fp32": "no"}.get(precision, precision),
            dynamo_backend="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )


def _require_known() -> None:
    # transformers would leave the text encoders of all but the first process empty.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    problem = next((name for variable, name in FOREIGN.items() if parse_flag_from_env(variable)), "")
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            problem = "FSDP of version 1"
        elif parse_flag_from_env("FSDP_OFFLOAD_PARAMS"):
            problem = "FSDP's fsdp_offload_params"
    if problem and os.environ.get("RANK", "0") != "0":
        raise SystemExit(2)  # one has said so
    if problem:
        raise UserError(
            f"accelerate's config asks for {problem}, which is not supported: run `accelerate config` again without "
            "it. A base that is too large for each card can be shared out by FSDP of version 2 (`accelerate launch "
            "--use_fsdp --fsdp_version 2`), or kept in fewer bits (model.quantize=nf4)."
        )


def without_effect(config: TrainConfig) -> list[str]:
    """A sentence for each thing that accelerate's config asks for and a setting of ours decides."""
    said = []
    for variable, setting in SETTINGS.items():
        asked = os.environ.get(variable, "no").lower()
        section, _, name = setting.partition(".")
        own = str(getattr(getattr(config, section), name)).lower()
        if asked not in ("no", "false", "1", own):
            said.append(f"{variable}={asked} of accelerate's config has no effect: {setting}={own} decides.")
    return said


def together(config: TrainConfig) -> TrainConfig:
    """The settings of one process that does what all of these do: its accumulation gathers their batches as well."""
    batches = config.loop.gradient_accumulation * state().num_processes
    return config.model_copy(update={"loop": config.loop.model_copy(update={"gradient_accumulation": batches})})


def on_main(make: Callable[[], Result]) -> Result:
    """What the main process makes, in every process that `accelerate launch` started.

    A UserError is raised in the main process; the others end without a word, for one has been said. Another is raised
    where one of them has gone.
    """
    main = state().is_main_process
    made: list = [None, None]
    if main:
        try:
            made[0] = make()
        except UserError as error:
            made[1] = error
    try:
        result, error = broadcast_object_list(made)
    except RuntimeError as lost:
        if not is_loss(lost):
            raise
        raise UserError("Another process has ended; it may have said why. Start again.") from None
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


def is_loss(error: BaseException) -> bool:
    """Whether an error came out of talking to the other processes: one of them has ended or does not answer."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, RuntimeError) and any("distributed_c10d" in file for file in files)


def device(wanted: str, default: Callable[[], str]) -> str:
    """Where this process works: `wanted`, or the default; of several processes each on a card of its own."""
    if state().num_processes > 1 and wanted in ("", "cuda"):
        return str(state().device)
    return wanted or default()


def part(accelerator: Accelerator | PartialState, work: Sequence[Result]) -> Sequence[Result]:
    """The entries that are this process's own."""
    return work[accelerator.process_index :: accelerator.num_processes]


def turns(accelerator: Accelerator, work: Sequence[Result]) -> list[tuple[Result, bool]]:
    """This process's own entries, each with True. With a shared base all processes must go through it as often as the
    others do: who has fewer takes one more with False, which is not to count."""
    own = [(entry, True) for entry in part(accelerator, work)]
    rounds = -(-len(work) // accelerator.num_processes) if sharers() > 1 else len(own)
    return own + [(work[0], False)] * (rounds - len(own))


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


# ── a base that is shared out ───────────────────────────────────────────────────────────────────────────


def sharers() -> int:
    """How many processes the UNet is shared out between; 1 when each holds it whole."""
    return state().num_processes if parse_flag_from_env("ACCELERATE_USE_FSDP") else 1


def require_shareable(config: TrainConfig) -> None:
    """Raises UserError for a setting that does not go with a base that is shared out."""
    clashing = {
        "model.quantize": config.model.quantize != "none",
        "model.cuda_graphs": config.model.cuda_graphs,
        # Blocks must be gathered at the same moments everywhere, also on the way back.
        "adapter.module_dropout": config.adapter.module_dropout > 0,
    }
    found = next((setting for setting, clashes in clashing.items() if clashes), "")
    if found and sharers() > 1:
        raise UserError(f"{found} does not go with FSDP, which accelerate's config asks for: leave one of them out.")


def share_out(unet: nn.Module, adapter: Sequence[nn.Parameter], device: torch.device) -> None:
    """Leave each process its part of every block's frozen weights, on `device`; a block is gathered while it is at
    work. The adapter's weights stay whole everywhere. (torch's FSDP2.)"""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    options = {
        "mesh": init_device_mesh(device.type, (sharers(),)),
        "reshard_after_forward": os.environ.get("FSDP_RESHARD_AFTER_FORWARD") != "false",
        "ignored_params": set(adapter),
    }
    for part in (*environment.blocks(unet), unet):
        fully_shard(part, **options)
