"""Settings: the pictures and their captions."""

from __future__ import annotations

from trainer.config.declare import Part, setting


class DataConfig(Part):
    """The pictures and their captions."""

    folder: str = setting(
        "",
        label="Pictures",
        help="The folder with the pictures and their captions, sub-folders included. One named in kohya's way, "
        "10_moss girl, says its own repeats, and what a picture without a caption shows.",
        kohya="train_data_dir",
        front=True,
    )
    more_folders: tuple[str, ...] = setting(
        (),
        label="More folders",
        help="Further folders, parted by commas. *3 after one makes its pictures count three times: datasets/hats*3. "
        "*0.5 halves their repeats.",
    )
    regularisation: str = setting(
        "",
        label="Regularisation pictures",
        help="A folder of ordinary pictures of the same kind (other cats, for a cat), so that the base model does not "
        "forget what they look like. They get no trigger word, and are repeated until they are as many as yours.",
        kohya="reg_data_dir",
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
        help="No bucket side is shorter than this (or than the resolution, if that is lower), but for small pictures "
        "that are not enlarged.",
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
    flip: bool = setting(
        False,
        label="Mirror",
        help="Half of the time a picture is seen mirrored. Good for few pictures; not for anything with a parting, a "
        "scar or writing on one side.",
        kohya="flip_aug",
    )
    random_crop: bool = setting(
        False,
        label="Random crop",
        help="Cuts different parts out of pictures that are larger than their bucket, not the middle alone.",
        kohya="random_crop",
    )
    colour_shift: bool = setting(
        False,
        label="Shift colours",
        help="Slightly other hues or brightness, so that one picture's lighting is not learned. Not where the exact "
        "colours matter.",
        kohya="color_aug",
    )
    variants: int = setting(
        4,
        ge=1,
        le=64,
        label="Variants",
        help="For random crop and shifted colours: how many versions of each picture are prepared, the plain one among "
        "them. More take more disk and a longer preparation, and cost nothing while training.",
    )
    alpha_mask: bool = setting(
        False,
        label="Transparency is a mask",
        help="Trains only what is opaque in pictures with transparent parts, so that their background is not learned.",
        kohya="alpha_mask",
    )
    mask_folder: str = setting(
        "",
        label="Masks",
        help="A folder with a grey picture for each picture, of the same name: white is learned, black is not. "
        "Masks painted in the studio lie in the folder .masks among the pictures; there, one without is learned whole.",
        kohya="conditioning_data_dir",
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
    keep_tokens_separator: str = setting(
        "|||",
        label="Keep separator",
        help="Where a caption has this, the tags before it stay in place instead of a fixed number; after a second one "
        "the rest stays too. It is never trained itself.",
        kohya="keep_tokens_separator",
    )
    secondary_separator: str = setting(
        "",
        label="Second separator",
        help="Tags joined by this, as in red hat;;;red bow, move and drop out together, and are trained with a comma.",
        kohya="secondary_separator",
    )
    caption_prefix: str = setting(
        "",
        label="Before each caption",
        help="Words put before every caption with a space, never shuffled; write the comma too. Regularisation "
        "pictures get them as well.",
        kohya="caption_prefix",
    )
    caption_suffix: str = setting(
        "",
        label="After each caption",
        help="Words put after every caption with a space, never shuffled; begin with a comma where one is wanted.",
        kohya="caption_suffix",
    )
    caption_extension: str = setting(
        ".txt",
        min_length=1,
        label="Caption files end in",
        help="Ending of the caption files. A picture without such a file takes its .txt or .caption file.",
        kohya="caption_extension",
    )
    wildcards: bool = setting(
        False,
        label="Wildcards",
        help="In a caption, {red|blue} hat is one of the two in each step, and of several lines one is taken. "
        "{{ and }} are plain braces.",
        kohya="enable_wildcard",
    )
    tag_dropout: float = setting(
        0.0,
        ge=0,
        lt=1,
        label="Tag dropout",
        help="Share of the tags left out in each step, never the kept ones. 0.1 loosens what always occurs together.",
        kohya="caption_tag_dropout_rate",
    )
    caption_dropout: float = setting(
        0.0,
        ge=0,
        lt=1,
        label="Caption dropout",
        help="Share of steps in which the caption is left empty. 0.05 helps a style; a character needs its captions.",
        kohya="caption_dropout_rate",
    )
    caption_dropout_every: int = setting(
        0,
        ge=0,
        le=10_000,
        unit="epochs",
        label="Epochs without captions",
        help="Every so many epochs all captions are left empty. 0 is never.",
        kohya="caption_dropout_every_n_epochs",
    )
    max_tokens: int = setting(
        0,
        ge=0,
        le=225,
        multiple_of=75,
        label="Longest caption",
        help="Tokens of a caption that are read: 75, 150 or 225, joined as kohya does, and the rest is cut off. 0 "
        "reads all of every caption, parted at commas and joined as A1111 does.",
        kohya="max_token_length",
    )
    validation_split: float = setting(
        0.0,
        ge=0,
        le=10_000,
        label="Held back",
        help="Pictures kept out of training to measure it by: below 1 a share, from 1 on a number. Near-duplicates "
        "stay together. The loss on them, at the same noise after each epoch, rises when the LoRA begins to overfit.",
        kohya="validation_split",
    )
