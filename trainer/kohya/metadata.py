"""What a LoRA file says about its training, as sd-scripts writes it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from trainer.config import AdapterConfig, TrainConfig
from trainer.kohya import blockwise
from trainer.kohya.file import Metadata

if TYPE_CHECKING:
    from trainer.families import Family


@dataclass(frozen=True)
class FolderFacts:
    """One folder of pictures. sd-scripts has one number of repeats a folder; `seen` counts each picture's own."""

    pictures: int
    repeats: int
    seen: int


@dataclass(frozen=True)
class Facts:
    """What a file's metadata says that the configuration does not know."""

    family: Family
    base_name: str
    base_sha256: str = ""
    base_legacy_hash: str = ""  # 8 digits
    vae_name: str = ""  # only when the VAE is not the base's own
    vae_sha256: str = ""
    prediction_type: str = "epsilon"
    tag_frequency: dict[str, dict[str, int]] = field(default_factory=dict)  # folder -> tag -> pictures having it
    images: dict[str, FolderFacts] = field(default_factory=dict)
    regularisation: dict[str, FolderFacts] = field(default_factory=dict)
    buckets: dict[tuple[int, int], int] = field(default_factory=dict)  # (width, height) -> pictures times repeats
    run: str = ""
    batches_per_epoch: int = 0
    batches_per_update: int = 0  # over all processes; 0 for the configuration's accumulation
    epoch: int = 0  # finished epochs, as in the file's name
    epochs: int = 0  # of the whole run; 0 for the configuration's
    step: int = 0
    steps: int = 0  # of the whole run
    started: float = 0.0  # seconds since 1970
    finished: float = 0.0
    optimizer: str = ""  # its class with the path, torch.optim.adamw.AdamW


def training_metadata(config: TrainConfig, facts: Facts) -> Metadata:
    """Everything that sd-scripts writes about a training (`ss_…`) and the model specification 1.0.1 of Stability
    AI (`modelspec.…`). Dicts and lists are JSON; what a run does not use has sd-scripts' value for "off"."""
    values = {
        **_about_run(config, facts),
        **_about_network(config, facts),
        **_about_loss(config),
        **_about_data(config, facts),
        **_about_base(facts),
    }
    text = {key: json.dumps(value) if isinstance(value, (dict, list)) else str(value) for key, value in values.items()}
    return {**text, **_modelspec(config, facts)}


def session_id(run: str) -> int:
    """One number for all files of a run."""
    return int(hashlib.sha256(run.encode()).hexdigest()[:8], 16)


def _about_run(config: TrainConfig, facts: Facts) -> dict[str, Any]:
    loop, optimizer = config.loop, config.optimizer
    warmup = optimizer.warmup * facts.steps if optimizer.warmup < 1 else optimizer.warmup
    return {
        # One number for all epochs of a run; a resumed run keeps it.
        "ss_session_id": session_id(facts.run),
        "ss_training_started_at": facts.started,
        "ss_training_finished_at": facts.finished,
        "ss_output_name": config.name,
        "ss_learning_rate": optimizer.learning_rate,
        "ss_unet_lr": optimizer.learning_rate,
        "ss_text_encoder_lr": _text_rate(config, facts),
        "ss_num_batches_per_epoch": facts.batches_per_epoch,
        "ss_num_epochs": facts.epochs or loop.epochs,
        "ss_epoch": facts.epoch,
        "ss_steps": facts.step,
        "ss_max_train_steps": facts.steps,
        "ss_batch_size_per_device": loop.batch_size,
        "ss_total_batch_size": loop.batch_size * (facts.batches_per_update or loop.gradient_accumulation),
        "ss_gradient_checkpointing": config.model.gradient_checkpointing,
        "ss_gradient_accumulation_steps": loop.gradient_accumulation,
        "ss_lr_warmup_steps": round(warmup),
        "ss_lr_scheduler": optimizer.schedule,
        "ss_optimizer": _optimizer(config, facts),
        "ss_max_grad_norm": loop.max_grad_norm,
        "ss_mixed_precision": {"fp32": "no"}.get(config.model.precision, config.model.precision),
        "ss_full_fp16": False,
        **({"ss_fp8_base": True} if config.model.quantize == "fp8" else {}),
        "ss_lowram": False,
        "ss_seed": loop.seed,
        "ss_training_comment": None,
    }


def _text_rate(config: TrainConfig, facts: Facts) -> Any:
    """None when no text encoder is trained; a list where SDXL's two differ."""
    rates = [config.learning_rate(component) for component in facts.family.text_components]
    if not any(rates):
        return None
    return rates[0] if len(set(rates)) == 1 else rates


def _optimizer(config: TrainConfig, facts: Facts) -> str:
    """sd-scripts' way: the class's path and its arguments in brackets."""
    args = config.optimizer.args.replace(", ", ",").split()
    return (facts.optimizer or config.optimizer.name) + (f"({','.join(args)})" if args else "")


def _about_network(config: TrainConfig, facts: Facts) -> dict[str, Any]:
    return {
        "ss_network_module": "networks.lora" if config.adapter.kind in ("lora", "locon") else "lycoris.kohya",
        "ss_network_dim": config.adapter.rank,
        "ss_network_alpha": config.adapter.alpha,
        "ss_network_dropout": config.adapter.dropout or None,
        "ss_network_args": _network_args(config, facts),
        "ss_v2": facts.family.name == "sd2",
        "ss_base_model_version": facts.family.base_model_version + ("_v" if _is_v2_v(facts) else ""),
        "ss_clip_skip": config.model.clip_skip if facts.family.max_clip_skip > 1 else None,
        "ss_max_token_length": config.data.max_tokens or None,
    }


def _is_v2_v(facts: Facts) -> bool:
    return facts.family.name == "sd2" and facts.prediction_type == "v_prediction"


def _network_args(config: TrainConfig, facts: Facts) -> dict[str, Any]:
    """kohya's --network_args: what is not at its default, by the names of sd-scripts and LyCORIS."""
    adapter = config.adapter
    conv_rank = adapter.conv_rank or (adapter.rank if adapter.kind == "locon" else 0)
    values = {
        "algo": {"dora": "locon" if conv_rank else "lora"}.get(adapter.kind, adapter.kind),
        "dora_wd": adapter.kind == "dora",
        "preset": _lycoris_preset(adapter),
        "conv_dim": conv_rank,
        "conv_alpha": adapter.conv_alpha or adapter.alpha / adapter.rank * conv_rank,
        "factor": adapter.lokr_factor if adapter.kind == "lokr" else 0,
        "rs_lora": adapter.rslora,
        "block_dims": adapter.block_ranks,
        "block_alphas": adapter.block_alphas,
        **blockwise.rates(config, xl=facts.family.name == "sdxl"),
        "rank_dropout": adapter.rank_dropout,
        "module_dropout": adapter.module_dropout,
        "loraplus_lr_ratio": config.optimizer.lora_plus_ratio if config.optimizer.lora_plus_ratio > 1 else 0,
    }
    if adapter.kind in ("lora", "locon"):
        del values["algo"]
    elif adapter.kind == "dora":
        values["wd_on_output"] = "False"  # the axis of its magnitudes
    return {key: str(value) for key, value in values.items() if value}


def _lycoris_preset(adapter: AdapterConfig) -> str:
    """The one that trains what is trained here. LyCORIS' usual one adds the convolutions, with the network's dim."""
    if adapter.kind in ("lora", "locon") or adapter.conv_rank:
        return ""
    return "attn-mlp" if adapter.targets == "all" else "attn-only"


def _about_loss(config: TrainConfig) -> dict[str, Any]:
    loss = config.loss
    return {
        "ss_noise_offset": loss.noise_offset or None,
        "ss_multires_noise_iterations": loss.multires_iterations or None,
        "ss_multires_noise_discount": loss.multires_discount,
        "ss_adaptive_noise_scale": None,
        "ss_zero_terminal_snr": loss.zero_terminal_snr,
        "ss_min_snr_gamma": loss.min_snr_gamma or None,
        "ss_scale_weight_norms": config.adapter.scale_weight_norms or None,
        "ss_ip_noise_gamma": loss.input_perturbation or None,
        "ss_debiased_estimation": loss.debiased,
        "ss_loss_type": loss.kind,
        "ss_huber_schedule": loss.huber_schedule,
        "ss_huber_c": loss.huber_c,
        "ss_prior_loss_weight": loss.prior_weight,
    }


def _about_data(config: TrainConfig, facts: Facts) -> dict[str, Any]:
    data = config.data
    sizes = enumerate(sorted(facts.buckets))
    buckets = {str(number): {"resolution": list(size), "count": facts.buckets[size]} for number, size in sizes}
    shared = {
        "enable_bucket": True,
        "bucket_no_upscale": not data.upscale,
        "min_bucket_reso": min(data.bucket_min, data.resolution),
        "max_bucket_reso": data.bucket_max,
        "tag_frequency": facts.tag_frequency,
        "bucket_info": {"buckets": buckets},
    }
    subset = {
        "color_aug": data.colour_shift,
        "flip_aug": data.flip,
        "random_crop": data.random_crop,
        "shuffle_caption": data.shuffle_tags,
        "keep_tokens": data.keep_tokens,
    }
    count = sum(folder.seen for folder in facts.images.values())
    regular = sum(folder.seen for folder in facts.regularisation.values())
    # sd-scripts writes either this list or the flat entries, depending on how it was started; readers know one each.
    dataset = {
        "is_dreambooth": True,
        "batch_size_per_device": config.loop.batch_size,
        "num_train_images": count,
        "num_reg_images": regular,
        "resolution": [data.resolution, data.resolution],
        **shared,
        "subsets": [
            {"image_dir": name, "img_count": found.pictures, "num_repeats": found.repeats, "is_reg": is_reg, **subset}
            for is_reg, folders in ((False, facts.images), (True, facts.regularisation))
            for name, found in folders.items()
        ],
    }
    return {
        "ss_num_train_images": count,
        "ss_num_reg_images": regular,
        "ss_cache_latents": True,
        "ss_caption_dropout_rate": data.caption_dropout,
        "ss_caption_tag_dropout_rate": data.tag_dropout,
        "ss_resolution": f"({data.resolution}, {data.resolution})",
        "ss_datasets": [dataset],
        "ss_dataset_dirs": _directories(facts.images),
        "ss_reg_dataset_dirs": _directories(facts.regularisation),
        **{f"ss_{key}": value for key, value in {**shared, **subset}.items()},
    }


def _directories(folders: dict[str, FolderFacts]) -> dict[str, Any]:
    return {name: {"n_repeats": found.repeats, "img_count": found.pictures} for name, found in folders.items()}


def _about_base(facts: Facts) -> dict[str, Any]:
    values = {
        "ss_sd_model_name": facts.base_name,
        "ss_sd_model_hash": facts.base_legacy_hash,
        "ss_new_sd_model_hash": facts.base_sha256,
        "ss_vae_name": facts.vae_name,
        "ss_new_vae_hash": facts.vae_sha256,
    }
    return {key: value for key, value in values.items() if value}


def _modelspec(config: TrainConfig, facts: Facts) -> Metadata:
    xl = facts.family.name == "sdxl"
    values = {
        "sai_model_spec": "1.0.1",
        "architecture": _architecture(facts),
        # What sd-scripts writes for each: SDXL's modules have SGM's names, SD 1.5's have diffusers'.
        "implementation": "https://github.com/Stability-AI/generative-models" if xl else "diffusers",
        "title": config.name,
        "date": datetime.fromtimestamp(facts.finished, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "resolution": f"{config.data.resolution}x{config.data.resolution}",
        "prediction_type": {"v_prediction": "v"}.get(facts.prediction_type, facts.prediction_type),
        "trigger_phrase": config.data.trigger,
        "timestep_range": _timestep_range(config),
        "encoder_layer": "" if facts.family.max_clip_skip == 1 else str(config.model.clip_skip),
    }
    return {f"modelspec.{key}": value for key, value in values.items() if value}


def _architecture(facts: Facts) -> str:
    if facts.family.name == "sd2" and not _is_v2_v(facts):
        return "stable-diffusion-v2-512/lora"
    return facts.family.modelspec_architecture


def _timestep_range(config: TrainConfig) -> str:
    """First and last time step that were trained; nothing when all were, as sd-scripts has it."""
    first, last = config.loss.min_timestep, config.loss.max_timestep
    return "" if (first, last) == (0, 1000) else f"{first},{last}"
