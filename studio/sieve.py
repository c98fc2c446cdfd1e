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


def keep(path: Path, text: str | None, wanted: str) -> bool:
    """Whether a picture passes: tags or words by commas, all of which must be there; `-` before one: must not.

    A `-` alone: pictures without a caption. A word counts where a tag is it, else where file or caption hold it.
    """
    terms = [term.strip() for term in wanted.split(",") if term.strip()]
    tags = {captions.same(tag) for tag in captions.split(text or "")}
    whole = f"{path.name} {captions.same(text or '')}".casefold()
    for term in terms:
        if term == NO_CAPTION:
            if tags:
                return False
            continue
        word = captions.same(term.removeprefix("-"))
        if term.startswith("-"):
            if word in tags:
                return False
        elif word not in tags and word not in whole:
            return False
    return True


ORDERS = {
    "By name": lambda path, text: (),
    "Newest first": lambda path, text: -path.stat().st_mtime,
    "Fewest tags first": lambda path, text: len(captions.split(text or "")),
    "Most tags first": lambda path, text: -len(captions.split(text or "")),
}
