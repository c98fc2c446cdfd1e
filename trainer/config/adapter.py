"""Settings: the LoRA itself: what is added to the base model and how large it is."""

from __future__ import annotations

from typing import Literal

from trainer.config.declare import Part, setting


class AdapterConfig(Part):
    """The LoRA itself: what is added to the base model and how large it is."""

    kind: Literal["lora", "locon", "dora", "loha", "lokr"] = setting(
        "lora",
        label="Kind",
        help="lora is the usual one and loads everywhere. locon trains the 3×3 convolutions as well, for styles and "
        "textures. dora learns size and direction apart: better likeness, slower. loha and lokr are small files with "
        "much capacity. A1111, Forge and ComfyUI load all of them; diffusers only lora and locon.",
        kohya="algo",
    )
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
    rslora: bool = setting(
        False,
        label="Rank-stabilised scaling",
        help="Scales by alpha / √dim instead of alpha / dim, so that a large dim learns no slower than a small one. "
        "Wants a smaller alpha: 1 to 4.",
        kohya="rs_lora",
    )
    conv_rank: int = setting(
        0,
        ge=0,
        le=1024,
        label="Convolution dim",
        help="Dim of the 3×3 convolutions; half of the network dim or less is enough. 0: locon takes the network dim, "
        "dora, loha and lokr leave convolutions out.",
        kohya="conv_dim",
    )
    conv_alpha: float = setting(
        0.0,
        ge=0,
        le=4096,
        label="Convolution alpha",
        help="Alpha of the 3×3 convolutions. 0 keeps the same proportion to their dim as the network alpha has.",
        kohya="conv_alpha",
    )
    lokr_factor: int = setting(
        0,
        ge=0,
        le=64,
        label="LoKr factor",
        help="For lokr: how a weight is divided. 0 divides as evenly as possible, for the smallest files; 4 to 16 "
        "makes larger files that learn more.",
        kohya="factor",
    )
    text_encoder: bool = setting(
        True,
        label="Train the text encoder",
        help="Lets the trigger word itself learn. Helps a character to answer to its name; turn it off for styles, "
        "for low memory and usually for SDXL.",
        kohya="network_train_text_encoder",
    )
    targets: Literal["all", "attention", "cross_attention"] = setting(
        "all",
        label="Trained layers",
        help="all is what kohya trains: attention and feed-forward. attention makes smaller files that change less; "
        "cross_attention only ties words to looks. In text encoders both mean their attention.",
    )
    only: str = setting(
        "",
        label="Only these modules",
        help="Patterns, parted by spaces, of block names (IN04, MID, OUT0*, BASE for text encoders) or of module names "
        "as they stand in the file (lora_unet_*attn2*). ! in front leaves a pattern out. Empty: all.",
    )
    block_ranks: str = setting(
        "",
        label="Dim by block",
        help="Another dim for some blocks, as in: IN04=8, OUT00-OUT05=32. 0 leaves a block out. Also kohya's list of "
        "25 numbers, or of 23 for SDXL.",
        kohya="block_dims",
    )
    block_alphas: str = setting(
        "",
        label="Alpha by block",
        help="Another alpha for some blocks, written as the dims are. Empty keeps the proportion of alpha to dim.",
        kohya="block_alphas",
    )
    dropout: float = setting(
        0.0,
        ge=0,
        lt=1,
        label="Dropout",
        help="Share of what the LoRA finds that is left out at random in each step, against overfitting. 0.1 is usual, "
        "0 off. Not for loha and lokr.",
        kohya="network_dropout",
    )
    rank_dropout: float = setting(
        0.0,
        ge=0,
        lt=1,
        label="Rank dropout",
        help="Share of the LoRA's dims that are left out for a picture in each step; of loha and lokr, of each "
        "module's outputs. 0.1 to 0.3, 0 off.",
        kohya="rank_dropout",
    )
    module_dropout: float = setting(
        0.0,
        ge=0,
        lt=1,
        label="Module dropout",
        help="How often each module sits out a step as a whole. 0.1 to 0.3, 0 off.",
        kohya="module_dropout",
    )
    scale_weight_norms: float = setting(
        0.0,
        ge=0,
        le=100,
        label="Scale weight norms",
        help="Largest size that a module's change may reach; what grows beyond is scaled back after each step. 1 is "
        "usual and keeps a LoRA mixable with others. 0 is off.",
        kohya="scale_weight_norms",
    )
    start_from: str = setting(
        "",
        label="Start from",
        help="A LoRA file to go on from instead of from nothing. It must be of the same kind, or be fitted; which "
        "modules are trained is still decided here.",
        kohya="network_weights",
    )
    start_resize: bool = setting(
        False,
        label="Fit its dim",
        help="When the file to start from has another dim: cut it to this one (or widen it), keeping as much of what "
        "it learned as the dim can hold. Also makes a LoRA of a loha or lokr. Only for lora and locon.",
    )
    save_precision: Literal["fp16", "bf16", "fp32"] = setting(
        "fp16",
        label="Save precision",
        help="Number format of the saved files. fp16 is what everyone shares; fp32 doubles the size.",
        kohya="save_precision",
    )

    @property
    def drops(self) -> bool:
        """Whether any dropout is on."""
        return self.dropout + self.rank_dropout + self.module_dropout > 0
