"""File names as people write them: natural order, and safe to put into a sentence."""

import re


def natural_part(name: str) -> tuple:
    """Sort key for one part of a path: `2.png` before `10.png`, case set aside."""
    pieces = re.split(r"([0-9]+)", name)
    return tuple((1, int(piece), "") if piece.isdecimal() else (0, 0, piece.casefold()) for piece in pieces)


def shown(path) -> str:
    r"""The name on one line: line breaks, control and direction characters appear as escapes (`\n`).

    A name may hold anything but `/` and NUL, and an error is one sentence on one line.
    """
    joiner = "\u200d"  # holds family and profession emoji together
    return "".join(c if c.isprintable() or c == joiner else _escape(c) for c in str(path))


def listed(items: list[str], limit: int = 5, separator: str = ", ") -> str:
    """The first `limit` items and how many more there are."""
    more = f"{separator}and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more


def count(number: int, noun: str) -> str:
    """`1 picture`, `30 pictures`, `15 batches`, `10 epochs`."""
    if number != 1:
        noun += "es" if noun.endswith("ch") and noun != "epoch" else "s"
    return f"{number} {noun}"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
