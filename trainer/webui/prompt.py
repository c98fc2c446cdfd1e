"""Prompts as A1111 1.10 reads them: networks, AND, schedules, attention. No torch here.

The order of the steps is the tool's, and it matters: `<lora:…>` is taken out of the text first, `AND` splits
even inside brackets, schedules are settled before attention is read, and only then is the text tokenized.
"""

import math
import re
from dataclasses import dataclass

from trainer.errors import UserError
from trainer.webui.prompt_editing import schedule

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
