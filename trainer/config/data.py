"""Settings: the pictures and their captions."""

from __future__ import annotations

from trainer.config.declare import Part, setting


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
