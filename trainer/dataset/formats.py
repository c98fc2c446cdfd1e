"""Where captions are kept: one file beside each picture, or one file for all of them.

`read(folder, pictures, "kohya")` gives picture -> text whatever the format is, `write` journals the change, so that
everything that edits captions works on every format. A format is two functions in FORMATS.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.dataset import captions, images
from trainer.dataset.journal import Journal
from trainer.dataset.names import listed, shown
from trainer.dataset.tags import is_prose
from trainer.errors import UserError, nearest

METADATA = "metadata.jsonl"
TEXT_KEYS = ("text", "caption", "prompt")
"""Columns that a row of metadata.jsonl may keep its text in; a new file uses the first."""
KOHYA = ("meta_lat.json", "meta_cap.json")
"""Names that kohya's own documentation uses, the last step's file first; a new file gets the last name."""

SIDECARS = {"txt": ".txt", "caption": ".caption"}
"""Formats of one file a picture -> its ending."""

Texts = Mapping[Path, str | None]
"""Picture -> its caption; None without one."""


@dataclass(frozen=True)
class Format:
    """How captions are found for pictures, and what files must say to hold them."""

    read: Callable[[Path, Sequence[Path]], dict[Path, str | None]]
    contents: Callable[[Path, Texts], dict[Path, bytes | None]]
    """Files with their new bytes, None for one to remove; only what differs between texts is touched."""


def read(folder: Path, pictures: Iterable[Path], format: str = "txt") -> dict[Path, str | None]:
    """Every picture's caption. Raises UserError for an unknown format and for files that cannot be read."""
    return _format(format).read(Path(folder), list(pictures))


def write(folder: Path, texts: Texts, operation: str, format: str = "txt", *, id: str | None = None) -> str | None:
    """Keep these captions, the old files in the folder's journal first; see `captions.write_captions`."""
    return Journal(folder).write(_format(format).contents(Path(folder), texts), operation, id=id)


def present(folder: Path) -> list[str]:
    """Formats of which there is something in the folder, in the order of FORMATS."""
    folder = Path(folder)
    there = {path.suffix.lower() for path in images.files(folder, set(SIDECARS.values()))}
    found = {name: ending in there for name, ending in SIDECARS.items()}
    found |= {"metadata": (folder / METADATA).exists(), "kohya": any((folder / name).exists() for name in KOHYA)}
    return [name for name in FORMATS if found[name]]


def convert(folder: Path, source: str, target: str, *, overwrite: bool = False) -> dict[Path, str | None]:
    """The captions that `target` has to be given to say what `source` says; `write` them to do it.

    What is there in `target` and says something else is an error unless `overwrite`.
    """
    if source == target:
        raise UserError(f"The captions are to be converted from {source} to {target}: name two different formats.")
    folder = Path(folder)
    pictures = images.find(folder)
    texts, there = read(folder, pictures, source), read(folder, pictures, target)
    if not any(text is not None for text in texts.values()):
        found = ", ".join(present(folder)) or "none at all"
        raise UserError(f"{shown(folder)} holds no captions in the format '{source}'; it holds {found}.")
    changes = {path: text for path, text in texts.items() if text is not None and text != there[path]}
    clashes = [shown(path.name) for path in changes if there[path]]
    if clashes and not overwrite:
        raise UserError(
            f"The {target} captions of {listed(clashes)} say something else: "
            f"convert with --overwrite to replace them; undo takes it back."
        )
    return changes


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"Unknown caption format '{name}': {nearest(name, FORMATS)}")
    return FORMATS[name]


# --- one file a picture ---


def _one_each(extension: str) -> Format:
    def contents(_: Path, texts: Texts) -> dict[Path, bytes | None]:
        files: dict[Path, str | None] = {}
        for picture, text in texts.items():
            path = captions.sidecar(picture, extension)
            if files.setdefault(path, text) != text:
                raise UserError(
                    f"{shown(picture.name)} shares the caption {shown(path.name)} with another picture, and they are "
                    f"to say different things: rename one of the pictures."
                )
        return {path: None if text is None else captions.encoded(text, path) for path, text in files.items()}

    def read(_: Path, pictures: Sequence[Path]) -> dict[Path, str | None]:
        return {path: captions.caption_of(path, extension) for path in pictures}

    return Format(read, contents)


# --- Hugging Face imagefolder: one JSON object a line, {"file_name": "a.png", "text": "..."} ---


def _read_metadata(folder: Path, pictures: Sequence[Path]) -> dict[Path, str | None]:
    rows = {row["file_name"]: row for _, row in _rows(folder / METADATA) if row}
    found: dict[Path, str | None] = {}
    for picture in pictures:
        row = rows.get(_relative(folder, picture), {})
        found[picture] = _clean(next((row[key] for key in TEXT_KEYS if row.get(key) is not None), None))
    return found


def _metadata_contents(folder: Path, texts: Texts) -> dict[Path, bytes | None]:
    path = folder / METADATA
    wanted = {_relative(folder, picture): text for picture, text in texts.items()}
    lines: list[str] = []
    rows = _rows(path)
    line_break = "\r\n" if any(line.endswith("\r\n") for line, _ in rows) else "\n"
    key = next((key for _, row in rows for key in TEXT_KEYS if row and key in row), TEXT_KEYS[0])
    for line, row in rows:
        name = row["file_name"] if row else None
        if name not in wanted:
            lines.append(line)
            continue
        text = wanted.pop(name)
        own = next((key for key in TEXT_KEYS if row.get(key) is not None), key)
        if _clean(row.get(own)) == _clean(text):
            lines.append(line)
            continue
        changed = {k: v for k, v in row.items() if k != own} if text is None else row | {own: text}
        if set(changed) != {"file_name"}:
            lines.append(json.dumps(changed, ensure_ascii=False) + line_break)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += line_break
    new = [{"file_name": name, key: text} for name, text in wanted.items() if text is not None]
    lines += [json.dumps(row, ensure_ascii=False) + line_break for row in new]
    if not lines and not path.exists():
        return {}
    return {path: _utf8("".join(lines), path)}


def _rows(path: Path) -> list[tuple[str, dict | None]]:
    """(the line with its ending, what it says or None for an empty line)."""
    if not path.exists():
        return []
    rows: list[tuple[str, dict | None]] = []
    for number, line in enumerate(_whole(path).split("\n"), start=1):
        try:
            row = json.loads(line.removeprefix("\ufeff")) if line.strip() else None
            if row is not None and not isinstance(row["file_name"], str):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"Line {number} of {shown(path)} is no JSON object with a file_name: repair or remove it."
            ) from error
        rows.append((line + "\n", row))
    last, row = rows.pop()  # after the last line break: empty, or a line without one
    return [*rows, (last[:-1], row)] if last != "\n" else rows


# --- kohya's dataset JSON: {"name or path": {"tags": "...", "caption": "..."}} ---


def _read_kohya(folder: Path, pictures: Sequence[Path]) -> dict[Path, str | None]:
    path, entries = _kohya(folder)
    keys = _kohya_keys(folder, pictures, entries)
    return {picture: _kohya_text(entries.get(keys[picture])) for picture in pictures}


def _kohya_text(entry: dict | None) -> str | None:
    """As sd-scripts trains it: the caption, then the tags."""
    parts = [entry[part] for part in ("caption", "tags") if isinstance(entry.get(part), str)] if entry else []
    return _clean(", ".join(part for part in parts if part)) if parts else None


def _kohya_contents(folder: Path, texts: Texts) -> dict[Path, bytes | None]:
    path, entries = _kohya(folder)
    before = json.dumps(entries)
    for picture, key in _kohya_keys(folder, list(texts), entries).items():
        text, entry = texts[picture], entries.get(key)
        if _kohya_text(entry) == _clean(text):
            continue
        kept = {k: v for k, v in (entry or {}).items() if k not in ("tags", "caption")}
        if text is not None:
            entries[key] = kept | _kohya_parts(text, entry or {})
        elif kept:
            entries[key] = kept
        else:
            entries.pop(key, None)
    if json.dumps(entries) == before:
        return {}
    return {path: _utf8(json.dumps(entries, ensure_ascii=False, indent=2) + "\n", path)}


def _kohya_parts(text: str, entry: dict) -> dict[str, str]:
    """The text as sentence and tags: parted where it was before, else by what it looks like."""
    sentence = entry.get("caption")
    if sentence and entry.get("tags") is not None and text.startswith(f"{sentence}, "):
        return {"caption": sentence, "tags": text.removeprefix(f"{sentence}, ")}
    if bool(sentence) != bool(entry.get("tags")):
        return {"caption" if sentence else "tags": text}
    return {"caption" if is_prose(text) else "tags": text}


def _kohya(folder: Path) -> tuple[Path, dict[str, dict]]:
    path = next((folder / name for name in KOHYA if (folder / name).exists()), folder / KOHYA[-1])
    try:
        entries = json.loads(_whole(path).removeprefix("\ufeff")) if path.exists() else {}
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise ValueError("not a table of tables")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'{shown(path)} is no dataset of kohya\'s, {{"name": {{"tags": "...", "caption": "..."}}}}: repair it, or '
            f"move it away."
        ) from error
    return path, entries


def _kohya_keys(folder: Path, pictures: Sequence[Path], entries: Mapping[str, dict]) -> dict[Path, str]:
    """The key of each picture: its path, its relative path with or without ending, or its name without ending.

    sd-scripts writes the full path with --full_path, also that of another machine, and the bare name without.
    """
    stems = Counter(picture.stem for picture in images.find(folder))
    by_stem: dict[str, list[str]] = {}
    for key in entries:
        if "/" in key or "\\" in key:
            by_stem.setdefault(key.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0], []).append(key)
    keys = {}
    for picture in pictures:
        relative = _relative(folder, picture)
        candidates = [str(picture), relative, relative.rsplit(".", 1)[0]]
        if stems[picture.stem] <= 1:
            candidates += [picture.stem, picture.name]
            candidates += by_stem.get(picture.stem, []) if len(by_stem.get(picture.stem, [])) == 1 else []
        new = picture.stem if stems[picture.stem] <= 1 else relative
        keys[picture] = next((key for key in candidates if key in entries), new)
    return keys


def _relative(folder: Path, picture: Path) -> str:
    return picture.relative_to(folder).as_posix()


def _whole(path: Path) -> str:
    """The file's text, line breaks and byte order mark as they stand."""
    content = captions.content(path)
    captions.decoded(content, path)  # says what is wrong with the encoding
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{shown(path)} must be UTF-8, as JSON is: save it so.") from error


def _utf8(text: str, path: Path) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"A text or name for {shown(path)} holds half a character: type it again.") from error


def _clean(text: object) -> str | None:
    return text.strip() if isinstance(text, str) else None


FORMATS: dict[str, Format] = {
    **{name: _one_each(ending) for name, ending in SIDECARS.items()},
    "metadata": Format(_read_metadata, _metadata_contents),
    "kohya": Format(_read_kohya, _kohya_contents),
}
