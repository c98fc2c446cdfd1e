"""What a run trains on: pictures with captions and places in buckets. No torch: the studio shows the same list."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from trainer.config import DataConfig, TrainConfig
from trainer.dataset import buckets, captions, duplicates, images, index, masks
from trainer.errors import UserError

Role = Literal["training", "regularisation", "validation"]
_KOHYA_FOLDER = re.compile(r"(\d+)_(.+)")


@dataclass(frozen=True)
class Example:
    """One picture as the trainer sees it."""

    path: Path
    digest: str  # SHA-256 of the file
    caption: str
    width: int  # of the file as shown, px
    height: int
    repeats: int
    placement: buckets.Placement
    root: Path = Path()  # the folder that was given
    role: Role = "training"
    mask: Path | None = None  # a grey picture, or the picture itself for its transparency
    mask_digest: str = ""

    @property
    def folder(self) -> str:
        """The name of the folder that counts as one in metadata: kohya's `10_moss girl`, or the one given."""
        return (_kohya_folder(self.path, self.root) or self.root.resolve()).name

    def as_json(self) -> dict:
        return {
            "file": self.path.relative_to(self.root).as_posix(),
            "folder": self.root.as_posix(),
            "sha256": self.digest,
            "caption": self.caption,
            "size": [self.width, self.height],
            "bucket": list(self.placement.bucket),
            "scaled": list(self.placement.scaled),
            "crop": list(self.placement.crop),
            "lost": round(self.placement.lost, 4),
            "repeats": self.repeats,
            "role": self.role,
        }


def load_examples(config: DataConfig) -> list[Example]:
    """Every picture of every folder, none dropped: those of each folder in natural order, the held-back ones last.

    A picture without a caption is trained on the trigger word, or on what kohya's folder name says. Raises
    UserError for a missing or empty folder, a broken picture or mask, or an unreadable caption, naming the file.
    """
    if not config.folder:
        raise UserError("data.folder: no pictures were given; name their folder with --data datasets/NAME.")
    found: list[Example] = []
    for folder, times in weighted_folders(config):
        found += _load(folder, times, config, "training")
    if len({example.path.resolve() for example in found}) < len(found):
        raise UserError("data.more_folders: a folder is given twice, or inside another one: name each only once.")
    found, held = _hold_back(found, config.validation_split)
    if config.regularisation:
        wanted = sum(example.repeats for example in found)
        found += _balanced(_load(Path(config.regularisation), 1, config, "regularisation"), wanted)
    # Last, so that what is drawn for the others is what it would be without them.
    return found + held


def folders(config: DataConfig) -> list[Path]:
    """Every folder whose files decide what `load_examples` answers."""
    trained = [folder for folder, _ in weighted_folders(config)]
    return [*trained, *map(Path, filter(None, [config.regularisation, config.mask_folder]))]


def weighted_folders(config: DataConfig) -> list[tuple[Path, float]]:
    """The folders that are trained on, and how many times each one's pictures count. Raises UserError for a number of
    times that is none."""
    return [(Path(config.folder), 1), *map(_folder_and_times, config.more_folders)]


def repeats_in(folder: Path, root: Path, usual: int, times: float) -> int:
    """How often an epoch sees each picture that lies in `folder`, which is the given `root` or in it."""
    return max(1, round((named_by_folder(folder / "_", root)[0] or usual) * times))


def repeats_of(name: str) -> int:
    """What a folder called `10_moss girl` says: 10; 0 where a name says nothing."""
    match = _KOHYA_FOLDER.fullmatch(name)
    return max(1, int(match[1])) if match else 0


def as_recorded(config: DataConfig, record: Path) -> list[Example]:
    """The pictures of a run with the roles that its dataset.json gave them, by content; those that came later are left
    out. Without that file as `load_examples`."""
    try:
        roles = {entry["sha256"]: entry["role"] for entry in json.loads(record.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError):
        return load_examples(config)
    found = load_examples(config.model_copy(update={"validation_split": 0.0}))
    return [replace(example, role=roles[example.digest]) for example in found if example.digest in roles]


def trained(examples: Iterable[Example]) -> list[Example]:
    """Without those that are held back."""
    return [example for example in examples if example.role != "validation"]


def count_steps(examples: list[Example], config: TrainConfig) -> tuple[int, int]:
    """Updates in all and in one epoch; the last epoch may be a part of one."""
    seen = trained(examples)
    placements, repeats = [e.placement for e in seen], [e.repeats for e in seen]
    batches = buckets.steps_per_epoch(placements, repeats, config.loop.batch_size)
    per_epoch = -(-batches // config.loop.gradient_accumulation)
    return config.loop.max_steps or per_epoch * config.loop.epochs, per_epoch


def count_epochs(examples: list[Example], config: TrainConfig) -> int:
    """How many files the run will save."""
    steps, per_epoch = count_steps(examples, config)
    return -(-steps // per_epoch) if per_epoch else config.loop.epochs


HEADCOUNT = re.compile(r"(\d+\+?|multiple)[ _]?(girl|boy|other|creature)s?|solo|no[ _]humans")  # as Danbooru says it


def common_first_tag(folder: Path) -> str:
    """The tag that stands first in every caption of a folder: its trigger word. Empty when there is none.

    What a tagger begins with by itself, how many there are to be seen, is no name: nobody asked for a trigger then.
    """
    firsts = set()
    for path in images.find(folder):
        tags = captions.split(_words(path, folder))
        firsts.add(tags[0] if tags else "")
    first = firsts.pop() if len(firsts) == 1 else ""
    return "" if HEADCOUNT.fullmatch(first) else first


def _words(picture: Path, root: Path, extension: str = captions.EXTENSION) -> str:
    """What the caption file says, or without one kohya's folder name."""
    endings = dict.fromkeys([extension, captions.EXTENSION, ".caption"])
    texts = (captions.caption_of(picture, ending) for ending in endings)
    said = next((text for text in texts if text is not None), None)
    return named_by_folder(picture, root)[1] if said is None else said


# ── folders ─────────────────────────────────────────────────────────────────────────────────────────────


def _folder_and_times(text: str) -> tuple[Path, float]:
    """`datasets/hats*3` -> (datasets/hats, 3)."""
    path, star, times = text.strip().rpartition("*")
    if not star:
        return Path(text.strip()), 1
    if not re.fullmatch(r"\s*\d{1,6}(\.\d{1,12})?\s*", times) or float(times) == 0:
        raise UserError(f"data.more_folders: {text!r} ends in *{times}, which is no number of times: write PATH*3.")
    return Path(path.strip()), float(times)


def _load(folder: Path, times: float, config: DataConfig, role: Role) -> list[Example]:
    shapes = buckets.make_buckets(
        config.resolution, min(config.bucket_min, config.resolution), config.bucket_max, config.bucket_step
    )
    usual = config.repeats if role == "training" else 1

    @cache  # many pictures have one size, and one folder
    def place(width: int, height: int) -> buckets.Placement:
        return buckets.place(width, height, shapes, upscale=config.upscale, step=config.bucket_step)

    @cache
    def repeats(parent: Path) -> int:
        return repeats_in(parent, folder, usual, times)

    found = []
    for picture in index.scan(folder):
        mask, mask_digest = _mask_of(picture, folder, config) if role == "training" else (None, "")
        found.append(
            Example(
                path=picture.path,
                digest=picture.digest,
                caption=_caption(_words(picture.path, folder, config.caption_extension), config, role),
                width=picture.width,
                height=picture.height,
                repeats=repeats(picture.path.parent),
                placement=place(picture.width, picture.height),
                root=folder,
                role=role,
                mask=mask,
                mask_digest=mask_digest,
            )
        )
    return found


def named_by_folder(picture: Path, root: Path) -> tuple[int, str]:
    """(repeats, words) that a folder called `10_moss girl` gives its pictures; (0, "") when none says anything."""
    folder = _kohya_folder(picture, root)
    return (repeats_of(folder.name), folder.name.partition("_")[2].strip()) if folder else (0, "")


def _kohya_folder(picture: Path, root: Path) -> Path | None:
    """The nearest folder around a picture, up to the one that was given, whose name says repeats and words."""
    parts = picture.relative_to(root).parts[:-1]
    around = [root.joinpath(*parts[:depth]) for depth in range(len(parts), 0, -1)] + [root.resolve()]
    return next((folder for folder in around if _KOHYA_FOLDER.fullmatch(folder.name)), None)


def _caption(caption: str, config: DataConfig, role: Role) -> str:
    if role == "regularisation":
        return caption or config.class_word
    lines = caption.split("\n") if config.wildcards else [caption]
    return "\n".join(_with_trigger(line, config) for line in lines)


def _with_trigger(caption: str, config: DataConfig) -> str:
    """The trigger first, and among the kept tags where a separator marks them."""
    separator = config.keep_tokens_separator
    if not config.trigger or not separator or separator not in caption:
        return captions.with_trigger(caption, config.trigger)
    kept, *others = caption.split(separator)
    others = [captions.remove(part, captions.split(config.trigger)) for part in others]
    return separator.join([captions.with_trigger(kept, config.trigger), *others])


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────


def _mask_of(picture: images.Picture, root: Path, config: DataConfig) -> tuple[Path | None, str]:
    """The grey picture of the same name in the mask folder, or the picture itself for its transparency, and the
    SHA-256 of that file."""
    if not config.mask_folder:
        return (picture.path, picture.digest) if config.alpha_mask and picture.has_alpha else (None, "")
    folder, name = Path(config.mask_folder), picture.path.relative_to(root)
    if not folder.is_dir():
        raise UserError(f"data.mask_folder: there is no folder {folder}: check its name, or leave the setting empty.")
    if folder.resolve() == masks.folder(Path(config.folder)).resolve():
        # Painted by hand or made of transparency, among the pictures of each folder; without one, learned whole.
        own = masks.of(root, picture.path)
        return (own, hashlib.sha256(own.read_bytes()).hexdigest()) if own else (None, "")
    for ending in (picture.path.suffix, *images.ENDINGS):
        for path in (folder / name.with_suffix(ending), folder / name.with_suffix(ending).name):
            if path.is_file():
                return path, hashlib.sha256(path.read_bytes()).hexdigest()
    raise UserError(f"data.mask_folder: {folder} holds no mask for {name}: add one, all white if it is learned whole.")


# ── who is trained ──────────────────────────────────────────────────────────────────────────────────────


def _hold_back(examples: list[Example], split: float) -> tuple[list[Example], list[Example]]:
    """(to be trained, held back): whole groups of near-duplicates, at least one group and never all.

    Which ones depends on the pictures alone, so runs with other settings are measured by the same ones.
    """
    if split == 0:
        return examples, []
    wanted = max(1, round(split * len(examples)) if split < 1 else round(split))
    groups = _alike(examples)
    groups.sort(key=lambda group: min(examples[at].digest for at in group))
    held: set[int] = set()
    for group in groups:
        # A group that would go beyond is passed over for a smaller one, unless there is nothing else.
        if len(held) + len(group) <= wanted:
            held |= set(group)
    held = held or set(min(groups, key=len))
    if len(held) == len(examples):
        raise UserError(
            "data.validation_split: nothing would be left to train on: hold fewer pictures back (all of them may be "
            "nearly the same picture)."
        )
    kept = [example for at, example in enumerate(examples) if at not in held]
    return kept, [replace(examples[at], role="validation") for at in sorted(held)]


def _alike(examples: list[Example]) -> list[list[int]]:
    """Indices of the examples, those of nearly the same picture together."""
    places = {example.path: at for at, example in enumerate(examples)}
    groups = [[places.pop(path) for path in group] for group in duplicates.groups(list(places), mirrored=True)]
    return groups + [[at] for at in places.values()]


def _balanced(examples: list[Example], wanted: int) -> list[Example]:
    """Repeated one after the other until they are as many as the others; more than that stay as they are."""
    times = Counter({at: example.repeats for at, example in enumerate(examples)})
    missing = max(0, wanted - times.total())
    for at in range(len(examples)):
        times[at] += missing // len(examples) + (at < missing % len(examples))
    return [replace(example, repeats=times[at]) for at, example in enumerate(examples)]
