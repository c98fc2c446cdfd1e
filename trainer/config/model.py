"""Settings: the base model that learns."""

from __future__ import annotations

from typing import Literal

from trainer.config.declare import Part, setting


class ModelConfig(Part):
    """The base model that learns."""

    base: str = setting(
        "toybox/sd15",
        label="Base model",
        help="A .safetensors checkpoint (SD 1.5, 2.x, SDXL), a diffusers folder, a hub id, toybox/sd15 or toybox/sdxl.",
        kohya="pretrained_model_name_or_path",
        front=True,
    )
    vae: str = setting(
        "",
        label="VAE",
        help="Another VAE file or folder instead of the one inside the base model; empty takes the base's own.",
        kohya="vae",
    )
    prediction: Literal["auto", "epsilon", "v_prediction"] = setting(
        "auto",
        label="Prediction type",
        help="What the base model was trained to predict: the noise (epsilon, most models) or v. auto reads it off the "
        "model's files. Choose it where a model's page says v-prediction and its pictures come out as brown noise: "
        "merges often lose the mark.",
        kohya="v_parameterization",
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
        "The LoRA's own weights are trained in float32 all the same.",
        kohya="mixed_precision",
    )
    full_bf16: bool = setting(
        False,
        label="Full bf16",
        help="Trains the LoRA's own weights in bf16 as well. Saves a little memory, and loses small updates: only "
        "where it would not fit otherwise, and with a higher learning rate.",
        kohya="full_bf16",
    )
    no_half_vae: bool = setting(
        False,
        label="VAE in full precision",
        help="Computes the VAE in float32 even where fp16 would do. It is done by itself when a picture comes out of "
        "the VAE as no number, so this only saves that attempt.",
        kohya="no_half_vae",
    )
    quantize: Literal["none", "fp8", "int8", "nf4"] = setting(
        "none",
        label="Compress the base",
        help="Keeps the frozen UNet in fewer bits to save memory: fp8 and int8 take half of bf16, nf4 a quarter. "
        "Somewhat slower, and the LoRA learns on a slightly different base. Pictures are rendered with the whole one.",
        kohya="fp8_base",
    )
    compile: bool = setting(
        False,
        label="Compile",
        help="Lets torch.compile build faster code for the UNet: minutes of waiting at the start, faster steps "
        "afterwards. For long runs with few picture sizes.",
        kohya="torch_compile",
    )
    cuda_graphs: bool = setting(
        False,
        label="CUDA graphs",
        help="Records the work of a step once for each picture size and replays it. Where the processor cannot keep "
        "an NVIDIA card busy (SD 1.5, small batches, a fast card), steps take down to half the time. Takes a few "
        "seconds a picture size; not with a text encoder that is trained or with module dropout.",
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
