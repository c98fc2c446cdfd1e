"""What a run trains on: pictures with captions and places in buckets. No torch: the studio shows the same list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.config import DataConfig, TrainConfig
from trainer.dataset import buckets, captions, images
from trainer.errors import UserError


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

    def as_json(self, folder: Path) -> dict:
        return {
            "file": self.path.relative_to(folder).as_posix(),
            "sha256": self.digest,
            "caption": self.caption,
            "size": [self.width, self.height],
            "bucket": list(self.placement.bucket),
            "scaled": list(self.placement.scaled),
            "crop": list(self.placement.crop),
            "lost": round(self.placement.lost, 4),
            "repeats": self.repeats,
        }


def load_examples(config: DataConfig) -> list[Example]:
    """Every picture of the folder, none dropped, in natural order.

    A picture without a caption is trained on the trigger word alone. Raises UserError for a missing or empty
    folder, a broken picture or an unreadable caption, naming the file.
    """
    if not config.folder:
        raise UserError("data.folder: no pictures were given; name their folder with --data datasets/NAME.")
    folder = Path(config.folder)
    shapes = buckets.make_buckets(
        config.resolution, min(config.bucket_min, config.resolution), config.bucket_max, config.bucket_step
    )
    return [_example(picture, config, shapes) for picture in images.scan(folder)]


def _example(picture: images.Picture, config: DataConfig, shapes: list[tuple[int, int]]) -> Example:
    caption = captions.caption_of(picture.path) or ""
    return Example(
        path=picture.path,
        digest=picture.digest,
        caption=captions.with_trigger(caption, config.trigger),
        width=picture.width,
        height=picture.height,
        repeats=config.repeats,
        placement=buckets.place(
            picture.width, picture.height, shapes, upscale=config.upscale, step=config.bucket_step
        ),
    )


def count_steps(examples: list[Example], config: TrainConfig) -> tuple[int, int]:
    """Updates in all and in one epoch."""
    placements, repeats = [e.placement for e in examples], [e.repeats for e in examples]
    batches = buckets.steps_per_epoch(placements, repeats, config.loop.batch_size)
    per_epoch = -(-batches // config.loop.gradient_accumulation)
    return per_epoch * config.loop.epochs, per_epoch


def common_first_tag(folder: Path) -> str:
    """The tag that stands first in every caption of a folder: its trigger word. Empty when there is none."""
    firsts = set()
    for path in images.find(folder):
        tags = captions.split(captions.caption_of(path) or "")
        firsts.add(tags[0] if tags else "")
    return firsts.pop() if len(firsts) == 1 else ""
