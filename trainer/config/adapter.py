"""Settings: the LoRA itself: what is added to the base model and how large it is."""

from __future__ import annotations

from typing import Literal

from trainer.config.declare import Part, setting


class AdapterConfig(Part):
    """The LoRA itself: what is added to the base model and how large it is."""

    rank: int = setting(
        16,
        ge=1,
        le=1024,
        label="Network dim",
        help="The capacity of the LoRA, and its file size. 8 to 16 for one character, 32 for a style with much detail. "
        "Higher learns faster and overfits sooner.",
        kohya="network_dim",
        front=True,
    )
    alpha: float = setting(
        8.0,
        gt=0,
        le=4096,
        label="Network alpha",
        help="Scales what was learned by alpha / dim. Equal to dim is full strength, half of it the usual calm "
        "choice. Never above dim: the LoRA would be scaled up and burn.",
        kohya="network_alpha",
        front=True,
    )
    save_precision: Literal["fp16", "bf16", "fp32"] = setting(
        "fp16",
        label="Save precision",
        help="Number format of the saved files. fp16 is what everyone shares; fp32 doubles the size.",
        kohya="save_precision",
    )
    text_encoder: bool = setting(
        True,
        label="Train the text encoder",
        help="Lets the trigger word itself learn. Helps a character to answer to its name; turn it off for styles, "
        "for low memory and usually for SDXL.",
        kohya="network_train_text_encoder",
    )
