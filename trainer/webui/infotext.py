"""Infotext: the settings of a picture as A1111, Forge and Civitai write them, read and written.

The grammar is `{prompt}`, `Negative prompt: {negative}` when there is one, and a last line of
`Key: value` pairs. It was never meant to be parsed back exactly: a prompt may hold any of these marks.
So `write` reads its own text back, and where that gives something else it adds one more pair,
`Exact text`, that settles the matter; other tools show it as a setting that they do not know.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from trainer.errors import UserError

NEGATIVE = "Negative prompt:"
EXACT = "Exact text"
AFTER = "Text after"

# The order in which A1111 1.10 writes its settings; extras stand before Version and User.
ORDER = (
    "Steps", "Sampler", "Schedule type", "CFG scale", "Image CFG scale", "Seed", "Face restoration", "Size",
    "Model hash", "Model", "FP8 weight", "Cache FP16 weight for LoRA", "VAE hash", "VAE", "Variation seed",
    "Variation seed strength", "Seed resize from", "Denoising strength", "Conditional mask weight",
    "Clip skip", "ENSD", "Token merging ratio", "Token merging ratio hr", "Init image hash", "RNG", "Tiling",
)  # fmt: skip
EXTRAS = (
    "Hires upscale", "Hires resize", "Hires steps", "Hires upscaler", "Hires sampler", "Hires schedule type",
    "Hires checkpoint", "Hires prompt", "Hires negative prompt", "Hires CFG Scale", "Mask blur", "Mask mode",
    "Inpaint area", "Masked area padding", "Masked content", "Eta", "Eta DDIM", "Sigma churn", "Sigma tmin",
    "Sigma tmax", "Sigma noise", "Schedule min sigma", "Schedule max sigma", "Schedule rho",
    "Discard penultimate sigma", "SGM noise multiplier", "Noise multiplier", "Extra noise", "Refiner",
    "Refiner switch at", "Lora hashes", "TI hashes", "Emphasis", "Pad conds",
)  # fmt: skip
LAST = ("Version", "User")
KNOWN = frozenset(ORDER + EXTRAS + LAST)


@dataclass(frozen=True)
class Infotext:
    """What a picture was made with; `settings` keeps the order of the text and every value as text."""

    prompt: str = ""
    negative_prompt: str = ""
    settings: dict[str, str] = field(default_factory=dict)


def ordered(settings: Mapping[str, object]) -> dict[str, str]:
    """The settings in A1111's order, as text; None is dropped, unknown keys stand before Version and User."""
    present = {key: str(value) for key, value in settings.items() if value is not None}
    unknown = [key for key in present if key not in KNOWN]
    return {key: present[key] for key in (*ORDER, *EXTRAS, *unknown, *LAST) if key in present}


# ── writing ────────────────────────────────────────────────────────────────────────────────────────────


def write(info: Infotext) -> str:
    """The text for the picture; `parse(write(info)) == info` for every Infotext with expressible keys.

    Raises UserError for a key that the grammar cannot hold (empty, or with a comma, colon, quote, bracket or
    line break).
    """
    for key in info.settings:
        if not _KEY.fullmatch(key):
            raise UserError(f"The setting name {key!r} cannot stand in an infotext: use letters and spaces.")
    text = _plain(info)
    if parse(text) == info:
        return text
    exact = json.dumps([info.prompt, info.negative_prompt], ensure_ascii=False)
    pairs = [f"{key}: {quote(value)}" for key, value in info.settings.items()]
    pairs.append(f"{EXACT}: {json.dumps(exact, ensure_ascii=False)}")
    return _head(info) + ", ".join(pairs)


def _plain(info: Infotext) -> str:
    pairs = ", ".join(f"{key}: {quote(value)}" for key, value in info.settings.items())
    return _head(info) + pairs if pairs else _head(info)[:-1]


def _head(info: Infotext) -> str:
    negative = f"{NEGATIVE} {info.negative_prompt}\n" if info.negative_prompt else ""
    return f"{info.prompt}\n{negative}"


def quote(value: str) -> str:
    """The value bare, or as a JSON string where bare text would not read back the same."""
    marks = any(mark in value for mark in ",\n\r:")
    if marks or value != value.strip() or value[:1] in ('"', "{", "["):
        return json.dumps(value, ensure_ascii=False)
    return value


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────

_KEY = re.compile(r"[^\s,:\"\[\]{}](?:[^,:\n\r\"\[\]{}]*[^\s,:\"\[\]{}])?")
_STEPS = re.compile(r"Steps: *\d+ *(?:,|$)")
_INLINE_STEPS = re.compile(r"(?:^|(?<=\s))Steps: *\d+ *, *[A-Z]")
_INLINE_NEGATIVE = re.compile(r"(?:^|(?<=\s))Negative prompt: ?")
_TRAILER = re.compile(r"((?:Negative )?Template|Wildcard [a-z ]*prompt): ?")


def parse(text: str) -> Infotext:
    """The infotext in `text`, whatever it is; text without settings is a prompt.

    Beyond A1111's parser it reads unquoted JSON values, empty values, lines after the settings, a prompt that
    looks like settings, and text that was pasted as one line.
    """
    text = text.replace("\r\n", "\n").strip("\n")
    head, pairs, after = _split(text)
    prompt, negative = _prompts(head)
    if pairs and pairs[-1][0] == EXACT:
        exact = _exact(pairs[-1][1])
        if exact:
            prompt, negative = exact
            pairs = pairs[:-1]
    return Infotext(prompt, negative, dict(pairs) | dict(_trailers(after)))


def _split(text: str) -> tuple[str, list[tuple[str, str]], str]:
    """(prompts, settings, lines after the settings)."""
    lines = text.split("\n")
    found = _parameter_line(lines)
    if found is not None:
        index, pairs = found
        return "\n".join(lines[:index]), pairs, "\n".join(lines[index + 1 :])
    for index in range(len(lines) - 1, -1, -1):
        inline = list(_INLINE_STEPS.finditer(lines[index]))
        pairs = _pairs(lines[index][inline[-1].start() :]) if inline else None
        if pairs and len(pairs) >= 3:
            head = lines[:index] + [lines[index][: inline[-1].start()].rstrip()]
            return "\n".join(head), pairs, "\n".join(lines[index + 1 :])
    return text, [], ""


def _parameter_line(lines: list[str]) -> tuple[int, list[tuple[str, str]]] | None:
    """The last line that is nothing but settings: ours by `Exact text`, else by Steps, else by known keys."""
    last = _pairs(lines[-1])
    if last and last[-1][0] == EXACT and _exact(last[-1][1]):
        return len(lines) - 1, last
    candidates = []
    for index, line in enumerate(lines):
        pairs = _pairs(line.strip()) if ":" in line else None
        if pairs:
            candidates.append((index, line.strip(), pairs))
    for index, line, pairs in reversed(candidates):
        if _STEPS.match(line):
            return index, pairs
    for index, _, pairs in reversed(candidates):
        if sum(key in KNOWN for key, _ in pairs) >= 2 and len(pairs) >= 3:
            return index, pairs
    return None


def _pairs(line: str) -> list[tuple[str, str]] | None:
    """The `Key: value` pairs of a line, or None when the line holds anything else."""
    pairs = []
    position = 0
    while position < len(line):
        key = _KEY.match(line, position)
        if not key or not line.startswith(":", key.end()):
            return None
        value, position = _value(line, key.end() + 1)
        pairs.append((key.group(), value))
        if line.startswith(",", position):
            position += 1
        elif position < len(line):
            return None
        while line.startswith(" ", position):
            position += 1
    return pairs


def _value(line: str, start: int) -> tuple[str, int]:
    """The value that starts at `start` and the position of the comma behind it."""
    while line.startswith(" ", start):
        start += 1
    if line[start : start + 1] in ('"', "{", "["):
        try:
            value, end = _DECODER.raw_decode(line, start)
        except (ValueError, RecursionError):
            pass
        else:
            if re.match(r" *(?:,|$)", line[end:]):
                # Unquoted JSON (Civitai's Hashes) stays the text that it was.
                return (value if isinstance(value, str) else line[start:end]), end + len(_spaces(line, end))
    end = line.find(",", start)
    end = len(line) if end < 0 else end
    return line[start:end].strip(), end


_DECODER = json.JSONDecoder()


def _spaces(line: str, start: int) -> str:
    return re.compile(" *").match(line, start).group()


def _prompts(head: str) -> tuple[str, str]:
    """Split the text before the settings at its `Negative prompt:`, the last line that begins with it."""
    starts = [match.end() for match in re.finditer(r"(?:^|\n)Negative prompt:", head)]
    if starts:
        prompt = head[: starts[-1] - len(NEGATIVE)]
        return prompt.removesuffix("\n"), head[starts[-1] :].removeprefix(" ")
    inline = _INLINE_NEGATIVE.search(head)
    if inline:
        return head[: inline.start()].rstrip(), head[inline.end() :]
    return head, ""


def _exact(value: str) -> tuple[str, str] | None:
    try:
        texts = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if isinstance(texts, list) and len(texts) == 2 and all(isinstance(text, str) for text in texts):
        return texts[0], texts[1]
    return None


def _trailers(after: str) -> Iterator[tuple[str, str]]:
    """Lines behind the settings: Dynamic Prompts' templates by name, anything else kept as `Text after`."""
    rest = []
    key = None
    for line in after.split("\n"):
        named = _TRAILER.match(line)
        if named:
            if key:
                yield key, "\n".join(rest)
            elif any(rest):
                yield AFTER, "\n".join(rest)
            key, rest = named.group(1), [line[named.end() :]]
        else:
            rest.append(line)
    if key or any(rest):
        yield key or AFTER, "\n".join(rest)


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────

_USER_COMMENT = 0x9286
_EXIF_IFD = 0x8769


def pnginfo(info: Infotext):
    """The PNG text chunk `parameters` (tEXt, or iTXt where the text is not Latin-1), for `Image.save`."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    # A lone surrogate has no UTF-8 form; a question mark is better than a picture that is not saved.
    chunks.add_text("parameters", write(info).encode("utf-8", "replace").decode("utf-8"))
    return chunks


def read_image(image) -> tuple[str, Infotext] | None:
    """(source, infotext) of a picture, a path or a PIL image; None when it holds none.

    `source` is "a1111", "comfyui" or "invokeai". Raises UserError when the file is not a picture.
    """
    from trainer.webui import foreign

    texts = dict(_texts(image))
    if "parameters" in texts:
        return "a1111", parse(texts["parameters"])
    for source, keys, read in foreign.READERS:
        for key in keys:
            info = read(texts[key]) if key in texts else None
            if info:
                return source, info
    return None


def _texts(image) -> Iterator[tuple[str, str]]:
    """Every text that a picture carries, by the name of its chunk; A1111's is `parameters` everywhere."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(image, Image.Image):
        yield from _image_texts(image)
        return
    try:
        with Image.open(image) as opened:
            yield from _image_texts(opened)
    except UnidentifiedImageError:
        raise UserError(f"{image} is not a picture: give a PNG, JPEG, WebP, AVIF or GIF.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{image} cannot be read as a picture: {error}.") from error


def _image_texts(image) -> Iterator[tuple[str, str]]:
    if image.format == "PNG" and "parameters" not in image.info:
        # Chunks behind the pixels are only seen once the pixels are read.
        image.load()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str):
            yield key, value
    comment = image.info.get("comment")
    if image.format == "GIF" and isinstance(comment, bytes):
        yield "parameters", comment.decode("utf-8", "replace")
    comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT) if "exif" in image.info else None
    if comment:
        yield "parameters", user_comment(comment) if isinstance(comment, bytes) else str(comment)


def user_comment(value: bytes) -> str:
    """The text of an EXIF UserComment: 8 bytes naming the character code, then the text (EXIF 2.3, 4.6.5).

    UNICODE is UTF-16 in either byte order: A1111 writes big-endian, other writers the order of the file.
    """
    code, text = value[:8], value[8:]
    if code == b"UNICODE\0":
        # Latin letters dominate every infotext, so the zero bytes tell the order.
        little = text.startswith(b"\xff\xfe") or text[1::2].count(0) > text[0::2].count(0)
        return text.decode("utf-16-le" if little else "utf-16-be", "replace").lstrip("\ufeff").rstrip("\0")
    if code in (b"ASCII\0\0\0", b"\0" * 8):
        return text.decode("utf-8", "replace").rstrip("\0")
    if code == b"JIS\0\0\0\0\0":
        return text.decode("iso2022_jp", "replace")
    return value.decode("utf-8", "replace").rstrip("\0")
