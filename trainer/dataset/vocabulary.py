"""A list of known tags to complete from: CSV lines `name,category,count,"alias,alias"`, as a1111-sd-webui-tagcomplete,
SwarmUI and other tools read them.

Such lists have 200,000 lines and are asked at every key press, so all of it is kept as one text, most frequent tags
first, and searched with `str.find`: some 30 MB, and a few milliseconds for a question without an answer.
"""

import csv
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.dataset.names import shown
from trainer.errors import UserError
from trainer.taggers.wd14 import written

MOST = 100_000_000
"""bytes of a file; the largest lists have a tenth of it."""


@dataclass(frozen=True)
class Match:
    """One tag that fits what was typed."""

    tag: str
    """As it goes into a caption."""
    count: int
    """How many pictures have it where the list comes from."""
    alias: str = ""
    """The other name that was found, when it is not the tag's own."""


class TagList:
    """The tags of one file."""

    def __init__(self, rows: list[tuple[int, str, str]]):
        """`rows`: (count, name, aliases joined by tabs)."""
        rows.sort(key=lambda row: -row[0])
        self._counts = array("q", (row[0] for row in rows))
        self._names = "\n".join(row[1] for row in rows)
        # "\n" begins a line and its name, "\t" an alias: what is typed is looked for behind either first.
        self._keys = _key("".join(f"\n{name}\t{aliases}" if aliases else f"\n{name}" for _, name, aliases in rows))
        self._starts = _breaks(self._keys)
        self._name_starts = _breaks("\n" + self._names)  # one further on: where the names begin

    def __len__(self) -> int:
        return len(self._counts)

    def search(self, text: str, limit: int = 7, *, spaces: bool = True) -> list[Match]:
        """The best `limit` tags for what was typed: itself, then names and aliases that begin so, then words within
        them, then anything that holds it; each by frequency. `spaces`: words of a tag are parted by spaces.
        """
        wanted = " ".join(_key(text).split())
        if not wanted:
            return []
        lines: dict[int, None] = {}
        itself = [("\n" + wanted, "\n\t"), ("\t" + wanted, "\n\t")]
        begins = [("\n" + wanted, ""), ("\t" + wanted, "")]
        for heads in (itself, begins, [(" " + wanted, "")], [(wanted, "")]):
            found = {line for head, ends in heads for line in self._lines(head, ends, limit)}
            lines.update(dict.fromkeys(sorted(found)))  # the line's number is its rank
            if len(lines) >= limit:
                break
        return [self._match(line, wanted, spaces) for line in list(lines)[:limit]]

    def _lines(self, head: str, ends: str, limit: int) -> Iterator[int]:
        """The first lines that hold `head`, followed by one of the letters `ends` or the end."""
        at = 0
        while limit and (at := self._keys.find(head, at)) >= 0:
            after = self._keys[at + len(head) : at + len(head) + 1]
            line = bisect_right(self._starts, at) - 1
            if ends and after and after not in ends:
                at += 1
                continue
            yield line
            limit -= 1
            if line + 1 == len(self._starts):
                return
            at = self._starts[line + 1]

    def _match(self, line: int, wanted: str, spaces: bool) -> Match:
        end = self._starts[line + 1] if line + 1 < len(self._starts) else len(self._keys)
        own, *aliases = self._keys[self._starts[line] + 1 : end].split("\t")
        holding = (alias for alias in aliases if wanted in alias)
        other = min(holding, key=lambda alias: (not alias.startswith(wanted), alias), default="")
        start = self._name_starts[line]
        stop = self._name_starts[line + 1] - 1 if line + 1 < len(self._name_starts) else len(self._names)
        name = self._names[start:stop]
        return Match(written(name, spaces=spaces), self._counts[line], "" if wanted in own else other)


def load(path: Path) -> TagList:
    """Read such a file; a first line with headings and lines without a name are passed over.

    Raises UserError for a file that cannot be read or holds no tags in this format.
    """
    path = Path(path)
    rows: list[tuple[int, str, str]] = []
    try:
        if path.stat().st_size > MOST:
            raise UserError(f"{shown(path)} is too large for a list of tags: choose a .csv of at most 100 MB.")
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(file):
                if (one := _row(row)) is not None:
                    rows.append(one)
    except OSError as error:
        raise UserError(f"The list of tags {shown(path)} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{shown(path)} is no list of tags: {shown(str(error))[:120]}. Save it as UTF-8 CSV."
        ) from error
    if not rows:
        raise UserError(f"{shown(path)} holds no tags: its lines should read name,category,count,aliases.")
    return TagList(rows)


def _row(row: list[str]) -> tuple[int, str, str] | None:
    if len(row) < 3 or not row[0].strip() or not row[0].isprintable():
        return None
    try:
        number = int(row[2] or 0)
    except ValueError:  # headings
        return None
    # Lists made for other languages write "/" before their own aliases.
    aliases = [alias.strip().lstrip("/") for alias in row[3].split(",")] if len(row) > 3 and row[3] else []
    return number, row[0].strip(), "\t".join(alias for alias in aliases if alias and alias.isprintable())


def _key(text: str) -> str:
    return text.replace("_", " ").lower()


def _breaks(text: str) -> array:
    """Where the line breaks are."""
    found, at = array("L"), text.find("\n")
    while at >= 0:
        found.append(at)
        at = text.find("\n", at + 1)
    return found
