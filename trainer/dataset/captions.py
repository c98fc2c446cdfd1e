r"""Captions: the text files beside the pictures, and the algebra of the tags in them.

A caption is kept as it was typed. Tags are what stands between its commas; `\(` and `\)` are the escaped
parentheses of A1111's prompts, and a comma between them belongs to the tag.
"""

import codecs
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from trainer.dataset.journal import Journal, Operation
from trainer.dataset.names import shown
from trainer.errors import UserError

EXTENSION = ".txt"
"""A1111, kohya_ss, OneTrainer; sd-scripts' own default is `.caption`."""

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# --- files ---


@lru_cache(maxsize=200_000)  # asked for every picture by every look at a folder
def sidecar(picture: Path, extension: str = EXTENSION) -> Path:
    """Where the caption of this picture is, or would be: `a/cat.v2.png` -> `a/cat.v2.txt`."""
    return Path(picture).with_suffix("." + extension.lstrip("."))


def read(path: Path) -> str:
    r"""The caption in this file, without white space around it, line breaks as `\n`.

    UTF-8 with or without byte order mark, UTF-16 and UTF-32 with one. Raises UserError for anything else:
    a guessed encoding would train on the wrong words without a trace.
    """
    return decoded(content(path), path)[0].strip()


def encoding(path: Path) -> str:
    """Python's name for the file's encoding, one of utf-8, utf-8-sig, utf-16, utf-32. Raises UserError."""
    try:
        status = os.stat(path)
    except OSError:
        return _encoding(path, 0, 0)  # says what is wrong
    return _encoding(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=200_000)
def _encoding(path: Path, modified: int, size: int) -> str:
    return decoded(content(path), path)[1]


def caption_of(picture: Path, extension: str = EXTENSION) -> str | None:
    """The picture's caption; None when it has no file, "" when the file is empty. Raises like `read`."""
    path = sidecar(picture, extension)
    return read(path) if path.exists() else None


def write_captions(
    folder: Path, changes: Mapping[Path, str | None], operation: str, *, id: str | None = None
) -> str | None:
    """Write these caption files, the old ones into the folder's journal first; None removes a file.

    A file that existed keeps its encoding, line breaks and last line's ending; a new one is UTF-8. A text
    that equals what `read` gives leaves its file alone. Returns the operation's id (None: no change), which
    a long job passes again so that all its parts are undone as one.
    """
    contents = {path: None if text is None else encoded(text, path) for path, text in changes.items()}
    return Journal(folder).write(contents, operation, id=id)


def undo(folder: Path, *, force: bool = False) -> list[Path]:
    """Take back the newest operation on the folder's captions, byte for byte; see `Journal.undo`."""
    return Journal(folder).undo(force=force)


def redo(folder: Path, *, force: bool = False) -> list[Path]:
    """The reverse of `undo`, until something new is written."""
    return Journal(folder).redo(force=force)


def history(folder: Path) -> list[Operation]:
    """What has been done to the captions, oldest first; those that were undone come last."""
    return Journal(folder).history()


def content(path: Path) -> bytes:
    """The caption file as it is. Raises UserError when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"The caption {shown(path)} cannot be read: {error.strerror or error}.") from error


def decoded(content: bytes, path: Path) -> tuple[str, str]:
    """(text with `\\n` line breaks, encoding). Raises UserError for bytes whose encoding cannot be told."""
    name = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(name)
    except UnicodeDecodeError as error:
        where = f"byte 0x{content[error.start]:02x} at position {error.start}" if error.start < len(content) else ""
        raise UserError(_unreadable(path, f"it is not {name.upper().removesuffix('-SIG')} ({where})")) from error
    if "\0" in text:
        raise UserError(_unreadable(path, "it holds zero bytes, as UTF-16 without byte order mark does"))
    return text.replace("\r\n", "\n").replace("\r", "\n"), name


def _unreadable(path: Path, why: str) -> str:
    return (
        f"The encoding of the caption {shown(path)} cannot be told: {why}. "
        f"Open it in an editor, check the letters and save it as UTF-8."
    )


def encoded(text: str, path: Path) -> bytes:
    """The text as the file at `path` would write it; its very bytes when they say the same."""
    try:
        old = Path(path).read_bytes()
        old_text, name = decoded(old, path)
    except FileNotFoundError:
        return _bytes(text.strip() + "\n", "utf-8", path)
    except UserError:  # written over on purpose: the journal keeps the old bytes
        return _bytes(text.strip() + "\n", "utf-8", path)
    if text.strip() == old_text.strip():
        return old
    raw = old.decode(name)
    ending = "\n" if old_text.endswith("\n") or not old_text.strip() else ""
    line_break = "\r\n" if "\r\n" in raw else "\r" if "\r" in raw else "\n"
    new = (text.strip().replace("\r\n", "\n") + ending).replace("\n", line_break)
    if name in ("utf-16", "utf-32"):  # Python would write the machine's byte order
        big = old.startswith((codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
        return _bytes("\ufeff" + new, name + ("-be" if big else "-le"), path)
    return _bytes(new, name, path)


def _bytes(text: str, encoding: str, path: Path) -> bytes:
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise UserError(
            f"The new caption for {shown(path)} holds half a character at position {error.start}: type it again."
        ) from error


# --- tags ---


def split(caption: str) -> list[str]:
    r"""Tags in order, as written, without white space around them and without empty ones.

    >>> split(r"moss, hat,, fate \(a, b\), blue hair")
    ['moss', 'hat', 'fate \\(a, b\\)', 'blue hair']
    """
    return [tag for piece in pieces(caption) if (tag := piece.strip())]


def pieces(caption: str) -> list[str]:
    """What stands between the commas, white space and all: `",".join` of it is the caption again."""
    if "\\(" not in caption:  # nothing can hold a comma back
        return caption.split(",")
    found, start = [], 0
    for comma in _commas(caption):
        found.append(caption[start:comma])
        start = comma + 1
    return [*found, caption[start:]]


def rewrite(caption: str, change: Callable[[str], Iterable[str]]) -> str:
    """Each tag becomes what `change` makes of it: itself, other tags, or nothing.

    Whatever stays keeps its white space and line breaks; a caption of which all stays is returned as it is.
    """
    kept: list[str] = []
    changed = False
    for piece in pieces(caption):
        tag = piece.strip()
        new = list(change(tag)) if tag else [tag]
        if new == [tag]:
            kept.append(piece)
            continue
        changed = True
        before = piece[: len(piece) - len(piece.lstrip())]
        kept += [(" " if at else before) + text for at, text in enumerate(new)]
    return ",".join(kept).strip() if changed else caption


def join(tags: Iterable[str]) -> str:
    """The tags as one caption; `split` gives them back."""
    return ", ".join(tags)


@lru_cache(maxsize=100_000)  # a folder says the same few tags over and over
def same(tag: str) -> str:
    r"""What two tags have in common when they mean the same: case, `_` for space, `\` escapes set aside.

    Taggers and people write `Blue_Hair` and `blue hair`, `fate_(series)` and `fate \(series\)`.
    """
    plain = tag.replace("\\(", "(").replace("\\)", ")").replace("_", " ")
    return " ".join(plain.split()).casefold()


def dedupe(caption: str) -> str:
    """Each tag once, where it stood first and as it was written there."""
    return rewrite(caption, _once(lambda tag: [tag]))


def with_trigger(caption: str, trigger: str) -> str:
    """The trigger word(s) first and nowhere else.

    >>> with_trigger("sitting, Moss, hat", "moss")
    'moss, sitting, hat'
    """
    words = split(trigger)
    if not words:
        return caption
    tags = split(caption)
    if tags[: len(words)] == words and not _having(tags[len(words) :], words):
        return caption
    return join(words + _without(tags, words))


def merge(old: str, new: Iterable[str]) -> str:
    """`old` exactly as it is, followed by those tags that it does not have yet.

    >>> merge("moss,blue hat", ["Moss", "blue_hat", "sitting"])
    'moss,blue hat, sitting'
    """
    there = {same(tag) for tag in split(old)}
    added = [tag for tag in _first_of_each(new) if same(tag) not in there]
    kept = old.rstrip(", \t\n")
    return join(([kept] if kept else []) + added) if added else old


def remove(caption: str, tags: Iterable[str]) -> str:
    """Without these tags; everything else stays as it was typed."""
    unwanted = {same(tag) for tag in tags}
    return rewrite(caption, lambda tag: [] if same(tag) in unwanted else [tag])


def replace(caption: str, replacements: Mapping[str, str]) -> str:
    """Each tag that is a key becomes its value (several tags, or none: ""); no tag appears twice then."""
    table = {same(old): split(new) for old, new in replacements.items()}
    if not any(same(tag) in table for tag in split(caption)):
        return caption
    return rewrite(caption, _once(lambda tag: table.get(same(tag), [tag])))


def _commas(caption: str) -> list[int]:
    r"""Where the commas are that part tags: not those between `\(` and its `\)`.

    A `\(` that is never closed holds nothing back; otherwise one typing mistake would make the rest of the
    caption a single tag.
    """
    commas, inside, opened = [], [], False
    at = 0
    while at < len(caption):
        two = caption[at : at + 2]
        if two == "\\(":
            commas += inside
            inside, opened = [], True
        elif two == "\\)":
            inside, opened = [], False
        elif caption[at] == ",":
            (inside if opened else commas).append(at)
        at += 2 if two in ("\\(", "\\)", "\\\\") else 1
    return commas + inside


def _once(change: Callable[[str], Iterable[str]]) -> Callable[[str], list[str]]:
    """`change`, without what it gave before."""
    seen: set[str] = set()

    def new(tag: str) -> list[str]:
        fresh = [text for text in _first_of_each(change(tag)) if same(text) not in seen]
        seen.update(map(same, fresh))
        return fresh

    return new


def _first_of_each(tags: Iterable[str]) -> list[str]:
    seen: dict[str, str] = {}
    for tag in tags:
        seen.setdefault(same(tag), tag)
    return list(seen.values())


def _without(tags: list[str], unwanted: Iterable[str]) -> list[str]:
    keys = {same(tag) for tag in unwanted}
    return [tag for tag in tags if same(tag) not in keys]


def _having(tags: list[str], wanted: Iterable[str]) -> bool:
    return len(_without(tags, wanted)) < len(tags)
