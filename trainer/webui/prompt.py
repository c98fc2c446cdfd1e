"""Prompts as A1111 1.10 reads them: networks, AND, schedules, attention, chunks. No torch here.

The order of the steps is the tool's, and it matters: `<lora:…>` is taken out of the text first, `AND` splits
even inside brackets, schedules are settled before attention is read, and only then is the text tokenized.
"""

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import UserError

Attention = tuple[tuple[str, float], ...]
BREAK = ("BREAK", -1.0)
ROUND = 1.1
SQUARE = 1 / 1.1


@dataclass(frozen=True)
class Network:
    """`<kind:name:args…>`; args as written, `te=0.8` included."""

    kind: str
    name: str
    args: tuple[str, ...] = ()

    @property
    def is_lora(self) -> bool:
        return self.kind in ("lora", "lyco")

    @property
    def weights(self) -> tuple[float, float]:
        """(text encoder, UNet) multipliers: te defaults to 1, UNet to te. Raises UserError on no number."""
        positional = [arg for arg in self.args if arg.count("=") != 1]
        named = dict(arg.split("=") for arg in self.args if arg.count("=") == 1)
        te = named.get("te", positional[0] if positional else "1")
        unet = named.get("unet", positional[1] if len(positional) > 1 else te)
        return self._number(te), self._number(unet)

    def _number(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            tag = ":".join((self.kind, self.name, *self.args))
            raise UserError(f"The weight {text!r} in <{tag}> is no number.")
        return value


@dataclass(frozen=True)
class Scheduled:
    """The text in force up to and including step `until` (counted from 1), with its attention."""

    until: int
    text: str
    attention: Attention


@dataclass(frozen=True)
class Branch:
    """One side of an `AND`: its own conditioning, added with `weight` times the CFG scale."""

    text: str
    weight: float
    schedule: tuple[Scheduled, ...]

    def index_at(self, step: int) -> int:
        """Which entry of the schedule applies at a step counted from 0.

        A1111 compares the 0-based count of model calls with the 1-based `until`, so the first entry lasts one
        step longer than its number says. Pictures depend on it.
        """
        return next((i for i, entry in enumerate(self.schedule) if step <= entry.until), 0)


@dataclass(frozen=True)
class Prompt:
    networks: tuple[Network, ...]
    branches: tuple[Branch, ...]


def parse(
    text: str,
    steps: int = 20,
    hires_steps: int | None = None,
    *,
    negative: bool = False,
    emphasis: bool = True,
    comments: bool = True,
) -> Prompt:
    """Read a prompt for a pass of `steps` model calls, or for the hires pass of `hires_steps` after it.

    `negative`: A1111 reads neither networks nor `AND` in a negative prompt; they stay text.
    `emphasis`: False is the mode "None", in which brackets stay text.
    `comments`: drop `#` to the end of the line, as A1111 does by default.
    """
    if comments:
        text = strip_comments(text)
    networks: tuple[Network, ...] = ()
    parts = [(text, 1.0)]
    if not negative:
        text, networks = extract_networks(text)
        parts = split_and(text)
    branches = [_branch(part, weight, steps, hires_steps, emphasis) for part, weight in parts]
    return Prompt(networks, tuple(branches))


def _branch(text: str, weight: float, steps: int, hires_steps: int | None, emphasis: bool) -> Branch:
    entries = []
    for until, scheduled in schedule(text, steps, hires_steps):
        read = attention(scheduled) if emphasis else ((scheduled, 1.0),)
        entries.append(Scheduled(until, scheduled, read))
    return Branch(text, weight, tuple(entries))


# ── comments, networks, AND ────────────────────────────────────────────────────────────────────────────

_COMMENT_LINE = re.compile(r"(^|\n)#[^\n]*(\n|$)")
_COMMENT_REST = re.compile(r"#[^\n]*(\n|$)")
_NETWORK = re.compile(r"<(\w+):([^>]+)>")
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r":\s*([-+]?(?:\d+\.?|\d*\.\d+))$")


def strip_comments(text: str) -> str:
    """Without `#` comments, whole lines first (A1111's `enable_prompt_comments`, on by default)."""
    return _COMMENT_REST.sub("\n", _COMMENT_LINE.sub("\n", text))


def extract_networks(text: str) -> tuple[str, tuple[Network, ...]]:
    """The text without its `<kind:name:…>` tags, and the tags in order."""
    networks = []
    for match in _NETWORK.finditer(text):
        name, *args = match.group(2).split(":")
        networks.append(Network(match.group(1), name, tuple(args)))
    return _NETWORK.sub("", text), tuple(networks)


def split_and(text: str) -> list[tuple[str, float]]:
    """(text, weight) for each part between `AND`s.

    A part may end in `:weight`, also when it is the only one, so "a clock at 12:30" is "a clock at 12" with
    weight 30, as in A1111. Space is cut at the end only.
    """
    parts = []
    for part in _AND.split(text):
        part = part.rstrip()
        match = _WEIGHT.search(part)
        weight = float(match.group(1)) if match else 1.0
        parts.append((part[: match.start()].rstrip() if match else part, weight))
    return parts


# ── schedules ──────────────────────────────────────────────────────────────────────────────────────────
#
# A prompt is a list of items: text, a list (brackets that keep their text), or one of the two nodes below.
# A bracket that does not close, or holds something else, is text; a `|` or a lone backslash outside of any
# alternation makes the whole prompt unscheduled, as A1111's grammar has no rule for them.


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


# ── attention ──────────────────────────────────────────────────────────────────────────────────────────

_ATTENTION = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|]|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def attention(text: str) -> Attention:
    """(text, weight) runs of `(x)`, `(x:1.2)`, `[x]` and escapes; nested weights multiply.

    A `BREAK` outside brackets is the pair `BREAK`; inside them its marker is weighted with the rest and turns
    into plain text, as in A1111. Unclosed brackets reach to the end.
    """
    runs: list[list] = []
    rounds: list[int] = []
    squares: list[int] = []

    def weigh(start: int, weight: float) -> None:
        for run in runs[start:]:
            run[1] *= weight

    for match in _ATTENTION.finditer(text):
        mark, number = match.group(), match.group(1)
        if mark.startswith("\\"):
            runs.append([mark[1:], 1.0])
        elif mark == "(":
            rounds.append(len(runs))
        elif mark == "[":
            squares.append(len(runs))
        elif number is not None and rounds and _finite(number):
            weigh(rounds.pop(), float(number))
        elif mark == ")" and rounds:
            weigh(rounds.pop(), ROUND)
        elif mark == "]" and squares:
            weigh(squares.pop(), SQUARE)
        else:
            _append_text(runs, mark)
    for start in rounds:
        weigh(start, ROUND)
    for start in squares:
        weigh(start, SQUARE)
    return _merged(runs or [["", 1.0]])


def _finite(number: str) -> bool:
    # A1111 raises on "(a:1.2.3)"; here it stays text.
    try:
        return math.isfinite(float(number))
    except ValueError:
        return False


def _append_text(runs: list[list], text: str) -> None:
    for index, part in enumerate(_BREAK.split(text)):
        if index:
            runs.append(list(BREAK))
        runs.append([part, 1.0])


def _merged(runs: list[list]) -> Attention:
    merged = [runs[0]]
    for text, weight in runs[1:]:
        if weight == merged[-1][1]:
            merged[-1][0] += text
        else:
            merged.append([text, weight])
    return tuple((text, weight) for text, weight in merged)


# ── chunks ─────────────────────────────────────────────────────────────────────────────────────────────

CHUNK = 75
COMMA_BACKTRACK = 20


@dataclass(frozen=True)
class Chunk:
    """77 token ids with their weights, begin and end marks included.

    `count` of them come from the prompt, the rest pads. `embeddings` are the (position, name) at which the
    vectors of a textual inversion replace the token embeddings; the ids there are 0.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    text: str
    count: int
    embeddings: tuple[tuple[int, str], ...] = ()

    def padded_with(self, pad: int) -> tuple[int, ...]:
        """The ids with another padding behind the end mark (0 for SDXL's second encoder and SD 2)."""
        end = self.ids.index(self.ids[-1], 1)
        return self.ids[: end + 1] + (pad,) * (len(self.ids) - end - 1)


def chunks(
    attention: Attention,
    tokenize: Callable[[str], Sequence[int]],
    *,
    bos: int = 49406,
    eos: int = 49407,
    embeddings: Mapping[str, int] | None = None,
    backtrack: int = COMMA_BACKTRACK,
) -> list[Chunk]:
    """Cut a prompt into chunks of 75 tokens and frame them, as A1111 joins them.

    `tokenize` gives the ids of a text without begin and end marks. When a chunk is full and the last comma is
    at most `backtrack` tokens behind, what follows the comma moves to the next chunk. `BREAK` pads the chunk.
    `embeddings` maps the name of a textual inversion to its number of vectors; the name is found by its
    tokens, longest first, so it is found wherever it stands and in either case.
    """
    builder = _Chunks(tokenize, bos, eos, embeddings or {}, backtrack)
    for run in attention:
        if run == BREAK:
            builder.close()
        else:
            builder.add(*run)
    return builder.finish()


@dataclass
class _Open:
    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    embeddings: list[tuple[int, str]] = field(default_factory=list)


class _Chunks:
    def __init__(self, tokenize, bos: int, eos: int, embeddings: Mapping[str, int], backtrack: int):
        self.tokenize, self.bos, self.eos, self.backtrack = tokenize, bos, eos, backtrack
        self.comma = tuple(tokenize(","))
        named = [(tuple(tokenize(name)), name, size) for name, size in embeddings.items()]
        self.embeddings = sorted((entry for entry in named if entry[0]), key=lambda entry: -len(entry[0]))
        self.done: list[Chunk] = []
        self.open = _Open()
        self.last_comma = -1

    def add(self, text: str, weight: float) -> None:
        ids, texts = self._tokens(text)
        position = 0
        while position < len(ids):
            if ids[position : position + 1] == self.comma:
                self.last_comma = len(self.open.ids)
            elif self._may_backtrack():
                self._backtrack()
            if len(self.open.ids) == CHUNK:
                self.close()
            position += self._take(ids, texts, position, weight)

    def _tokens(self, text: str) -> tuple[tuple[int, ...], list[str]]:
        """The ids of a run, and the piece of text that each id stands for (at the first id of a word)."""
        ids = tuple(self.tokenize(text))
        pieces = re.findall(r"\s*[^\s,]+|\s*,|\s+$", text)
        split = [(piece, tuple(self.tokenize(piece))) for piece in pieces]
        if sum((piece_ids for _, piece_ids in split), ()) != ids:
            # Words that the tokenizer does not keep apart: the run is one piece.
            split = [(text, ids)]
        texts: list[str] = []
        for piece, piece_ids in split:
            if piece_ids:
                texts += [piece] + [""] * (len(piece_ids) - 1)
            elif texts:
                texts[-1] += piece
        return ids, texts

    def _take(self, ids: tuple[int, ...], texts: list[str], position: int, weight: float) -> int:
        """Put the token, or the embedding that is named here, into the open chunk; the tokens consumed."""
        for name_ids, name, size in self.embeddings:
            if ids[position : position + len(name_ids)] == name_ids:
                self._take_embedding(name, size, "".join(texts[position : position + len(name_ids)]), weight)
                return len(name_ids)
        self._append([ids[position]], [texts[position]], weight)
        return 1

    def _take_embedding(self, name: str, size: int, text: str, weight: float) -> None:
        if size > CHUNK:
            raise UserError(f"The embedding {name} has {size} vectors; a chunk has room for {CHUNK}.")
        if len(self.open.ids) + size > CHUNK:
            self.close()
        self.open.embeddings.append((len(self.open.ids) + 1, name))
        self._append([0] * size, [text] + [""] * (size - 1), weight)

    def _append(self, ids: list[int], texts: list[str], weight: float) -> None:
        self.open.ids += ids
        self.open.texts += texts
        self.open.weights += [weight] * len(ids)

    def _may_backtrack(self) -> bool:
        size = len(self.open.ids)
        return size == CHUNK and self.last_comma != -1 and size - self.last_comma <= self.backtrack

    def _backtrack(self) -> None:
        cut = self.last_comma + 1
        moved = self.open
        kept = [entry for entry in moved.embeddings if entry[0] <= cut]
        self.open = _Open(moved.ids[:cut], moved.weights[:cut], moved.texts[:cut], kept)
        self.close()
        late = [(position - cut, name) for position, name in moved.embeddings if position > cut]
        self.open = _Open(moved.ids[cut:], moved.weights[cut:], moved.texts[cut:], late)

    def close(self) -> None:
        """Pad the open chunk to 75 and frame it; the padding and the frame have weight 1."""
        full, pad = self.open, CHUNK - len(self.open.ids)
        ids = (self.bos, *full.ids, *[self.eos] * pad, self.eos)
        weights = (1.0, *full.weights, *[1.0] * pad, 1.0)
        text = "".join(full.texts).strip()
        self.done.append(Chunk(ids, weights, text, len(full.ids), tuple(full.embeddings)))
        self.open, self.last_comma = _Open(), -1

    def finish(self) -> list[Chunk]:
        if self.open.ids or not self.done:
            self.close()
        return self.done


def pad(chunks: Sequence[Chunk], size: int, *, bos: int = 49406, eos: int = 49407) -> list[Chunk]:
    """The chunks with empty ones behind them up to `size`, for prompts of different length in one batch."""
    empty = Chunk((bos, *[eos] * (CHUNK + 1)), (1.0,) * (CHUNK + 2), "", 0)
    return [*chunks, *[empty] * (size - len(chunks))]


# ── styles ─────────────────────────────────────────────────────────────────────────────────────────────


def read_styles(path: Path) -> dict[str, tuple[str, str]]:
    """{name: (prompt, negative prompt)} of A1111's styles.csv. Raises UserError when it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"The styles in {path} cannot be read: {error}.") from error
    # Files from before A1111 1.0 call the prompt "text".
    return {
        row["name"]: (row.get("prompt") or row.get("text") or "", row.get("negative_prompt") or "")
        for row in rows
        if row.get("name")
    }


def apply_style(prompt: str, style: str) -> str:
    """`style` with the prompt at its `{prompt}`, or behind the prompt with a comma, as A1111 merges them."""
    if "{prompt}" in style:
        return style.replace("{prompt}", prompt)
    return ", ".join(part for part in (prompt.strip(), style.strip()) if part)
