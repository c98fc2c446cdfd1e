"""Text that comes from files, names and people, shown as it is."""

from __future__ import annotations

from studio.sentences import said

MARKDOWN = frozenset(r"\`*_{}[]()<>#+-.!|~$:&=^")


def escape(text: object) -> str:
    """Text for elements that read markdown, with every mark of it taken literally, on one line; an error is said in
    the reader's language."""
    text = said(text) if isinstance(text, Exception) else text
    line = " ".join(str(text).split())
    return "".join("\\" + letter if letter in MARKDOWN else letter for letter in line)
