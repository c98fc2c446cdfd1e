"""What the arguments of kohya's sd-scripts and of the kohya_ss GUI mean here, where the declared names do not say it.

Most arguments need no line here: a setting that declares `kohya="network_dim"` is read and written by that name.
These tables hold the rest: values that are written in another way, what sd-scripts takes for an argument that is
left out, and why an argument is without effect or without equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer import presets
from trainer.optimizers import OPTIMIZERS

Values = dict[str, Any]


@dataclass(frozen=True)
class Differing:
    """An argument that no setting can say: usually because it has several values, one for each folder."""

    values: list[Any]
    why: str = "differs between the folders, and one run has one value for all"

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


class Said(str):
    """Which other argument says already what this one says."""


# ── values that are written in another way ──────────────────────────────────────────────────────────────


def flag(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "1.0", "yes", "on")


def is_off(value: Any) -> bool:
    """Nothing, zero, false, or a text that says so: an argument that is as good as left out."""
    if isinstance(value, (list, dict, tuple)):
        return not value
    return value is None or str(value).strip().lower() in ("", "0", "0.0", "false", "none", "null", "off")


def words(value: Any) -> list[str]:
    """A list of arguments, or one text of them as the GUI has it, which takes the quotation marks away."""
    return (
        [str(item) for item in value] if isinstance(value, (list, tuple)) else re.sub("[\"']", "", str(value)).split()
    )


def numbers(value: Any) -> list[Any]:
    """[1e-4, 5e-5], or the text of it as metadata has it."""
    if isinstance(value, str) and re.match(r"\s*[\[(]", value):
        return [part.strip() for part in value.strip().strip("[]()").split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def side(value: Any) -> Any:
    """512, "512", "512,512", [512, 768], "(512, 512)" -> the side of a square of that area, a multiple of 8."""
    found = [int(number) for number in re.findall(r"\d{1,6}", str(value))]
    if len(found) == 1:
        return found[0]
    if len(found) != 2:
        return value  # left to the validation, which says what it wants
    return found[0] if found[0] == found[1] else round((found[0] * found[1]) ** 0.5 / 8) * 8


def first_rate(value: Any) -> Any:
    """One rate for both text encoders, or the first of a list with one for each."""
    return next(iter(numbers(value)), value)


def eights(value: Any) -> Any:
    """The nearest multiple of 8, which is what latents can be cut into."""
    return max(8, round(float(value) / 8) * 8)


def optimizer(value: Any) -> Any:
    """sd-scripts reads names in any case, and takes a class's whole path."""
    name = str(value).rpartition(".")[2].lower()
    other = {"dadaptation": "dadaptadam", "schedulefreeadamw": "adamwschedulefree", "came_pytorch": "came"}
    return next((ours for ours in OPTIMIZERS if ours.lower() == other.get(name, name)), value)


# LyCORIS' presets (lycoris/config.py), and those of them that leave the convolutions out.
_PRESETS = {"full": "all", "attn-mlp": "all", "attn-only": "attention"}
LINEAR_PRESETS = ("attn-mlp", "attn-only", "full-lin", "unet-transformer-only")
WHOLE = 1024  # the largest dim here: with it nearly every second factor of a LoKr is whole
NOT_A_DORA = Differing([True], "only a plain LoRA learns size and direction apart here")
# Schedules that others than sd-scripts bring along, by the name of their class.
SCHEDULE_CLASSES = {"RexAnnealingWarmRestarts": "rex", "CosineAnnealingLR": "cosine"}

# Arguments that the package which sd-scripts takes an optimizer from calls otherwise: {optimizer: {there: here}}.
OPTIMIZER_ARGS = {"DAdaptAdam": {"decouple": "weight_decouple"}}


def called_otherwise(pairs: list[str], names: dict[str, str]) -> list[str]:
    """name=value pairs under the other tool's names."""
    parted = (pair.partition("=") for pair in pairs)
    return [f"{names.get(name, name)}{equals}{value}" for name, equals, value in parted]


MORE_FOLDERS = "image_dir of further folders"  # no argument: what several [[datasets.subsets]] say together

# Schedules that are another one with a setting: any may begin with a warm-up here, and end above zero.
SAME_SCHEDULE = {"constant_with_warmup": "constant", "cosine_with_min_lr": "cosine"}

# kohya's name -> the setting and how the value reads here.
READ: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "mixed_precision": ("model.precision", lambda value: {"no": "fp32"}.get(str(value), value)),
    "save_precision": ("adapter.save_precision", lambda value: {"float": "fp32"}.get(str(value), value)),
    "network_train_unet_only": ("adapter.text_encoder", lambda value: not flag(value)),
    "bucket_no_upscale": ("data.upscale", lambda value: not flag(value)),
    "resolution": ("data.resolution", side),
    "bucket_reso_steps": ("data.bucket_step", eights),
    "caption_extension": ("data.caption_extension", lambda value: f".{str(value).lstrip('.')}" if value else value),
    MORE_FOLDERS: ("data.more_folders", list),
    "fp8_base_unet": ("model.quantize", lambda value: "fp8" if flag(value) else "none"),
    "fp8_base": ("model.quantize", lambda value: "fp8" if flag(value) else "none"),
    "sdpa": ("model.attention", lambda value: "sdpa" if flag(value) else "auto"),
    "xformers": (
        "model.attention",
        lambda value: value if value in ("sdpa", "xformers") else "xformers" if flag(value) else "auto",
    ),
    "optimizer_type": ("optimizer.name", optimizer),
    "use_8bit_adam": ("optimizer.name", lambda value: "AdamW8bit" if flag(value) else value),
    "use_lion_optimizer": ("optimizer.name", lambda value: "Lion" if flag(value) else value),
    "factor": ("adapter.lokr_factor", lambda value: 0 if str(value) == "-1" else value),
    "preset": ("adapter.targets", lambda value: _PRESETS.get(str(value), value)),
    "optimizer_args": ("optimizer.args", lambda value: " ".join(words(value))),
    "text_encoder_lr": ("optimizer.text_encoder_learning_rate", first_rate),
    "lr_scheduler": ("optimizer.schedule", lambda value: SAME_SCHEDULE.get(str(value), value)),
    # The GUI counts in per cent of all steps.
    "lr_warmup": ("optimizer.warmup", lambda value: float(value) / 100),
    "warmup_ratio": ("optimizer.warmup", float),
    "v_parameterization": ("model.prediction", lambda value: "v_prediction" if flag(value) else "auto"),
}


def parse_override(text: str) -> tuple[str, Any]:
    """As `presets.parse_override`; by kohya's name a value may be written as it is there: "bucket_no_upscale=true" ->
    ("data.upscale", False)."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or name not in READ:
        return presets.parse_override(text)
    path, read = READ[name]
    try:
        return path, read(value)
    except ValueError:
        return path, value  # the validation says what is wrong with it


# A setting -> the arguments that say the same to sd-scripts; {} where leaving the argument out says it,
# None where nothing says it.
WRITE: dict[str, Callable[[Any], Values | None]] = {
    "model.precision": lambda value: {"mixed_precision": {"fp32": "no"}.get(value, value)},
    "adapter.save_precision": lambda value: {"save_precision": {"fp32": "float"}.get(value, value)},
    "adapter.text_encoder": lambda value: {} if value else {"network_train_unet_only": True},
    "data.upscale": lambda value: {} if value else {"bucket_no_upscale": True},
    "model.attention": lambda value: {"xformers": True} if value == "xformers" else {"sdpa": True},
    "optimizer.args": lambda value: {"optimizer_args": [_literal(word) for word in _parts(value)]},
    "model.quantize": lambda value: {"fp8": {"fp8_base": True}, "none": {}}.get(value),
    "adapter.targets": lambda value: {"all": {}, "attention": {"preset": "attn-only"}}.get(value),
    "optimizer.name": lambda value: {"optimizer_type": {"CAME": "came_pytorch.CAME"}.get(value, value)},
    "optimizer.schedule": lambda value: None if value == "rex" else {"lr_scheduler": value},
    "data.max_tokens": lambda value: {} if value <= 75 else {"max_token_length": value},
    "data.validation_split": lambda value: {"validation_split": value or ""} if value < 1 else None,
    "data.folder": lambda value: {"image_dir": value},
    "data.repeats": lambda value: {"num_repeats": value},
    "loop.batch_size": lambda value: {"batch_size": value},
    "model.prediction": lambda value: {},  # by what the base is in the end: see calls.as_kohya
}


def _parts(text: str) -> list[str]:
    return re.findall(r"(?:\([^)]*\)|\[[^]]*\]|\S)+", text)


def _literal(word: str) -> str:
    """name=true as sd-scripts reads it, which takes Python's own spelling only."""
    return re.sub(r"(?<==)(true|false|none)$", lambda found: found[0].title(), word)


# What sd-scripts takes where an argument is left out and the default here is another. For all others they agree.
DEFAULTS: Values = {
    "network_dim": 4,
    "network_alpha": 1,
    "save_precision": "float",
    "mixed_precision": "no",
    "optimizer_type": "AdamW",
    "learning_rate": 2e-6,
    "lr_scheduler": "constant",
    "min_snr_gamma": 0,
    "shuffle_caption": False,
    "keep_tokens": 0,
    "max_bucket_reso": 1024,
}

# Written in any case: what sd-scripts takes without them is no value of ours.
ALWAYS = {"max_train_epochs", "seed", "text_encoder_lr", "resolution"}

# The GUI's and the metadata's own names of sd-scripts' arguments.
RENAMED = {
    "optimizer": "optimizer_type",
    "epoch": "max_train_epochs",
    "max_resolution": "resolution",
    "lora_network_weights": "network_weights",
    "LoRA_type": "network_module",
    "image_dir": "train_data_dir",
    "batch_size": "train_batch_size",
    "num_epochs": "max_train_epochs",
    "batch_size_per_device": "train_batch_size",
    "debiased_estimation": "debiased_estimation_loss",
    "LyCORIS_preset": "preset",
    "dropout": "network_dropout",
    "lycoris_algo": "algo",
    "lokr_factor": "factor",
    "v_pred": "v_parameterization",
}

# Arguments that sd-scripts takes as --network_args "name=value".
NETWORK_ARGS = set(
    "conv_dim conv_alpha rank_dropout module_dropout dropout algo preset dora_wd factor decompose_both full_matrix "
    "train_norm use_tucker use_cp use_scalar rank_dropout_scale bypass_mode rs_lora constraint rescaled unbalanced_"
    "factorization unit block_dims block_alphas conv_block_dims conv_block_alphas down_lr_weight mid_lr_weight "
    "up_lr_weight block_lr_zero_threshold loraplus_lr_ratio loraplus_unet_lr_ratio "
    "loraplus_text_encoder_lr_ratio".split()
)
# Arguments of a dataset or of one of its folders: they stand in the dataset's TOML.
DATASET_ARGS = set("resolution batch_size min_bucket_reso max_bucket_reso bucket_reso_steps bucket_no_upscale".split())
SUBSET_ARGS = set(
    "image_dir num_repeats class_tokens shuffle_caption keep_tokens keep_tokens_separator secondary_separator "
    "caption_dropout_rate caption_dropout_every_n_epochs caption_tag_dropout_rate caption_prefix caption_suffix "
    "caption_separator enable_wildcard flip_aug color_aug random_crop face_crop_aug_range token_warmup_min "
    "token_warmup_step alpha_mask conditioning_data_dir is_reg caption_extension".split()
)

# ── without effect here, and why ────────────────────────────────────────────────────────────────────────

_NEEDLESS = {
    "every epoch is saved as a file of its own, and none is deleted": """
        save_every_n_epochs save_every_n_steps save_n_epoch_ratio save_last_n_epochs save_last_n_steps save_model_as
        save_as_bool mem_eff_save""",
    "what an exact resume needs is always saved": """
        save_state save_state_on_train_end save_last_n_epochs_state save_last_n_steps_state
        save_state_to_huggingface""",
    "a run has a folder of its own in runs/, with its log and TensorBoard files": """
        output_dir logging_dir log_with log_prefix log_config log_tracker_name log_tracker_config wandb_run_name
        use_wandb tracker tracker_run_name console_log_level console_log_file console_log_simple""",
    "pictures are rendered after training, by `lora-studio evaluate`": """
        sample_every_n_epochs sample_every_n_steps sample_prompts sample_sampler sample_at_first""",
    "a matter of the machine, which `accelerate launch` settles": """
        num_cpu_threads_per_process num_processes num_machines multi_gpu gpu_ids main_process_port mixed_precision_type
        dynamo_backend dynamo_mode dynamo_use_fullgraph dynamo_use_dynamic extra_accelerate_launch_args ddp_timeout
        ddp_gradient_as_bucket_view ddp_static_graph max_data_loader_n_workers persistent_data_loader_workers lowram
        highvram lowvram vae_batch_size disable_mmap_load_safetensors deepspeed""",
    "latents are always cached, and captions wherever they do not change": """
        cache_latents cache_latents_to_disk skip_cache_check cache_info cache_text_encoder_outputs
        cache_text_encoder_outputs_to_disk sdxl_cache_text_encoder_outputs""",
    "read off the base model itself": """
        sdxl v2 base_model_version flux1_checkbox sd3_checkbox sd3_cache_text_encoder_outputs
        tokenizer_cache_dir""",
    "the VAE runs in float32 (for SD 1.5 in fp16: in fp16)": "sdxl_no_half_vae full_vae",
    "attention saves memory anyway": "mem_eff_attn split_attn",
    "captions are always padded": "no_token_padding",
    "a mask folder or transparency as a mask says it": "masked_loss",
    "the loss on held-back pictures is measured after each epoch, always on the same ones": """
        validation_seed validate_every_n_steps validate_every_n_epochs max_validation_steps""",
    "mapped together with down_lr_weight": "mid_lr_weight up_lr_weight",
    "words for people, which `lora-studio export` asks for": """
        training_comment metadata_title metadata_author metadata_description metadata_license metadata_tags version
        author description""",
    "the GUI's own state": """
        model_list LyCORIS_preset_list train_text_encoder_pct dataset_config config_file wandb_api_key_file
        caption_metadata_filename latent_metadata_filename""",
    "a secret: left where it is": "wandb_api_key huggingface_token",
    "nothing is sent to a hub from here": """
        async_upload huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_repo_visibility
        resume_from_huggingface""",
    "a result of that training and no setting of it": """
        session_id training_started_at training_finished_at num_train_images num_reg_images num_batches_per_epoch steps
        total_batch_size epoch_saved sd_model_hash new_sd_model_hash vae_hash new_vae_hash vae_name bucket_info
        tag_frequency dataset_dirs reg_dataset_dirs datasets sd_scripts_commit_hash""",
    "only the other kind of noise reads it": "noise_offset_type",
    "what a folder is called there": "name",
    "masks are looked at wherever data.alpha_mask or data.mask_folder says so": "masked_loss",
    "a LoRA is all that is trained here": "train_mode model_train_type",
}
NEEDLESS = {name: reason for reason, names in _NEEDLESS.items() for name in names.split()}
SECRETS = ("wandb_api_key", "huggingface_token")

# ── without equal here, and what to do about it ─────────────────────────────────────────────────────────

NO_EQUAL = {
    "stop_text_encoder_training": "the text encoder learns to the end: lower optimizer.text_encoder_learning_rate",
    "network_train_text_encoder_only": "the UNet is always trained",
    "weighted_captions": "captions carry no weights in training: write the plain tag",
    "lr_scheduler_args": "schedules have settings of their own: see `lora-studio settings optimizer.schedule`",
    "lr_scheduler_type": "only the schedules of `lora-studio settings optimizer.schedule` are there",
    "network_module": "there is no such kind here; a plain LoRA is trained",
    "masked_training": "name the folder of the masks with data.mask_folder, or paint them in the studio",
    "train_unet": "the UNet is always trained",
    "aspect_ratio_bucketing": "pictures keep their shape here; crop them square yourself to train them so",
    "in_json": "captions stand in .txt files beside the pictures: write them there",
    "sd_model_name": "only a name, not a place: give the base with --base",
    "enable_bucket": "pictures keep their shape here; crop them square yourself to train them so",
    "dim_from_weights": "set adapter.rank to the file's, or adapter.start_resize",
    "base_weights": "merge it into the base model first; adapter.start_from goes on from a LoRA",
    "full_fp16": "the LoRA's own weights are trained in float32",
    "full_matrix": "from adapter.rank=1024 on the second factor of a lokr is whole",
    "loraplus_unet_lr_ratio": "one ratio for all that is trained: optimizer.lora_plus_ratio",
    "loraplus_text_encoder_lr_ratio": "one ratio for all that is trained: optimizer.lora_plus_ratio",
    "conv_block_dims": "convolutions keep their proportion to adapter.block_ranks",
    "conv_block_alphas": "convolutions keep their proportion to adapter.block_alphas",
    "initial_epoch": "`lora-studio resume` goes on with a run",
    "initial_step": "`lora-studio resume` goes on with a run",
    "skip_until_initial_step": "`lora-studio resume` goes on with a run",
}
NOTHING_LIKE_IT = "there is nothing like it here"
