"""OneTrainer's settings as kohya's arguments, or as settings of ours where kohya has none.

Names and defaults are those of Nerogar/OneTrainer, modules/util/config/TrainConfig.py and ConceptConfig.py; older
files hold some of them under flat names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from trainer.kohya.arguments import Differing, Said, Values

_PRECISIONS = {"FLOAT_16": "fp16", "BFLOAT_16": "bf16", "FLOAT_32": "fp32", "TFLOAT_32": "fp32"}
_SCHEDULES = {"COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts"}


def _precision(value: Any) -> Any:
    return _PRECISIONS.get(str(value), value)


def _percent(value: Any) -> Any:
    """A share of the noise as a time step."""
    return round(float(value) * 1000)


# OneTrainer's name -> (kohya's or ours, how the value reads there).
_TABLE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "base_model_name": ("pretrained_model_name_or_path", str),
    "vae.model_name": ("vae", str),
    "output_model_destination": ("output_name", lambda value: PurePath(str(value).replace("\\", "/")).stem),
    "peft_type": ("algo", lambda value: str(value).lower()),
    "lora_rank": ("network_dim", int),
    "lora_alpha": ("network_alpha", float),
    "lora_model_name": ("network_weights", str),
    "dropout_probability": ("network_dropout", float),
    "layer_filter_preset": ("preset", str),
    "output_dtype": ("adapter.save_precision", _precision),
    "train_dtype": ("model.precision", _precision),
    "compile": ("torch_compile", bool),
    "gradient_checkpointing": ("gradient_checkpointing", lambda value: str(value) not in ("OFF", "False")),
    "attention_mechanism": ("model.attention", lambda value: "xformers" if value == "XFORMERS" else "auto"),
    "text_encoder_layer_skip": ("clip_skip", lambda value: int(value) + 1),
    "resolution": ("resolution", str),
    "epochs": ("max_train_epochs", int),
    "batch_size": ("train_batch_size", int),
    "gradient_accumulation_steps": ("gradient_accumulation_steps", int),
    "clip_grad_norm": ("max_grad_norm", float),
    "seed": ("seed", int),
    "optimizer.optimizer": ("optimizer_type", lambda value: str(value).replace("_", "")),
    "learning_rate_scheduler": ("lr_scheduler", lambda value: _SCHEDULES.get(str(value), str(value).lower())),
    "learning_rate_warmup_steps": ("lr_warmup_steps", float),
    "learning_rate_cycles": ("lr_scheduler_num_cycles", lambda value: max(1, round(float(value)))),
    "learning_rate": ("learning_rate", float),
    "unet.learning_rate": ("unet_lr", float),
    "text_encoder.learning_rate": ("text_encoder_lr", float),
    "text_encoder_2.learning_rate": ("learning_rate_te2", float),
    "text_encoder.train": ("adapter.text_encoder", bool),
    "offset_noise_weight": ("noise_offset", float),
    "perturbation_noise_weight": ("ip_noise_gamma", float),
    "rescale_noise_scheduler_to_zero_terminal_snr": ("zero_terminal_snr", bool),
    "min_noising_strength": ("min_timestep", _percent),
    "max_noising_strength": ("max_timestep", _percent),
    "normalize_masked_area_loss": ("loss.mask_normalised", bool),
}
_OLD = {
    "optimizer": "optimizer.optimizer",
    "unet_learning_rate": "unet.learning_rate",
    "text_encoder_learning_rate": "text_encoder.learning_rate",
    "text_encoder_2_learning_rate": "text_encoder_2.learning_rate",
    "train_text_encoder": "text_encoder.train",
    "train_text_encoder_2": "text_encoder_2.train",
    "vae_model_name": "vae.model_name",
    "weight_decay": "optimizer.weight_decay",
    "lora_layer_preset": "layer_filter_preset",
    "train_unet": "unet.train",
    "train_unet_epochs": "unet.stop_training_after",
    "train_text_encoder_epochs": "text_encoder.stop_training_after",
}
_OPTIMIZER_ARGS = ("weight_decay", "d_coef", "d0", "growth_rate", "safeguard_warmup", "use_bias_correction")
_LOSSES = {"P2": "loss.p2_gamma", "MIN_SNR_GAMMA": "min_snr_gamma", "DEBIASED_ESTIMATION": "debiased_estimation_loss"}

# What OneTrainer takes for a setting that a file leaves out.
DEFAULTS: Values = {
    "network_dim": 16,
    "network_alpha": 1.0,
    "adapter.save_precision": "fp32",
    "model.precision": "fp16",
    "optimizer_type": "AdamW",
    "learning_rate": 3e-6,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 200,
    "max_train_epochs": 100,
    "resolution": 512,
    "gradient_checkpointing": True,
    "min_snr_gamma": 0,
    "shuffle_caption": False,
    "keep_tokens": 1,
}

# Fields that no LoRA for SD 1.5 or SDXL needs, or that only say how OneTrainer runs; by the beginning of their names.
_NEEDLESS = {
    "a matter of OneTrainer's own windows, folders and devices": """
        __version debug workspace_dir cache_dir tensorboard continue_last_backup prevent_overwrites include_train_config
        multi_gpu device_indexes gradient_reduce fused_gradient async_ clear_cache image_caching text_caching
        latent_caching caching_threads dataloader_threads prefetch train_device temp_device only_cache cloud secrets
        non_ema samples sample_ concept_file_name optimizer_defaults enable_ac layer_offload validat align_prop
        scheduler_params""",
    "every epoch is saved as a file of its own, and none is deleted": """
        backup rolling_backup save_ output_model_format""",
    "read off the base model itself": "model_type training_method",
    "of other kinds of models, or of training other than a LoRA's": """
        extra_model_name embedding additional_embeddings preserve_embedding token_count initial_embedding
        bundle_additional transformer prior. unconditional decoder effnet text_encoder_3 text_encoder_4 quantization
        frames sequence_length text_encoder_sequence text_encoder_2_sequence vae. vb_loss dynamic_timestep
        timestep_shift oft_ dora_oft lokr_ lora_decompose_ train_prior prior_ cep_""",
    "the base and the VAE are kept in the precision that the run computes in": """
        weight_dtype unet.weight_dtype text_encoder.weight_dtype text_encoder_2.weight_dtype vae.weight_dtype
        unet_weight text_encoder_weight text_encoder_2_weight vae_weight lora_weight_dtype fallback_train_dtype
        enable_autocast""",
}
_REASONS = [(tuple(names.split()), reason) for reason, names in _NEEDLESS.items()]
_ENDINGS = (".__version", ".include", ".model_name", ".train_embedding", ".attention_mask", ".guidance_scale")


def is_it(content: Values) -> bool:
    return "training_method" in content and "model_type" in content


def model_of(content: Values) -> str:
    """Why a LoRA here cannot be what the file trains; empty when it can."""
    method, model = str(content.get("training_method")), str(content.get("model_type"))
    if method != "LORA":
        return f"training_method {method}, and here are only LoRAs"
    known = model.startswith(("STABLE_DIFFUSION_15", "STABLE_DIFFUSION_2", "STABLE_DIFFUSION_XL"))
    return "" if known and "INPAINT" not in model and "DEPTH" not in model else f"a LoRA for {model}"


def arguments(content: Values) -> tuple[Values, dict[str, str], dict[str, str]]:
    """(value by OneTrainer's name, why each other field is without effect, kohya's or our name by OneTrainer's)."""
    given = {_OLD.get(name, name): value for name, value in _unfold(content).items()}
    values: Values = {}
    left: dict[str, str] = {}
    called: dict[str, str] = {}
    for name, value in given.items():
        if name in _TABLE and value is not None:
            called[name], read = _TABLE[name]
            try:
                values[name] = read(value)
            except (ValueError, TypeError, OverflowError):
                values[name] = value  # the validation says what is wrong with it
        elif reason := next((reason for names, reason in _REASONS if name.startswith(names)), ""):
            left[name] = reason
        elif name.endswith(_ENDINGS):
            left[name] = "of other kinds of models, or of training other than a LoRA's"
        elif name != "concepts":
            values[name] = value
    _optimizer(values, called)
    _loss(values, called)
    _kind(values, called)
    _parts(values, called)
    return values, left, called


def _unfold(content: Values) -> Values:
    flat: Values = {}
    for name, value in content.items():
        if isinstance(value, dict) and not name.startswith(("cloud", "secrets")):
            flat |= {f"{name}.{inner}": said for inner, said in value.items()}
        else:
            flat[name] = value
    return flat


def _optimizer(values: Values, called: dict[str, str]) -> None:
    """The optimizer's own arguments in one text; those that are left as they are there are of no use here."""
    own = {name: values.pop(f"optimizer.{name}", None) for name in (*_OPTIMIZER_ARGS, "beta1", "beta2")}
    words = [f"{name}={own[name]}" for name in _OPTIMIZER_ARGS if own[name] not in (None, False)]
    if own["beta1"] is not None and own["beta2"] is not None:
        words.append(f"betas={own['beta1']},{own['beta2']}")
    if words:
        values["optimizer.args"], called["optimizer.args"] = " ".join(words), "optimizer_args"
    for name in [name for name in values if name.startswith("optimizer.") and name not in called]:
        if values[name]:
            values[name] = Differing([values[name]], "add it to optimizer.args where the optimizer takes it")


def _loss(values: Values, called: dict[str, str]) -> None:
    weight = str(values.get("loss_weight_fn", ""))
    strength = values.pop("loss_weight_strength", 5.0)
    if weight in _LOSSES:
        called["loss_weight_fn"] = _LOSSES[weight]
        values["loss_weight_fn"] = True if weight == "DEBIASED_ESTIMATION" else strength
    elif weight == "CONSTANT":
        called["loss_weight_fn"], values["loss_weight_fn"] = "min_snr_gamma", 0
    for name, kind in (("force_v_prediction", "v_prediction"), ("force_epsilon_prediction", "epsilon")):
        if values.pop(name, False):
            values[name], called[name] = kind, "model.prediction"
    if values.get("mse_strength") == 1:
        values["mse_strength"] = False
    unused = {"ema_decay", "ema_update_step_interval"} if str(values.get("ema", "OFF")) == "OFF" else set()
    unused |= set() if values.get("masked_training") else {"unmasked_probability", "unmasked_weight"}
    unused |= set() if values.get("huber_strength") else {"huber_delta"}
    unused |= set() if values.get("noising_weight") else {"noising_bias"}
    unused |= {"timestep_distribution"} if values.get("timestep_distribution") == "UNIFORM" else set()
    for name in unused & values.keys():
        values[name] = False
    if "ema_decay" in values and "ema_decay" not in unused:
        called["ema_decay"] = "loop.ema_decay"
        values["ema"] = Said("loop.ema_decay")


def _kind(values: Values, called: dict[str, str]) -> None:
    if values.get("lora_decompose") is True and values.get("peft_type", "lora") == "lora":
        values["peft_type"], called["peft_type"] = "dora", "algo"
        values["lora_decompose"] = Said("adapter.kind")
    if values.get("layer_filter"):
        values["layer_filter_preset"] = Differing([values["layer_filter"]], "name the modules with adapter.only")
    for name in ("layer_filter", "lora_layers"):
        if name in values:
            values[name] = Said("layer_filter_preset")


def _parts(values: Values, called: dict[str, str]) -> None:
    """Which of the parts are trained, at which rates, and for how long."""
    trained = {part: values.get(f"{part}.train") is not False for part in ("unet", "text_encoder", "text_encoder_2")}
    if values.get("aspect_ratio_bucketing") is not False:
        values.pop("aspect_ratio_bucketing", None)
    if trained["unet"]:
        values.pop("unet.train", None)
    if not trained["text_encoder"]:
        values.pop("text_encoder.learning_rate", None)
    elif not trained["text_encoder_2"]:
        called["text_encoder_2.learning_rate"], values["text_encoder_2.learning_rate"] = "learning_rate_te2", 0.0
    if not trained["text_encoder"] and trained["text_encoder_2"] and "text_encoder_2.train" in values:
        values["text_encoder_2.train"] = Differing([True], "the second text encoder is trained with the first")
    elif "text_encoder_2.train" in values:
        values["text_encoder_2.train"] = Said("optimizer.text_encoder_2_learning_rate")
    for part, learns in trained.items():
        epochs = values.pop(f"{part}.stop_training_after", None)
        unit = values.pop(f"{part}.stop_training_after_unit", None)
        whole = not isinstance(epochs, (int, float)) or epochs >= values.get("epochs", DEFAULTS["max_train_epochs"])
        if learns and not whole and epochs and unit in (None, "EPOCH"):
            why = "it learns to the end here: take a lower learning rate"
            values[f"{part}.stop_training_after"] = Differing([epochs], why)
    resolution = str(values.get("resolution", "")).lower()
    if "," in resolution:
        values["resolution"] = Differing([resolution], "a run has one resolution")
    elif "x" in resolution:
        values["resolution"] = resolution.replace("x", ",")


def folders(content: Values) -> list[Values]:
    """Its concepts as the folders of a dataset of kohya's."""
    found = []
    concepts = content.get("concepts")
    for concept in concepts if isinstance(concepts, list) else ():
        if not isinstance(concept, dict) or not concept.get("path") or concept.get("enabled") is False:
            continue
        if concept.get("validation_concept") or concept.get("type") == "VALIDATION":
            continue
        text, image = concept.get("text"), concept.get("image")
        text, image = (part if isinstance(part, dict) else {} for part in (text, image))
        times = concept.get("balancing", concept.get("repeats", 1)) or 1
        found.append(
            {
                "image_dir": concept["path"],
                "num_repeats": int(times) if isinstance(times, (int, float)) and float(times).is_integer() else times,
                "shuffle_caption": bool(text.get("enable_tag_shuffling")),
                "keep_tokens": text.get("keep_tags_count", 1),
                "flip_aug": bool(image.get("enable_random_flip", True)),
                "is_reg": concept.get("type") == "PRIOR_PREDICTION",
            }
        )
    return found
