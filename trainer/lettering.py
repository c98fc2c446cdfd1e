"""Text in pictures, in whatever script: which font has it, how wide it is, where its lines break."""

from __future__ import annotations

import unicodedata
from functools import cache

from PIL import ImageFont

# Pillow carries a Latin subset of Aileron. For the rest, fonts that the three systems usually have.
FALLBACK_FONTS = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "arial.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKjp-Regular.otf",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "NotoEmoji-Regular.ttf",
    "Symbola.ttf",
    "seguisym.ttf",
)
PLAIN = str.maketrans({"–": "-", "—": "-", "×": "x", "…": "...", "“": '"', "”": '"', "’": "'", "‘": "'", "•": "·"})


def text_width(text: str, size: float) -> float:
    return sum(font.getlength(run) for font, run in runs(text, size))


def wrap(text: str, size: float, width: float, most: int) -> list[str]:
    """Lines no wider than `width`, at most `most` of them; the last one ends in an ellipsis when text is left."""
    lines, words = [], _breakable(text, size, width)
    line = ""
    for word in words:
        if line and text_width((line + word).rstrip(), size) > width:
            lines.append(line.rstrip())
            line = ""
        line += word.lstrip() if not line else word
    lines += [line.rstrip()] if line.strip() else []
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and text_width(last + "…", size) > width:
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip(" ,.;") + "…"]


def _breakable(text: str, size: float, width: float) -> list[str]:
    """Words with the space after them; one that is too long for a line, or has no spaces as in Chinese, in letters."""
    pieces = []
    for word in text.split():
        pieces += [word + " "] if text_width(word, size) <= width else [*word[:-1], word[-1] + " "]
    return pieces


@cache
def runs(text: str, size: float) -> tuple[tuple[ImageFont.FreeTypeFont, str], ...]:
    """The text cut at spaces into runs, each with the first font that has all its characters."""
    pixels = max(6, round(size))
    found: list[tuple[str | None, str]] = []
    for word in _printable(text).split(" "):
        name, word = _font_for(word)
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1] + " " + word)
        else:
            found.append((name, (" " if found else "") + word))
    return tuple((_font(name, pixels), run) for name, run in found)


def _printable(text: str) -> str:
    """Line breaks and control characters would be drawn as boxes or break a line in two."""
    return "".join(" " if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs") else char for char in text)


def _font_for(word: str) -> tuple[str | None, str]:
    """A font that has every character of the word, else Pillow's own with the word spelt so that it can be read."""
    for name in (None, *FALLBACK_FONTS):
        if _covers(name, word):
            return name, word
    return None, "".join(_spell(char) for char in word)


def _covers(name: str | None, word: str) -> bool:
    return all(_has(name, char) for char in word)


@cache
def _has(name: str | None, char: str) -> bool:
    font = _font(name, 24)
    if font is None:
        return False
    missing = font.getmask("\U0010ffff")
    mask = font.getmask(char)
    return (mask.size, bytes(mask)) != (missing.size, bytes(missing))


@cache
def _font(name: str | None, pixels: int) -> ImageFont.FreeTypeFont | None:
    if name is None:
        return ImageFont.load_default(pixels)
    try:
        return ImageFont.truetype(name, pixels)
    except OSError:
        return None


def _spell(char: str) -> str:
    """A character that no font has: without its accent, or as its code point, never as an empty box."""
    if _has(None, char):
        return char
    plain = char.translate(PLAIN)
    plain = "".join(part for part in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(part))
    return plain if plain and all(_has(None, part) for part in plain) else f"<{ord(char):X}>"
