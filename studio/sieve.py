"""Which pictures are shown: words that a caption must and must not hold, and the order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from trainer.dataset import captions

NO_CAPTION = "-"  # on its own in the filter


def tag_counts(texts: dict[str, str | None]) -> dict[str, int]:
    """Tag -> in how many captions, most frequent first; spellings that mean the same count as one."""
    spelling: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for text in texts.values():
        tags = {captions.same(tag): tag for tag in captions.split(text or "")}
        spelling = tags | spelling
        counts.update(tags.keys())
    return {spelling[key]: number for key, number in counts.most_common()}


def terms_of(wanted: str) -> list[str]:
    """What a filter asks for: parts between commas, in the form in which tags are compared."""
    terms = (term.strip() for term in wanted.split(","))
    return [("-" if term.startswith("-") else "") + captions.same(term.removeprefix("-")) for term in terms if term]


def keep(path: Path, text: str | None, tags: frozenset[str], terms: list[str]) -> bool:
    """Whether a picture passes: all terms must be there, those with `-` must not; a `-` alone: no caption at all.

    A term counts where a tag is it, else where the file's name or the caption hold it.
    """
    for term in terms:
        if term == NO_CAPTION:
            if tags:
                return False
        elif term.startswith("-"):
            if term[1:] in tags:
                return False
        elif term not in tags and term not in f"{path.name} {captions.same(text or '')}".casefold():
            return False
    return True


ORDERS = {
    "By name": lambda path, text: (),
    "Newest first": lambda path, text: -path.stat().st_mtime,
    "Fewest tags first": lambda path, text: len(captions.split(text or "")),
    "Most tags first": lambda path, text: -len(captions.split(text or "")),
}
