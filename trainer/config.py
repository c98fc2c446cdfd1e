"""Every setting of a training run, each declared exactly once.

A setting's name, type, range, unit, label, plain-language help and kohya name all stand in its line here.
The command line (`--set adapter.rank=16`), the studio's form, the preset check, the documentation table and
the kohya import are made from these declarations, so a new setting is one line in this file and the place
that obeys it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from trainer.errors import UserError, nearest


def setting(
    default: Any = ...,
    *,
    label: str,
    help: str,
    kohya: str | tuple[str, ...] = (),
    unit: str = "",
    front: bool = False,
    **limits: Any,
) -> Any:
    """Declare one setting. `front` puts it among the few that everyone sees; `kohya` names its equals there."""
    names = (kohya,) if isinstance(kohya, str) else kohya
    extra = {"label": label, "unit": unit, "kohya": list(names), "front": front}
    return Field(default, description=help, json_schema_extra=extra, **limits)


class Part(BaseModel):
    """A group of settings, as the form shows it. Frozen: a run never changes its own configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class ModelConfig(Part):
    """The base model that learns."""

    base: str = setting(
        "toybox/sd15",
        label="Base model",
        help="A .safetensors checkpoint (SD 1.5 or SDXL), a diffusers folder, a hub id, toybox/sd15 or toybox/sdxl.",
        kohya="pretrained_model_name_or_path",
        front=True,
    )
    vae: str = setting(
        "",
        label="VAE",
        help="Another VAE file or folder instead of the one inside the base model; empty takes the base's own.",
        kohya="vae",
    )
    clip_skip: int = setting(
        1,
        ge=1,
        le=12,
        label="Clip skip",
        help="Which layer of the SD 1.5 text encoder feeds the picture model, counted from the end as A1111 does. "
        "Use what the base model asks for: 2 for most anime models, 1 for the others. SDXL has its own fixed rule.",
        kohya="clip_skip",
    )
    precision: Literal["fp32", "bf16", "fp16"] = setting(
        "bf16",
        label="Precision",
        help="Arithmetic of the frozen model. bf16 suits RTX 30 and newer; fp16 older cards; fp32 is exact and slow. "
        "The LoRA's own weights are always trained in float32.",
        kohya="mixed_precision",
    )
    attention: Literal["auto", "sdpa", "xformers"] = setting(
        "auto",
        label="Attention",
        help="auto uses torch's own memory-saving attention (SDPA), which is as fast as xformers on current cards. "
        "xformers is there for older ones; if it cannot load, SDPA is used and the reason is printed.",
        kohya=("sdpa", "xformers"),
    )
    gradient_checkpointing: bool = setting(
        False,
        label="Gradient checkpointing",
        help="Computes parts of the network twice instead of keeping them: saves much memory and costs some speed.",
        kohya="gradient_checkpointing",
    )


class DataConfig(Part):
    """The pictures and their captions."""

    folder: str = setting(
        "",
        label="Pictures",
        help="The folder with the pictures and their .txt captions.",
        kohya="train_data_dir",
        front=True,
    )
    trigger: str = setting(
        "",
        label="Trigger word",
        help="The word that calls the character or style. A rare word works best. It stands first in each caption "
        "and is never shuffled away.",
        front=True,
    )
    class_word: str = setting(
        "",
        label="Class word",
        help="What it is, in the base model's own words: cat, 1girl, toy. Prompt sets put it where they say [class].",
        kohya="class_tokens",
    )
    resolution: int = setting(
        512,
        ge=64,
        le=2048,
        multiple_of=8,
        unit="px",
        label="Resolution",
        help="Pictures are scaled to this area. 512 for SD 1.5, 1024 for SDXL; lower is faster and loses detail.",
        kohya="resolution",
        front=True,
    )
    repeats: int = setting(
        1,
        ge=1,
        le=10_000,
        label="Repeats",
        help="How often each picture is seen in one epoch. Few pictures want more repeats, so that an epoch is a "
        "useful distance between two saved files.",
        kohya=("num_repeats", "dataset_repeats"),
        front=True,
    )
    bucket_step: int = setting(
        64,
        ge=8,
        le=256,
        multiple_of=8,
        unit="px",
        label="Bucket step",
        help="Pictures of other shapes go into buckets whose sides are multiples of this. Smaller crops less off.",
        kohya="bucket_reso_steps",
    )
    bucket_min: int = setting(
        256,
        ge=8,
        le=2048,
        multiple_of=8,
        unit="px",
        label="Smallest bucket side",
        help="No bucket side is shorter than this (or than the resolution, if that is lower).",
        kohya="min_bucket_reso",
    )
    bucket_max: int = setting(
        2048,
        ge=64,
        le=4096,
        multiple_of=8,
        unit="px",
        label="Longest bucket side",
        help="No bucket side is longer than this, so a panorama is cropped rather than squeezed.",
        kohya="max_bucket_reso",
    )
    upscale: bool = setting(
        True,
        label="Enlarge small pictures",
        help="On: a picture smaller than its bucket is enlarged. Off: it goes into a bucket of its own size, "
        "so nothing soft is learned.",
    )
    shuffle_tags: bool = setting(
        True,
        label="Shuffle tags",
        help="New tag order in every step, so that no tag leans on its place. Turn it off for captions in sentences.",
        kohya="shuffle_caption",
    )
    keep_tokens: int = setting(
        1,
        ge=0,
        le=50,
        label="Keep first tags",
        help="This many tags at the front stay where they are when tags are shuffled: 1 keeps the trigger word first.",
        kohya="keep_tokens",
    )
    caption_dropout: float = setting(
        0.0,
        ge=0,
        lt=1,
        label="Caption dropout",
        help="Share of steps in which the caption is left empty. 0.05 helps a style; a character needs its captions.",
        kohya="caption_dropout_rate",
    )


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
    warmup: float = setting(
        0.0,
        ge=0,
        label="Warm-up",
        help="Steps in which the learning rate rises from zero: below 1 a share of all steps, from 1 on a number.",
        kohya="lr_warmup_steps",
    )


class LossConfig(Part):
    """What counts as an error."""

    min_snr_gamma: float = setting(
        5.0,
        ge=0,
        le=100,
        label="Min-SNR gamma",
        help="Evens out easy and hard noise levels, so training is steadier and faster. 5 is the paper's value, 0 off.",
        kohya="min_snr_gamma",
    )
    kind: Literal["l2", "huber", "smooth_l1"] = setting(
        "l2",
        label="Loss",
        help="l2 is the usual one. huber and smooth_l1 care less about single large errors, which helps with pictures "
        "of mixed quality.",
        kohya="loss_type",
    )
    huber_c: float = setting(
        0.1,
        gt=0,
        le=10,
        label="Huber threshold",
        help="For huber and smooth_l1: errors above about this size count less. Smaller is more forgiving.",
        kohya="huber_c",
    )
    huber_schedule: Literal["snr", "exponential", "constant"] = setting(
        "snr",
        label="Huber schedule",
        help="For huber and smooth_l1: snr and exponential forgive more where there is more noise, constant nowhere.",
        kohya="huber_schedule",
    )
    debiased: bool = setting(
        False,
        label="Debiased estimation",
        help="Weighs the noisiest levels up, where shapes are decided. Another way than min-SNR: use one of the two.",
        kohya="debiased_estimation_loss",
    )
    v_prediction_like: float = setting(
        0.0,
        ge=0,
        le=10,
        label="v-prediction-like loss",
        help="Adds this much of the weight that a v-prediction model would give to each noise level. 0 is off.",
        kohya="v_pred_like_loss",
    )
    p2_gamma: float = setting(
        0.0,
        ge=0,
        le=10,
        label="P2 gamma",
        help="Weighs the nearly clean noise levels down, so that content counts more than fine grain. 1 is the paper's "
        "value, 0 off.",
    )
    p2_k: float = setting(
        1.0,
        gt=0,
        le=100,
        label="P2 k",
        help="For P2: keeps the weight of the noisiest levels from running away; 1 is the paper's value.",
    )
    noise_offset: float = setting(
        0.0,
        ge=0,
        le=1,
        label="Noise offset",
        help="Lets the LoRA learn very dark and very bright pictures. 0.03 to 0.1 where it is wanted, 0 off.",
        kohya="noise_offset",
    )
    multires_iterations: int = setting(
        0,
        ge=0,
        le=64,
        label="Pyramid noise",
        help="Adds noise of this many coarser sizes, another way to dark and bright pictures. 6 to 10, 0 off.",
        kohya="multires_noise_iterations",
    )
    multires_discount: float = setting(
        0.3,
        gt=0,
        le=1,
        label="Pyramid discount",
        help="For pyramid noise: how much weaker each coarser size is. 0.1 to 0.3 with few pictures, 0.8 with many.",
        kohya="multires_noise_discount",
    )
    input_perturbation: float = setting(
        0.0,
        ge=0,
        le=1,
        label="Input perturbation",
        help="Adds noise that the model is not asked to find, against overfitting. The paper has 0.1, 0 is off.",
        kohya="ip_noise_gamma",
    )
    min_timestep: int = setting(
        0,
        ge=0,
        le=999,
        label="First time step",
        help="Trains noise levels from this one on; 0 is an almost clean picture. Higher leaves fine texture alone.",
        kohya="min_timestep",
    )
    max_timestep: int = setting(
        1000,
        ge=1,
        le=1000,
        label="Last time step",
        help="Trains noise levels below this one; 1000 is pure noise. Lower leaves composition alone.",
        kohya="max_timestep",
    )
    zero_terminal_snr: bool = setting(
        False,
        label="Zero terminal SNR",
        help="Lets the last noise level be pure noise. Only for v-prediction bases that were made that way.",
        kohya="zero_terminal_snr",
    )


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


class EvaluationConfig(Part):
    """How the epochs are rendered for comparison."""

    prompts: str = setting(
        "character",
        label="Prompt set",
        help="Name of a file in presets/prompts/ or a path to one. Its prompts are the columns of the grid.",
    )
    strengths: tuple[Annotated[float, Field(ge=-4, le=4)], ...] = setting(
        (1.0,),
        min_length=1,
        label="Strengths",
        help="LoRA weights to render, as in <lora:name:0.8>.",
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = setting(
        (1,),
        min_length=1,
        label="Seeds",
        help="Each prompt is rendered once for every seed; the same seeds for every epoch, so that pictures compare.",
    )
    sampler: str = setting(
        "Euler a",
        label="Sampling method",
        help="A1111's name of the sampler, with or without its schedule type, such as DPM++ 2M Karras.",
    )
    steps: int = setting(20, ge=1, le=150, label="Sampling steps", help="20 to 30 for most samplers.")
    cfg_scale: float = setting(
        7.0,
        ge=1,
        le=30,
        label="CFG scale",
        help="How strictly the prompt is followed; 7 is the middle for SD 1.5, 5 for SDXL.",
    )
    size: int = setting(
        0,
        ge=0,
        le=2048,
        multiple_of=8,
        unit="px",
        label="Size",
        help="Side of the rendered pictures where a prompt names none; 0 takes the training resolution.",
    )
    batch_size: int = setting(
        4,
        ge=1,
        le=64,
        label="Render batch",
        help="Pictures rendered at once. Does not change the pictures, only speed and memory.",
    )


class TrainConfig(Part):
    """A whole run: what `config.toml` in the run folder holds, every default written out."""

    name: str = setting(
        "",
        label="Name",
        help="Name of the LoRA: of its files, and what stands in <lora:name:1>.",
        kohya="output_name",
        front=True,
        max_length=100,
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    adapter: AdapterConfig = AdapterConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


# ── what others derive from the declarations ────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Setting:
    """One declared setting as the form, the command line and the documentation see it."""

    path: str  # "adapter.rank"
    type: Any
    default: Any
    label: str
    help: str
    unit: str
    front: bool
    kohya: tuple[str, ...]
    limits: dict[str, Any]  # ge, gt, le, lt, multiple_of, as declared

    @property
    def choices(self) -> tuple[str, ...]:
        return get_args(self.type) if get_origin(self.type) is Literal else ()


def settings(part: type[Part] = TrainConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting in the order of declaration, parts unfolded into dotted paths."""
    for name, field in part.model_fields.items():
        path = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Part):
            yield from settings(field.annotation, path + ".")
        else:
            yield _setting(path, field)


def _setting(path: str, field: FieldInfo) -> Setting:
    extra = field.json_schema_extra
    limits = {}
    for constraint in field.metadata:
        for key in ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern"):
            if getattr(constraint, key, None) is not None:
                limits[key] = getattr(constraint, key)
    return Setting(
        path,
        field.annotation,
        field.default,
        extra["label"],
        field.description,
        extra["unit"],
        extra["front"],
        tuple(extra["kohya"]),
        limits,
    )


def setting_paths() -> dict[str, str]:
    """Every name under which a setting may be addressed -> its path; kohya's names are taken as aliases."""
    names = {entry.path: entry.path for entry in settings()}
    for entry in settings():
        for alias in entry.kohya:
            names.setdefault(alias, entry.path)
    return names


def find_path(name: str, where: str) -> str:
    """The path of the setting called `name` (its own path or kohya's name). Raises UserError when there is none."""
    names = setting_paths()
    if name not in names:
        raise UserError(f"{where}: there is no setting {name!r}; {_nearest_setting(name)}")
    return names[name]


def _nearest_setting(name: str) -> str:
    """Also compares the part after the last dot alone: people forget or mistype the group's name."""
    last = {path.rsplit(".")[-1]: path for path in (entry.path for entry in settings())}
    close = get_close_matches(name.rsplit(".")[-1], last, n=2, cutoff=0.6)
    return nearest(name, setting_paths()) if not close else f"did you mean {' or '.join(last[key] for key in close)}?"


def validate(values: dict[str, Any], where: str) -> TrainConfig:
    """Nested plain values -> a checked TrainConfig. `where` names the file or option in the error.

    Raises UserError naming the setting, what was given, and what is allowed.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(error.errors()[0])}") from None


def _sentence(problem: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {path!r}; {_nearest_setting(path)}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{path} = {problem['input']!r}: {message}. See `lora-studio settings {path}`."
