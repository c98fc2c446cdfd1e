"""Settings: how the epochs are rendered for comparison."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.config.declare import Part, setting


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
    noise_source: Literal["NV", "CPU", "GPU"] = setting(
        "NV",
        label="Noise from",
        help="Where a seed's noise is drawn: NV is what an NVIDIA card draws in A1111 and Forge, here on any machine; "
        "CPU is ComfyUI's way; GPU is the card that is there.",
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
    model_folders: tuple[str, ...] = setting(
        ("models",),
        label="Model folders",
        help="Where the LoRAs that a prompt names with <lora:name:1> and the hires fix's upscalers are looked for.",
    )
    embedding_folders: tuple[str, ...] = setting(
        ("embeddings",),
        label="Embedding folders",
        help="Where the embeddings (textual inversions) that a prompt or negative prompt names are looked for.",
    )
    loss_pictures: int = setting(
        8,
        ge=0,
        le=200,
        label="Pictures for the loss",
        help="On so many training pictures each epoch's denoising loss is measured, four time steps each; 0 is none.",
    )
    held_out: str = setting(
        "",
        label="Held-out pictures",
        help="A folder of captioned pictures of the same subject that the run was not trained on: the loss on them "
        "shows when learning becomes learning by heart. Empty takes those that data.validation_split held back.",
    )
