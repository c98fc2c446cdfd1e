"""Settings: how long, how much at once, and from which seed."""

from __future__ import annotations

from trainer.config.declare import Part, setting


class LoopConfig(Part):
    """How long, how much at once, and from which seed."""

    epochs: int = setting(
        10,
        ge=1,
        le=10_000,
        label="Epochs",
        help="Times through all pictures. Every epoch is saved as a file of its own; you choose the best afterwards.",
        kohya="max_train_epochs",
        front=True,
    )
    max_steps: int = setting(
        0,
        ge=0,
        le=10_000_000,
        unit="steps",
        label="Steps",
        help="Ends after this many steps, whatever the number of epochs; the last epoch may be a part of one. 0 counts "
        "in epochs.",
        kohya="max_train_steps",
    )
    batch_size: int = setting(
        1,
        ge=1,
        le=256,
        label="Batch size",
        help="Pictures per step. Larger is faster and smoother, needs more memory, and may cost likeness in faces.",
        kohya="train_batch_size",
        front=True,
    )
    gradient_accumulation: int = setting(
        1,
        ge=1,
        le=256,
        label="Gradient accumulation",
        help="Batches gathered before each update: acts like a larger batch without its memory.",
        kohya="gradient_accumulation_steps",
    )
    max_grad_norm: float = setting(
        1.0,
        ge=0,
        label="Gradient clipping",
        help="Cuts off a sudden jump so that one odd picture cannot ruin the run. 0 is off.",
        kohya="max_grad_norm",
    )
    seed: int = setting(
        42,
        ge=0,
        lt=2**31,
        label="Seed",
        help="The same seed and settings give the same LoRA, byte for byte, on the same machine.",
        kohya="seed",
    )
    ema_decay: float = setting(
        0.0,
        ge=0,
        lt=1,
        label="Average of the weights",
        help="Saves a moving average of the LoRA instead of its last state: calmer epochs. 0.99 for short runs, 0.999 "
        "for those of thousands of steps, 0 off.",
    )
