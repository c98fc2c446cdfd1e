"""What the parts of the builder share: checkpoints, averaged weights, the schedule, pictures on disk.

Every step draws its randomness from generators seeded by (seed, step), so that a part which was stopped and
continued takes the same steps as one which was not.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

SAVE_SECONDS = 90


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(enabled: bool = True):
    """bfloat16 arithmetic; on a CPU with AMX a step takes half the time."""
    return torch.autocast(device().type, torch.bfloat16, enabled=enabled)


def one_cycle(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal (Jordan 2024), for the weights of linear and convolution layers.

    It needs fewer steps than AdamW, and steps are dear on a CPU. The update has the size of AdamW's at the
    same rate, 0.2 * sqrt(larger side) (Liu et al. 2025).
    """

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for parameters in alike.values():
                self._move(parameters, group)

    def _move(self, parameters: list[nn.Parameter], group: dict) -> None:
        """One step for weights of one shape, all together: many small products would cost more."""
        momentum, updates = group["momentum"], []
        for p in parameters:
            kept = self.state[p].setdefault("momentum", torch.zeros_like(p.grad))
            kept.lerp_(p.grad, 1 - momentum)
            updates.append(p.grad.lerp(kept, momentum).flatten(1))
        stacked = orthogonal(torch.stack(updates))
        size = 0.2 * max(stacked.shape[1:]) ** 0.5
        for p, update in zip(parameters, stacked, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update.view_as(p), alpha=-group["lr"] * size)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Roughly the nearest semi-orthogonal matrices, [n, rows, columns]: five Newton-Schulz steps."""
    turned = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if turned else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if turned else x


def optimizers(module: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon for weights with a wide input and output, AdamW for edges, norms, biases and embeddings."""
    matrices, others = [], []
    for name, p in module.named_parameters():
        edge = any(part in name for part in ("embedding", "conv_in.", "conv_out.", "quant_conv", "head."))
        (others if edge or p.ndim < 2 or min(p.shape[:2]) < 16 else matrices).append(p)
    return [
        Muon(matrices, lr, weight_decay=weight_decay),
        torch.optim.AdamW(others, lr, betas=(0.9, 0.99), weight_decay=weight_decay),
    ]


class Averaged:
    """Exponential moving average of a module's parameters; young averages follow faster."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))
        names, new = zip(*module.named_parameters(), strict=True)
        torch._foreach_lerp_([self.values[name] for name in names], list(new), 1 - keep)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> nn.Module:
        for name, p in module.named_parameters():
            p.copy_(self.values[name])
        return module


class Course:
    """One part's training: the module, its optimizers and average, and where the steps have come to.

    `take_steps` does what every part needs around a step: the rate, clipping, the average, a log line, and a
    checkpoint now and then and at the end. A course over the same folder continues from its checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        steps: int,
        lr: float,
        ema: float = 0.999,
        weight_decay: float = 0.01,
        warmup: int = 200,
    ):
        self.folder, self.module, self.steps, self.lr, self.warmup = folder, module, steps, lr, warmup
        folder.mkdir(parents=True, exist_ok=True)
        self.optimizers = optimizers(module, lr, weight_decay)
        self.average = Averaged(module, ema)
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.exists():
            self._restore()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, map_location=device())
        self.module.load_state_dict(state["module"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.average.values = state["average"]
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.values,
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.checkpoint)

    def take_steps(
        self,
        loss_of: Callable[[int], torch.Tensor],
        minutes: float | None = None,
        every: int = 50,
        until: int | None = None,
    ) -> None:
        """Minimise `loss_of(step)` until the last step, or for so many minutes, or until step `until`."""
        last = min(self.steps, until or self.steps)
        if self.step >= last:
            return
        started = saved = time.monotonic()
        before, losses = self.seconds, []
        while self.step < last and not (minutes and time.monotonic() - started > minutes * 60):
            losses.append(self._take_step(loss_of))
            now = time.monotonic()
            self.seconds = before + now - started
            if self.step % every == 0:
                print(
                    f"{self.folder.name} step {self.step}/{self.steps} loss {np.mean(losses):.4f} "
                    f"{self.seconds:.0f} s",
                    flush=True,
                )
                losses = []
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = now
        self.save()

    def _take_step(self, loss_of: Callable[[int], torch.Tensor]) -> float:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * one_cycle(self.step, self.steps, self.warmup)
        loss = loss_of(self.step)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.module, self.step)
        return loss.item()


def generators(seed: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """The randomness of one step, for numpy and for torch."""
    return np.random.default_rng((seed, step)), torch.Generator().manual_seed(seed * 1_000_003 + step)


def cached_pictures(
    path: Path, make: Callable[[int], np.ndarray], count: int, workers: int = 2
) -> np.ndarray:
    """`make(0) … make(count - 1)` as one uint8 array on disk, drawn once and read through a memory map."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        first = make(0)
        part = path.with_suffix(".part.npy")
        pictures = np.lib.format.open_memmap(part, "w+", np.uint8, (count, *first.shape))
        with ProcessPoolExecutor(workers) as pool:
            for index, drawn in enumerate(pool.map(make, range(count), chunksize=64)):
                pictures[index] = drawn
        pictures.flush()
        os.replace(part, path)
    return np.load(path, mmap_mode="r")


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in -1 … 1."""
    return torch.from_numpy(np.array(pictures)).to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside its place, then swap it in, so that readers never see half of one."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    for file in part.rglob("*.*"):
        file.chmod(0o644)  # safetensors are written for their owner alone
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
