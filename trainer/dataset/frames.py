"""Frames of a video or an animated picture, as pictures in a new folder; each with where in the film it was.

Videos are read by PyAV (https://pyav.basswood-io.com), which is installed with the extra `video`; animated pictures
need nothing.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageSequence

from trainer import files
from trainer.dataset import colour, duplicates, images
from trainer.dataset.buckets import Size
from trainer.dataset.measure import measure
from trainer.dataset.names import shown
from trainer.dataset.prepare import record, save
from trainer.dataset.splitting import check_target
from trainer.errors import UserError

HIGH = 720
"""Lines from which a video that does not say its colours has those of HDTV, as players take it."""


@dataclass(frozen=True)
class Choice:
    """Which frames are taken; all conditions that are set must be met."""

    every: int = 1
    """Of so many frames the first one."""
    per_second: float = 0.0
    """So many a second of the film; 0 sets no such limit."""
    changed: bool = False
    """Only when the picture is no near duplicate of the one that was taken last, as `duplicates` judges."""
    most: int = 0
    """The end once so many are taken; 0 sets no limit."""


@dataclass(frozen=True)
class Taken:
    """One frame that is now a picture."""

    file: str
    source: str
    sha256: str
    """Of the source's bytes."""
    frame: int
    """From 0."""
    seconds: float
    """Where in the film, as far as the film says."""
    size: Size


def split(
    source: Path,
    to: Path,
    choice: Choice,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> list[Taken]:
    """Write the frames of one film, or of every film in a folder, as PNGs into the new folder `to`.

    `progress` gets (frames looked at, of how many or None) of each film. With `dry_run` nothing is written; otherwise
    the folder is whole or not there. Raises UserError for what is no film, for one that is damaged, and without PyAV.
    """
    source, to = Path(source), Path(to)
    films = _films(source)
    check_target(source, to)
    if dry_run:
        return list(_taken(films, source, None, choice, progress))
    with files.new_folder(to) as part:
        taken = list(_taken(films, source, part, choice, progress))
        if not taken:
            raise UserError(f"{shown(source)} gave no frame at all: convert it again.")
        record(part, map(asdict, taken))
    return taken


def _taken(films: list[Path], source: Path, to: Path | None, choice: Choice, progress) -> Iterator[Taken]:
    root = source if source.is_dir() else source.parent
    stems = [film.with_suffix("").as_posix().casefold() for film in films]
    for film, stem in zip(films, stems):
        with open(film, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = film.relative_to(root)
        # clip.mp4 and clip.gif, told apart
        new = name.with_suffix("") if stems.count(stem) == 1 else name.with_name(name.name.replace(".", "-"))
        for number, seconds, picture in _chosen(_frames(film, progress), choice):
            file_name = f"{new.as_posix()}-{number:06}.png"
            if to and (to / file_name).exists():
                raise UserError(f"Two films would give {shown(file_name)}: rename {shown(name)}.")
            if to:
                save(picture, to / file_name)
            yield Taken(file_name, name.as_posix(), digest, number, round(seconds, 3), picture.size)


Frame = tuple[int, float, Callable[[], Image.Image]]
"""(number from 0, seconds, what decodes it to RGB): most are passed over, and those need no colours."""


def _films(source: Path) -> list[Path]:
    if source.is_dir():
        found = [path for path in images.files(source, images.VIDEO_ENDINGS | set(images.ENDINGS)) if _moves(path)]
        if not found:
            raise UserError(f"{shown(source)} holds no video and no animated picture: name the folder of a film.")
        return found
    if not source.is_file():
        raise UserError(f"There is no film {shown(source)}: check its name.")
    if not _moves(source):
        raise UserError(f"{shown(source)} is a picture that does not move: name a video or an animation.")
    return [source]


def _moves(path: Path) -> bool:
    if path.suffix.lower() in images.VIDEO_ENDINGS:
        return True
    (found,) = images.examine([path])
    return isinstance(found, images.Picture) and found.frames > 1


def _frames(film: Path, progress: Callable[[int, int | None], None] | None) -> Iterator[Frame]:
    read = _video if film.suffix.lower() in images.VIDEO_ENDINGS else _animation
    number = -1
    try:
        for number, (total, seconds, picture) in enumerate(read(film)):
            yield number, seconds, picture
            if progress:
                progress(number + 1, total)
    except UserError:
        raise
    except Exception as error:  # decoders of damaged films raise errors of many kinds
        raise UserError(
            f"{shown(film)} cannot be read after {number + 1} frames ({shown(str(error))[:120]}): "
            f"convert it again, or take the frames before that with --most."
        ) from error


def _chosen(frames: Iterator[Frame], choice: Choice) -> Iterator[tuple[int, float, Image.Image]]:
    last, slot, taken = None, -1, 0
    for number, seconds, decode in frames:
        if number % choice.every:
            continue
        # Slots of time rather than frames, since the rate of a film may change.
        now = math.floor(seconds * choice.per_second + 1e-6)
        if choice.per_second and now == slot:
            continue
        picture = decode()
        if choice.changed:
            looks = measure(picture)
            if last is not None and duplicates.alike(looks, last):
                continue
            last = looks
        slot = now
        yield number, seconds, picture
        taken += 1
        if taken == choice.most:
            return


def _animation(path: Path) -> Iterator[tuple[int, float, Callable[[], Image.Image]]]:
    with open(path, "rb") as file:
        image = images.decode(path, file)
        total, seconds = image.n_frames, 0.0
        for frame in ImageSequence.Iterator(image):
            frame.load()
            yield total, seconds, lambda frame=frame: colour.turned(colour.to_rgb(frame), colour.orientation(frame))
            seconds += frame.info.get("duration", 100) / 1000  # browsers show what says nothing for a tenth


def _video(path: Path) -> Iterator[tuple[int | None, float, Callable[[], Image.Image]]]:
    if find_spec("av") is None:
        raise UserError(
            f"Reading {shown(path.name)} needs PyAV, which is not installed: run pip install av, then the command "
            f"again; animated pictures work without."
        )
    import av

    # By handle and without other protocols: neither a name such as `concat:a.mp4` nor a playlist inside the file may
    # make FFmpeg open something else.
    with open(path, "rb") as file, av.open(file, options={"protocol_whitelist": "none"}) as container:
        if not container.streams.video:
            raise UserError(f"{shown(path)} holds no moving picture.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            if frame.width * frame.height > images.MAX_PIXELS:
                raise UserError(f"{shown(path)} has frames of {frame.width}×{frame.height} pixels: scale it down.")
            seconds = frame.time if frame.time is not None else number / float(stream.average_rate or 25)
            yield stream.frames or None, seconds, lambda frame=frame: _picture(frame, stream.sample_aspect_ratio)


def _picture(frame, aspect) -> Image.Image:
    """The frame as it is shown: with square pixels, upright, in the colours that it says."""
    from av.video.reformatter import Colorspace

    unknown = int(frame.colorspace) == 2  # AVCOL_SPC_UNSPECIFIED
    picture = frame.to_image(src_colorspace=Colorspace.ITU709 if unknown and frame.height >= HIGH else None)
    if aspect and aspect != 1:
        picture = picture.resize((max(1, round(frame.width * float(aspect))), frame.height), Image.Resampling.LANCZOS)
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
