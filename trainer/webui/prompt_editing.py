"""Prompt editing as A1111 1.10 reads it: `[from:to:when]` and `[a|b]`. No torch here.

A prompt is a list of items: text, a list (brackets that keep their text), or one of the two nodes below.
A bracket that does not close, or holds something else, is text; a `|` or a lone backslash outside of any
alternation makes the whole prompt unscheduled, as A1111's grammar has no rule for them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class _Switch:
    before: list
    after: list
    when: int


@dataclass(frozen=True)
class _Alternate:
    options: list


_PLAIN = re.compile(r"(?:[^\\\[\]():|]|\\.)+")
_STRAY = re.compile(r"[\[\]():]")
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*", re.ASCII)
# Brackets nested deeper are text: no one writes them, and depth is bounded for the functions that recurse.
_DEPTH = 60


def schedule(text: str, steps: int, hires_steps: int | None = None) -> list[tuple[int, str]]:
    """(until step, text) for `[from:to:when]`, `[to:when]`, `[from::when]` and `[a|b]`.

    A number with a dot is a fraction of the steps, an integer a step. In the hires pass fractions run from
    1.0 to 2.0 and integers are offset by the steps of the first pass.
    """
    total = steps if hires_steps is None else hires_steps
    items = _Schedules(text, steps, hires_steps).items()
    if items is None:
        return [(total, text)]
    return [(step, "".join(_at(items, step))) for step in sorted({total, *_switches(items, total)})]


def _switches(items: list, total: int) -> Iterator[int]:
    for item in items:
        if isinstance(item, _Switch):
            if item.when >= 1:
                yield item.when
            yield from _switches(item.before, total)
            yield from _switches(item.after, total)
        elif isinstance(item, _Alternate):
            yield from range(1, total + 1)
            for option in item.options:
                yield from _switches(option, total)
        elif isinstance(item, list):
            yield from _switches(item, total)


def _at(items: list, step: int) -> Iterator[str]:
    for item in items:
        if isinstance(item, _Switch):
            yield from _at(item.before if step <= item.when else item.after, step)
        elif isinstance(item, _Alternate):
            yield from _at(item.options[(step - 1) % len(item.options)], step)
        elif isinstance(item, list):
            yield from _at(item, step)
        else:
            yield item


class _Schedules:
    """Reads one text. Brackets are read from the last to the first, so that each is read once."""

    def __init__(self, text: str, steps: int, hires_steps: int | None):
        self.text = text
        hires = hires_steps is not None
        self.steps = hires_steps if hires else steps
        self.offset = (1.0, steps) if hires else (0.0, 0)
        # start of a bracket → (node, end, depth)
        self.brackets: dict[int, tuple[object, int, int]] = {}
        for position in reversed(list(self._openings())):
            bracket = self._bracket(position)
            if bracket and bracket[2] <= _DEPTH:
                self.brackets[position] = bracket

    def _openings(self) -> Iterator[int]:
        position = 0
        while position < len(self.text):
            plain = _PLAIN.match(self.text, position)
            if plain:
                position = plain.end()
                continue
            if self.text[position] in "[(":
                yield position
            position += 1

    def items(self) -> list | None:
        """The whole text, or None where A1111's grammar has no reading of it."""
        items, position = [], 0
        while position < len(self.text):
            found, position, _ = self._prompt(position)
            items += found
            if position < len(self.text):
                if not _STRAY.match(self.text, position):
                    return None
                items.append(self.text[position])
                position += 1
        return items

    def _prompt(self, position: int) -> tuple[list, int, int]:
        """(items, end, depth) of what can be read from `position` on without a loose mark."""
        items, depth = [], 0
        while position < len(self.text):
            plain = _PLAIN.match(self.text, position)
            if plain:
                items.append(plain.group())
                position = plain.end()
            elif position in self.brackets:
                node, position, inner = self.brackets[position]
                items.append(node)
                depth = max(depth, inner)
            else:
                break
        return items, position, depth

    def _bracket(self, start: int) -> tuple[object, int, int] | None:
        """The node that opens at `start`, its end and depth; None when it is only a loose mark."""
        parts, marks, depth = [], "", 0
        bounds = [start + 1]
        position = start
        while True:
            items, position, inner = self._prompt(position + 1)
            parts.append(items)
            depth = max(depth, inner)
            mark = self.text[position : position + 1]
            if mark not in (":", "|"):
                break
            marks += mark
            bounds.append(position + 1)
        last = self.text[bounds[-1] : position]
        node = self._node(self.text[start] + mark, parts, marks, last, self.text[start : position + 1])
        return None if node is None else (node, position + 1, depth + 1)

    def _node(self, pair: str, parts: list, marks: str, last: str, whole: str) -> object | None:
        if pair == "()" and marks in ("", ":"):
            inner = parts[0] + [":"] + parts[1] if marks else parts[0]
            return ["(", *inner, ")"]
        if pair != "[]":
            return None
        if not marks:
            return ["[", *parts[0], "]"]
        if set(marks) == {"|"}:
            return _Alternate(parts)
        number = _NUMBER.fullmatch(last)
        if marks not in (":", "::") or not number:
            return None
        before = parts[0] if marks == "::" else []
        return _Switch(before, parts[-2], self._when(number.group(1)))

    def _when(self, number: str) -> int:
        value = float(number)
        fraction, integer = self.offset
        step = (value - fraction) * self.steps if "." in number else value - integer
        return int(min(max(step, -1), self.steps))
