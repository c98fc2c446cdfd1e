"""Find the pictures of a folder, prove that each can be read, and open them as a model sees them.

Nothing is dropped in silence: a file that counts as a picture by its ending is either returned or named in
an error.
"""

import hashlib
import os
import stat
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from os.path import splitext
from pathlib import Path
from typing import IO, TypeVar

from PIL import Image, UnidentifiedImageError

from trainer.dataset import colour
from trainer.dataset.ahead import ahead
from trainer.dataset.buckets import Placement
from trainer.dataset.measure import Looks, measure, preview
from trainer.dataset.names import listed, natural_part, shown
from trainer.errors import UserError

Result = TypeVar("Result")

ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")

# Only these decoders are tried, whatever the ending says: Pillow knows others (EPS, WMF, ...) that run
# outside programs or that no picture of a data set needs.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF")

# Twice Pillow's warning threshold, where Pillow itself refuses; fixed here because that one is a global
# that other libraries change. 178,956,970 pixels are 0.5 GB as RGB.
MAX_PIXELS = 178_956_970

# Between half the limit and the limit Pillow talks of an attack; we have our own limit and say it plainly.
# (Suppressing it around the call instead is not safe with threads.)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Decoders grumble about odd tags with file and line of their own source; what matters is in our sentences.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Pictures that cameras and editors write and that cannot be read here, so that they can be pointed out.
VIDEO_ENDINGS = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .wmv .flv".split())
FOREIGN_ENDINGS = VIDEO_ENDINGS | frozenset(
    ".heic .heif .jxl .jp2 .psd .xcf .kra .svg .tga .exr .raw .cr2 .cr3 .nef .arw .dng".split()
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One readable picture file; `width` and `height` in pixels as it is shown, after EXIF rotation."""

    path: Path
    width: int
    height: int
    digest: str
    """SHA-256 of the file's bytes, hex."""
    frames: int = 1
    """More than 1 for an animation, of which only the first frame is used."""
    has_alpha: bool = False
    """At least one pixel is not opaque."""
    bytes: int = field(default=0, compare=False)
    mtime_ns: int = field(default=0, compare=False)
    turned: bool = False
    """Stored lying down or mirrored; its EXIF orientation puts it upright."""
    looks: Looks = field(default=Looks(), compare=False)


@dataclass(frozen=True)
class Broken:
    """A file that should be a picture and cannot be used; `reason` reads after "which ...": "is empty"."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.path.name)} {self.reason}"


def find(folder: Path) -> list[Path]:
    """Every file under `folder` with a picture's ending (any case), sub-folders included, in natural order.

    Hidden files and folders are left out; that is where our own journal, masks and originals live.
    Raises UserError when the folder is missing or no folder.
    """
    return files(folder, ENDINGS)


def foreign(folder: Path) -> list[Path]:
    """Pictures and videos under `folder` in formats that cannot be read, for a warning that names them."""
    return files(folder, FOREIGN_ENDINGS)


def files(folder: Path, endings: Container[str]) -> list[Path]:
    """Like `find`, for files with these endings (lower case, with the dot)."""
    return _files(folder, endings)


def scan(folder: Path, *, known: Mapping[Path, Picture] | None = None) -> list[Picture]:
    """All pictures under `folder`, each one decoded completely to prove that it can be.

    `index.scan` remembers between calls and processes. `known` holds pictures of an earlier scan by path; those with
    the same size and time stamp are not read again. Raises UserError for a missing or empty folder, and one that
    names every broken file.
    """
    return whole(folder, *survey(folder, known=known))


def whole(folder: Path, pictures: list[Picture], broken: list[Broken]) -> list[Picture]:
    """The pictures of a survey. Raises UserError that names every broken file."""
    if broken:
        subject, object = ("A picture", "it") if len(broken) == 1 else (f"{len(broken)} pictures", "them")
        names = listed([str(file) for file in broken], separator="; ")
        raise UserError(
            f"{subject} in {shown(folder)} cannot be used: {names}. "
            f"Repair or remove {object} first."
        )
    return pictures


def survey(folder: Path, *, known: Mapping[Path, Picture] | None = None) -> tuple[list[Picture], list[Broken]]:
    """Like `scan`, but broken files are returned instead of raised."""
    pictures: list[Picture] = []
    broken: list[Broken] = []
    for outcome in examine(some(folder), known=known):
        (pictures if isinstance(outcome, Picture) else broken).append(outcome)
    return pictures, broken


def some(folder: Path) -> list[Path]:
    """Like `find`, but raises UserError, with what is there instead, when there is no picture."""
    paths = find(folder)
    if not paths:
        raise UserError(_nothing_found(folder))
    return paths


def examine(paths: Iterable[Path], *, known: Mapping[Path, Picture] | None = None) -> Iterator[Picture | Broken]:
    """Each file's verdict, in order, read on threads a little ahead of the one who takes them."""
    return ahead(lambda path: _examine(path, known or {}), paths)


def open_rgb(path: Path, *, notes: list[str] | None = None) -> Image.Image:
    """The picture as a model sees it: 8-bit sRGB, mode RGB, upright, transparency on white, first frame.

    Colour profiles are applied; where one cannot be, the reason is appended to `notes` (if given) and the
    numbers are used as they stand. Raises UserError naming the file when it cannot be read.
    """
    return _opened(path, lambda image: colour.turned(colour.to_rgb(image, notes), colour.orientation(image)))


def open_alpha(path: Path) -> Image.Image | None:
    """The picture's transparency, upright, mode L, 255 where it is opaque; None when all of it is.

    Raises UserError naming the file when it cannot be read.
    """

    def alpha(image: Image.Image) -> Image.Image | None:
        mask = colour.alpha_of(image)
        return None if mask is None else colour.turned(mask, colour.orientation(image))

    return _opened(path, alpha)


def _opened(path: Path, see: Callable[[Image.Image], Result]) -> Result:
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return see(decode(path, file))
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be opened: {error.strerror or error}.") from error


def fit(image: Image.Image, placement: Placement) -> Image.Image:
    """The picture as it is trained: resized (Lanczos) and cropped to `placement.bucket`."""
    if image.size != placement.size:
        raise ValueError(f"placement is for {placement.size} pixels and the picture has {image.size}")
    return image.resize(placement.scaled, Image.Resampling.LANCZOS).crop(placement.crop)


def decode(path: Path, file: IO[bytes]) -> Image.Image:
    """The opened file's first frame as it is stored, decoded in full. Raises UserError naming the file."""
    try:
        return _decode(file)
    except _Unusable as error:
        raise UserError(f"{shown(path)} {error}. Repair or remove it first.") from error


class _Unusable(Exception):
    """Why a file is no picture for us; reads after the file's name."""


def stamps(folder: Path, endings: Container[str]) -> dict[str, tuple[int, int]]:
    """File -> (time of its last change in ns, bytes) for the files that `files` would name, in no order: quick.

    (0, 0) for one that has gone since it was listed, and for a link that leads nowhere.
    """
    there = (os.path.join(parent, name) for parent, names in _walk(_existing(folder), endings) for name in names)
    return {file: _stamp(file) for file in there}


def _stamp(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _files(folder: Path, endings: Container[str] | None = None) -> list[Path]:
    folder = _existing(folder)
    found = []
    for parent, names in _walk(folder, endings):
        above = tuple(map(natural_part, Path(parent).relative_to(folder).parts))
        found += [((*above, natural_part(name)), parent, name) for name in names]
    found.sort()
    return [Path(parent, name) for _, parent, name in found]


def _existing(folder: Path) -> Path:
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"The folder {shown(folder)} does not exist: check its name, or make it and fill it.")
    if not folder.is_dir():
        raise UserError(f"{shown(folder)} is a file: give the folder that the pictures are in.")
    return folder


def _walk(folder: Path, endings: Container[str] | None) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of the files in it) for the folder and those in it; None takes files of any ending."""
    seen = set()

    def refuse(error: OSError):
        raise UserError(f"{shown(error.filename)} cannot be read: {error.strerror}.") from error

    # People link picture folders together; a link back to a parent must not send us round for ever.
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        identity = (status.st_dev, status.st_ino)
        if identity in seen and status.st_ino:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        wanted = (name for name in files if endings is None or splitext(name)[1].lower() in endings)
        yield parent, [name for name in wanted if not name.startswith(".")]


def _nothing_found(folder: Path) -> str:
    found = [path.suffix.lower() or "(no ending)" for path in _files(folder)]
    kinds = sorted(set(found), key=lambda kind: (-found.count(kind), kind))
    what = listed([f"{found.count(kind)} {shown(kind)}" for kind in kinds]) if kinds else "no files at all"
    return f"No pictures in {shown(folder)}: files ending in {' '.join(ENDINGS)} count, and it holds {what}."


def _examine(path: Path, known: Mapping[Path, Picture]) -> Picture | Broken:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            return Broken(path, "is no ordinary file")
        before = known.get(path)
        if before and (before.bytes, before.mtime_ns) == (status.st_size, status.st_mtime_ns):
            return before
        with open(path, "rb") as file:
            return _read(path, file, status)
    except _Unusable as error:
        return Broken(path, str(error))
    except OSError as error:
        return Broken(path, f"cannot be opened ({error.strerror or error})")


def _read(path: Path, file: IO[bytes], status: os.stat_result) -> Picture:
    image = _decode(file)
    width, height = colour.size_as_shown(image)
    has_alpha = colour.alpha_of(image) is not None
    turn = colour.orientation(image)
    looks = measure(colour.turned(colour.to_rgb(preview(image)), turn))
    frames = _frames(image)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    stamp = status.st_size, status.st_mtime_ns
    return Picture(path, width, height, digest, frames, has_alpha, *stamp, turn != 1, looks)


def _frames(image: Image.Image) -> int:
    if image.format in ("MPO", "TIFF"):  # further pages and camera previews are no animation
        return 1
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # a later frame is broken; the first one, which is used, was decoded
        return 1


def _decode(file: IO[bytes]) -> Image.Image:
    """The first frame, decoded in full. Raises _Unusable with the reason."""
    file.seek(0, os.SEEK_END)
    if file.tell() == 0:
        raise _Unusable("is empty (0 bytes)")
    file.seek(0)
    image = _open(file)
    if image.width * image.height > MAX_PIXELS:
        raise _Unusable(_too_large(image.width, image.height))
    try:
        image.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error ...
        raise _Unusable(f"is cut short or damaged ({_reason(error)})") from error
    if image.mode in ("I", "F"):
        raise _Unusable("holds 32-bit values, whose white point is unknown; save it with 8 or 16 bit")
    return image


def _open(file: IO[bytes]) -> Image.Image:
    """Reads the header only."""
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError as error:
        raise _Unusable("is not a picture, whatever its ending says") from error
    except Image.DecompressionBombError as error:
        raise _Unusable(_too_large()) from error
    except Exception as error:  # as above: anything can come out of a damaged header
        raise _Unusable(f"has a damaged header ({_reason(error)})") from error


@cache
def _formats() -> list[str]:
    """Those of FORMATS that this Pillow was built with (AVIF came with 11.3)."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _too_large(width: int = 0, height: int = 0) -> str:
    size = f"claims {width}×{height} pixels, " if width else "claims a size "
    return f"{size}above the limit of {MAX_PIXELS / 1e6:.0f} million pixels; scale it down if that is true"


def _reason(error: Exception) -> str:
    return shown(" ".join(str(error).split()))[:120] or type(error).__name__
