"""Settings: how the LoRA learns, and how fast."""

from __future__ import annotations

from trainer.config.declare import Part, setting


class OptimizerConfig(Part):
    """How the LoRA learns, and how fast."""

    name: str = setting(
        "AdamW8bit",
        label="Optimizer",
        help="AdamW8bit is the usual choice on a GPU; AdamW is the same in full precision. Prodigy finds the learning "
        "rate itself; AdaFactor, CAME and Lion8bit take the least memory.",
        kohya="optimizer_type",
        front=True,
    )
    args: str = setting(
        "",
        label="Optimizer arguments",
        help="name=value pairs for the optimizer itself, parted by spaces, as in: weight_decay=0.1 betas=0.9,0.99. "
        "Most optimizers want some; each one's help suggests them.",
        kohya="optimizer_args",
        front=True,
    )
    learning_rate: float = setting(
        1e-4,
        gt=0,
        le=10,
        label="Learning rate (UNet)",
        help="How far each step goes. 1e-4 is the usual start; too high burns the picture within a few epochs, "
        "too low learns nothing. 1 is only for optimizers that find their own rate.",
        kohya=("unet_lr", "learning_rate"),
        front=True,
    )
    text_encoder_learning_rate: float = setting(
        5e-5,
        ge=0,
        le=10,
        label="Learning rate (text)",
        help="The same for the text encoder: half of the UNet's or less. 0 leaves the text encoder as it is.",
        kohya="text_encoder_lr",
        front=True,
    )
    text_encoder_2_learning_rate: float = setting(
        -1.0,
        ge=-1,
        le=10,
        label="Learning rate (second text)",
        help="For SDXL's second, larger text encoder. -1 takes the rate of the first, 0 leaves the second as it is.",
        kohya="learning_rate_te2",
    )
    block_learning_rates: str = setting(
        "",
        label="Learning rate by block",
        help="Factors on the UNet's learning rate, as in: IN01-IN05=0.5, OUT03-OUT11=1. 0 leaves a block out, blocks "
        "not named have 1. Also a list of 25 numbers: kohya's down, mid and up weights in a row.",
    )
    lora_plus_ratio: float = setting(
        1.0,
        ge=1,
        le=1000,
        label="LoRA+ ratio",
        help="How much faster the upper matrix of each pair learns than the lower one. 16 is the paper's value and "
        "learns in fewer steps; 1 is off. Not for loha and lokr.",
        kohya="loraplus_lr_ratio",
    )
    schedule: str = setting(
        "cosine",
        label="Schedule",
        help="constant keeps the learning rate; cosine lets it fall smoothly to zero, which calms the last epochs. "
        "Also linear, cosine_with_restarts, polynomial, inverse_sqrt, rex and warmup_stable_decay.",
        kohya="lr_scheduler",
    )
    schedule_cycles: int = setting(
        1,
        ge=1,
        le=1000,
        label="Restarts",
        help="For cosine_with_restarts: how often the rate falls from full to zero over the whole run.",
        kohya="lr_scheduler_num_cycles",
    )
    schedule_power: float = setting(
        1.0,
        gt=0,
        le=100,
        label="Power",
        help="For polynomial: 1 is a straight line, 2 falls early, 0.5 late.",
        kohya="lr_scheduler_power",
    )
    schedule_decay: float = setting(
        0.2,
        ge=0,
        label="Decay",
        help="For warmup_stable_decay: the steps at the end in which the rate falls to zero; below 1 a share of all "
        "steps, from 1 on a number.",
        kohya="lr_decay_steps",
    )
    schedule_floor: float = setting(
        0.0,
        ge=0,
        lt=1,
        label="Lowest rate",
        help="The share of the learning rate that a schedule ends at instead of zero: 0.1 lets the last epochs go on "
        "learning.",
        kohya="lr_scheduler_min_lr_ratio",
    )
    warmup: float = setting(
        0.0,
        ge=0,
        label="Warm-up",
        help="Steps in which the learning rate rises from zero: below 1 a share of all steps, from 1 on a number.",
        kohya="lr_warmup_steps",
    )
