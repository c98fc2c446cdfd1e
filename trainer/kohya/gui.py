"""What the kohya_ss GUI makes of the fields that its JSON holds (bmaltais/kohya_ss, kohya_gui/lora_gui.py)."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.kohya import arguments as known
from trainer.kohya.arguments import Values
from trainer.kohya.scripts import options

# What the GUI fills in where a file has no such field: a preset may hold a few fields only.
DEFAULTS = known.DEFAULTS | {
    "network_dim": 8,
    "mixed_precision": "fp16",
    "save_precision": "fp16",
    "optimizer_type": "AdamW8bit",
    "learning_rate": 1e-4,
    "lr_scheduler": "cosine",
}

_BLOCKS = set(
    "down_lr_weight mid_lr_weight up_lr_weight block_lr_zero_threshold block_dims block_alphas conv_block_dims "
    "conv_block_alphas".split()
)
_CONV = {"conv_dim", "conv_alpha"}
_LYCORIS = _CONV | set("LyCORIS_preset rank_dropout_scale use_scalar use_tucker bypass_mode dora_wd train_norm".split())
# The fields that only some kinds of network look at, by the kind.
_USED = {
    "Standard": _BLOCKS,
    "LoRA-FA": _BLOCKS,
    "Kohya LoCon": _BLOCKS | _CONV,
    "Kohya DyLoRA": _BLOCKS | _CONV | {"unit"},
    "LyCORIS/LoCon": _LYCORIS,
    "LyCORIS/LoHa": _LYCORIS,
    "LyCORIS/LoKr": _LYCORIS | {"factor", "use_cp", "decompose_both"},
    "LyCORIS/iA3": _CONV | {"LyCORIS_preset", "train_on_input"},
}
_SPECIAL = set().union(*_USED.values()) | {"unit", "constrain", "rescaled"}
_MODULES = {"LoRA-FA": "networks.lora_fa", "Kohya DyLoRA": "networks.dylora"}


def arguments(content: Values) -> tuple[Values, dict[str, str]]:
    """The arguments that sd-scripts is started with, and why each of the other fields is none: (values, left)."""
    left = dict(_unused(content))
    values = {name: value for name, value in content.items() if name not in left}
    kind = str(values.get("LoRA_type", ""))
    if kind.startswith("LyCORIS/"):
        values |= {"LoRA_type": "lycoris.kohya", "algo": kind.removeprefix("LyCORIS/").lower()}
    elif kind in _USED:
        values["LoRA_type"] = _MODULES.get(kind, "networks.lora")
    unet, text = (not known.is_off(values.get(name)) for name in ("unet_lr", "text_encoder_lr"))
    if "text_encoder_lr" in values and unet and not text:
        values["network_train_unet_only"] = True
    elif "unet_lr" in values and text and not unet:
        values["network_train_text_encoder_only"] = True
    for name in ("unet_lr", "text_encoder_lr"):
        if known.is_off(values.get(name, 1)):
            left[name] = "0 in the GUI leaves it out"
            values.pop(name)
    if values.get("lr_scheduler") == "cosine_with_restarts" and values.get("lr_scheduler_num_cycles") == "":
        values["lr_scheduler_num_cycles"] = values.get("epoch") or 1  # a restart every epoch
    return values | options(str(values.pop("additional_parameters", ""))), left


def _unused(values: Values) -> Iterator[tuple[str, str]]:
    """Fields that hold something, though the GUI does not pass them on."""
    kind = values.get("LoRA_type", "Standard")
    if isinstance(kind, str) and kind in _USED:
        unused = (_SPECIAL - _USED[kind]) & values.keys()
        yield from ((name, f"not used by LoRA_type {kind}") for name in sorted(unused))
    noise = values.get("noise_offset_type")
    if noise in ("Original", "Multires"):
        multires = ("multires_noise_iterations", "multires_noise_discount")
        original = ("noise_offset", "noise_offset_random_strength", "adaptive_noise_scale")
        other = multires if noise == "Original" else original
        yield from ((name, f"not used by noise_offset_type {noise}") for name in other if name in values)
    if not known.is_off(values.get("lr_warmup_steps")) and "lr_warmup" in values:
        yield "lr_warmup", "lr_warmup_steps says it"
    elif "lr_warmup" in values and "lr_warmup_steps" in values:
        yield "lr_warmup_steps", "lr_warmup says it"
    if "epoch" in values:
        # It only serves to count steps, which is not done where there is a number of either.
        said = [name for name in ("max_train_epochs", "max_train_steps") if not known.is_off(values.get(name))]
        if said:
            yield "epoch", f"{said[0]} says it"
        elif "max_train_epochs" in values:
            yield "max_train_epochs", "epoch says it"
    if str(values.get("seed", "")).strip() in ("0", "0.0"):
        yield "seed", "0 in the GUI is another seed each time"
