"""Which pictures are shown, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer.dataset import query
from trainer.dataset.query import Item

ORDERS: dict[str, Callable[[Item], float]] = {
    "By name": lambda item: 0,
    "Newest first": lambda item: -item.path.stat().st_mtime,
    "Fewest tags first": lambda item: len(item.keys),
    "Most tags first": lambda item: -len(item.keys),
}


def select(items: Sequence[Item], wanted: str, picked: Sequence[str], order: str) -> list[Item]:
    """Those that the filter wants and that hold every picked tag. Raises UserError for what is no filter."""
    found = query.select(items, wanted)
    for tag in picked:
        found = query.select(found, f"tag:{quoted(tag)}")
    return sorted(found, key=ORDERS[order])


def quoted(text: str) -> str:
    """As the filter language takes it literally."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
