"""What a run stands on: versions, device, base model; and how the base is set up to run there."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from trainer.config import TrainConfig
from trainer.dataset import captions
from trainer.errors import UserError
from trainer.examples import Example, trained

PACKAGES = (  # noqa: SIM905 - one line reads better than seventeen
    "lora-studio torch diffusers transformers peft accelerate bitsandbytes safetensors datasets pillow "
    "pytorch-optimizer prodigyopt schedulefree onnxruntime tensorboard streamlit xformers"
).split()


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def versions() -> dict[str, str]:
    """Installed versions of what the trainer is built on; "not installed" where one is missing."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def device_name(device: torch.device | str) -> str:
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def memory_taken() -> int:
    """Bytes that this process holds: of the graphics card's memory, else of the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.memory_reserved()
    import psutil

    return psutil.Process().memory_info().rss


def upload(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the host on the device. A GPU fetches it from pinned memory when its work is that far: the host goes
    on at once, and has the next kernels ready before the device asks."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def release_memory() -> None:
    """Give back what is no longer used: glibc keeps much of it for itself otherwise, and torch what lay on a GPU."""
    gc.collect()
    if trim := _libc("malloc_trim"):
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def weights_apart() -> Iterator[None]:
    """What is made inside and is large lies outside glibc's heap: given up, it leaves no holes there, and what stays
    does not part the room that the activations of each step share."""
    if not (set_option := _libc("mallopt")):
        yield
        return
    threshold, trim = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in malloc.h
    set_option(threshold, 2**20)
    try:
        yield
    finally:
        # Where glibc's own rule ends, which setting either has switched off: pages for activations are kept.
        set_option(threshold, 2**25)
        set_option(trim, 2**26)


def _libc(name: str) -> Callable[..., int] | None:
    """A function of glibc, where that is what the program runs on."""
    return getattr(ctypes.CDLL(None), name, None) if platform.libc_ver()[0] == "glibc" else None


class Figures:
    """Numbers on their way from the device: whoever asks a step later waits for them alone, and not for everything
    that was begun since, as reading the tensor itself would."""

    def __init__(self, values: torch.Tensor):
        self._values, self._there = values, None
        if values.device.type == "cuda":
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._there = torch.cuda.Event()
            self._there.record()

    def values(self) -> list[float]:
        if self._there is not None:
            self._there.synchronize()
        return self._values.tolist()


def describe(model, device: torch.device) -> dict[str, Any]:
    """What environment.json holds: enough to know later what made these files."""
    hashes = {"hash": model.short_hash, "sha256": model.sha256()}  # A1111's name for it, and the whole
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "command": sys.argv,
        "device": device_name(device),
        "base": {"name": model.name, "path": model.path, "family": model.family.name, **hashes},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def facts(model, config: TrainConfig, examples: list[Example], **progress: Any):
    """What a LoRA file's metadata says beyond the configuration."""
    from trainer.families.base import hash_path
    from trainer.kohya import Facts

    seen = trained(examples)
    tags: dict[str, Counter] = {}
    buckets: Counter = Counter()
    for example in seen:
        tags.setdefault(example.folder, Counter()).update(captions.split(example.caption))
        buckets[example.placement.bucket] += example.repeats
    folders = {
        role: {name: _folder(found) for name, found in _by_folder(seen, role).items()}
        for role in ("training", "regularisation")
    }
    return Facts(
        family=model.family,
        base_name=model.name,
        base_sha256=model.sha256(),
        base_legacy_hash=model.legacy_hash(),
        vae_name=Path(model.vae_path).stem if model.vae_path else "",
        vae_sha256=hash_path(Path(model.vae_path)) if model.vae_path else "",
        tag_frequency={folder: dict(counts.most_common()) for folder, counts in tags.items()},
        images=folders["training"],
        regularisation=folders["regularisation"],
        buckets=dict(buckets),
        prediction_type=model.prediction_type,
        finished=time.time(),
        **progress,
    )


def _by_folder(examples: list[Example], role: str) -> dict[str, list[Example]]:
    found: dict[str, list[Example]] = {}
    for example in examples:
        if example.role == role:
            found.setdefault(example.folder, []).append(example)
    return found


def _folder(examples: list[Example]):
    from trainer.kohya import FolderFacts

    return FolderFacts(len(examples), examples[0].repeats, sum(example.repeats for example in examples))


def use_attention(unet, name: str) -> str:
    """Switch the UNet's attention. Returns the sentence to print, empty when there is nothing to say."""
    if name != "xformers":
        return ""  # diffusers runs on torch's SDPA by itself
    try:
        unet.enable_xformers_memory_efficient_attention()
    except (ImportError, OSError, ValueError, NotImplementedError) as error:  # built for another torch, or another card
        reason = str(error).strip().splitlines()[0]
        return f"xformers cannot be used ({reason}); attention runs on torch's own SDPA instead."
    return ""


def use_compile(unet) -> str:
    """Let torch.compile build the code of the UNet's blocks. Returns the sentence to print when it cannot.

    Block by block: the many that are alike are compiled once. Each picture size is compiled for itself: which sizes
    came first must not decide how later ones are computed, or a resumed run would differ in its last bits.
    """
    try:
        torch.compile(lambda x: (x * 2).sin())(torch.ones(2, device=unet.device))
    except Exception as error:  # no compiler, no Triton, an unwritable cache: its parts raise what they like
        lines = str(error).strip().splitlines()
        return f"torch.compile cannot be used ({lines[0] if lines else type(error).__name__}); training without it."
    torch._dynamo.config.recompile_limit = 256
    for block in blocks(unet):
        block.compile(dynamic=False)
    return ""


def blocks(unet) -> list[torch.nn.Module]:
    """The blocks that hold nearly all of a UNet's weights; none lies inside another."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    return [part for part in unet.modules() if isinstance(part, (BasicTransformerBlock, ResnetBlock2D))]


def use_checkpointing(model, text_encoder: bool, draws: bool) -> None:
    """Recompute activations in the backward pass instead of keeping them. `draws`: the adapter has dropouts, which
    must draw the same again; looking after the generators for nothing would cost time, and cannot be recorded."""
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=draws)
    model.unet.enable_gradient_checkpointing(again)
    model.unet.train()  # diffusers and transformers check the mode; neither model has active dropout
    if text_encoder:
        for encoder in model.text_encoders:
            encoder.gradient_checkpointing_enable()
            encoder.train()


def require_precision(precision: str, device: str) -> None:
    """fp16 wants a GPU: on a CPU torch has no fp16 arithmetic worth training with."""
    if precision == "fp16" and torch.device(device).type == "cpu":
        raise UserError("model.precision=fp16 needs a GPU; on this machine's CPU use model.precision=bf16 or fp32.")
