"""Text that comes from files, names and people, shown as it is."""

from __future__ import annotations

MARKDOWN = frozenset(r"\`*_{}[]()<>#+-.!|~$:&=^")


def escape(text: object) -> str:
    """Text for elements that read markdown, with every mark of it taken literally, on one line."""
    line = " ".join(str(text).split())
    return "".join("\\" + letter if letter in MARKDOWN else letter for letter in line)
