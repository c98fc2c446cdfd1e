"""The filter language: `tag:blue hair AND NOT (tag:smile OR tokens:>75)`.

    expression := term (AND term | OR term)*     AND binds tighter; two terms side by side mean AND
    term       := NOT term | "(" expression ")" | field:value | words
    value      := words up to the next operator, bracket or field; "quoted" when those are meant literally

Words without a field are looked for in the caption's text. Tags are compared as people compare them (case, `_` for
space) and may hold `*`. Numbers take >, >=, <, <=, = or a range 512..1024.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from trainer.dataset import captions, tags
from trainer.errors import UserError, nearest


@dataclass
class Item:
    """One picture as filters see it; sizes are 0 where they were not asked for."""

    path: Path
    caption: str | None = None
    """None: there is no caption."""
    width: int = 0
    height: int = 0
    bytes: int = 0
    issues: frozenset[str] = field(default_factory=frozenset)
    """Kinds of the health check's findings about it."""
    tokens: int | None = None
    """Of the caption, where a tokenizer has counted them; else they are counted from below."""

    @cached_property
    def keys(self) -> frozenset[str]:
        return frozenset(map(captions.same, captions.split(self.caption or "")))


Test = Callable[[Item], bool]


@dataclass(frozen=True)
class Query:
    """A parsed filter; calling it with an Item says whether that one is wanted."""

    text: str
    test: Test
    fields: frozenset[str]
    """Which fields it asks about, so that nobody measures pictures for a filter about tags."""

    def __call__(self, item: Item) -> bool:
        return self.test(item)

    @property
    def needs_sizes(self) -> bool:
        return bool(self.fields & {"width", "height", "ratio", "size"})

    @property
    def needs_issues(self) -> bool:
        return "issue" in self.fields


def parse(text: str) -> Query:
    """Raises UserError, with the place and what would be valid there, for anything that is no filter.

    >>> parse("tag:hat AND NOT tag:smile")(Item(Path("a.png"), "moss, hat"))
    True
    """
    reader = _Reader(text)
    if not reader.tokens:
        return Query(text, lambda _: True, frozenset())
    test = reader.either()
    if reader.peek is not None:
        raise reader.error("there is a ')' too many")
    return Query(text, test, frozenset(reader.fields))


def select(items: Iterable[Item], text: str) -> list[Item]:
    """Those that the filter wants, in their order."""
    query = parse(text)
    return [item for item in items if query(item)]


# --- fields: one function each, (value, error) -> test ---


def _tag(value: str, _) -> Test:
    key = captions.same(value)
    if "*" in key or "?" in key:
        key = key.replace("[", "[[]")
        return lambda item: any(fnmatchcase(tag, key) for tag in item.keys)
    return lambda item: key in item.keys


def _caption(value: str, _) -> Test:
    wanted = value.casefold()
    return lambda item: wanted in (item.caption or "").casefold()


def _name(value: str, _) -> Test:
    wanted = value.casefold()
    if "*" in wanted or "?" in wanted:
        wanted = wanted.replace("[", "[[]")
        return lambda item: fnmatchcase(item.path.name.casefold(), wanted)
    return lambda item: wanted in item.path.name.casefold()


def _missing(value: str, error) -> Test:
    if value == "caption":
        return lambda item: not item.caption
    if value == "file":
        return lambda item: item.caption is None
    if value == "tags":
        return lambda item: not item.keys
    raise error("missing: takes caption (none or empty), file or tags; a tag that lacks is NOT tag:it")


def _issue(value: str, _) -> Test:
    wanted = value.casefold()
    if wanted in ("any", "*"):
        return lambda item: bool(item.issues)
    return lambda item: wanted in item.issues


def _number(measure: Callable[[Item], float]) -> Callable[[str, Callable], Test]:
    def field(value: str, error) -> Test:
        span = re.fullmatch(r"(\d+(?:\.\d+)?)\s*\.\.\s*(\d+(?:\.\d+)?)", value)
        if span:
            low, high = map(float, span.groups())
            return lambda item: low <= measure(item) <= high
        one = re.fullmatch(r"(>=|<=|>|<|=|)\s*(\d+(?:\.\d+)?)", value)
        if not one:
            raise error(f"'{value}' is no number: write >75, <=512, 3 or 512..1024")
        sign, limit = one[1], float(one[2])
        return {
            ">": lambda item: measure(item) > limit,
            ">=": lambda item: measure(item) >= limit,
            "<": lambda item: measure(item) < limit,
            "<=": lambda item: measure(item) <= limit,
        }.get(sign, lambda item: measure(item) == limit)

    return field


FIELDS: Mapping[str, Callable[[str, Callable], Test]] = {
    "tag": _tag,
    "caption": _caption,
    "name": _name,
    "missing": _missing,
    "issue": _issue,
    "tokens": _number(lambda item: tags.count_tokens(item.caption or "") if item.tokens is None else item.tokens),
    "tags": _number(lambda item: len(item.keys)),
    "width": _number(lambda item: item.width),
    "height": _number(lambda item: item.height),
    "ratio": _number(lambda item: item.width / item.height if item.height else 0.0),
    "size": _number(lambda item: item.bytes / 1e6),
}
"""What can be asked about a picture; `ratio` is width over height, `size` the file's megabytes."""


# --- reading ---

_TOKEN = re.compile(r'\s+|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<bracket>[()])|(?P<word>(?:[^\s()"\\]|\\.)+)')
_FIELD = re.compile(r"([a-z]+):(.*)", re.IGNORECASE | re.DOTALL)


class _Reader:
    """Recursive descent over the tokens (kind, text, place)."""

    def __init__(self, text: str):
        self.text, self.at = text, 0
        self.fields: set[str] = set()
        self.tokens = self._cut(text)

    def _cut(self, text: str) -> list[tuple[str, str, int]]:
        tokens, place = [], 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if not match:
                raise self.error('a quotation mark " is not closed', place)
            if match.lastgroup:
                tokens.append((match.lastgroup, match.group(), place))
            place = match.end()
        return tokens

    @property
    def peek(self) -> tuple[str, str, int] | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def error(self, what: str, place: int | None = None) -> UserError:
        place = (self.peek[2] if self.peek else len(self.text)) if place is None else place
        return UserError(f"The filter cannot be read at character {place + 1}: {what}.")

    def _operator(self, *names: str) -> bool:
        """Takes the next token if it is one of these operators."""
        if self.peek and self.peek[0] == "word" and self.peek[1] in names:
            self.at += 1
            return True
        return False

    def either(self) -> Test:
        tests = [self.all()]
        while self._operator("OR"):
            tests.append(self.all())
        return tests[0] if len(tests) == 1 else lambda item: any(test(item) for test in tests)

    def all(self) -> Test:
        tests = [self.one()]
        while self.peek and self.peek[1] != ")" and not (self.peek[0] == "word" and self.peek[1] == "OR"):
            self._operator("AND")
            tests.append(self.one())
        return tests[0] if len(tests) == 1 else lambda item: all(test(item) for test in tests)

    def one(self) -> Test:
        inverted = False
        while self._operator("NOT"):
            inverted = not inverted
        test = self._term()
        return (lambda item: not test(item)) if inverted else test

    def _term(self) -> Test:
        if self.peek is None:
            raise self.error("it ends where a term such as tag:hat is expected")
        kind, text, place = self.peek
        if kind == "bracket":
            return self._bracket(text)
        if kind == "word" and text in ("AND", "OR"):
            raise self.error(f"{text} needs a term such as tag:hat on both sides")
        match = _FIELD.fullmatch(text) if kind == "word" else None
        if not match:
            self.fields.add("caption")
            return _caption(self._value(""), self.error)
        name = match[1].lower()
        if name not in FIELDS:
            raise self.error(f"unknown field '{name}', {nearest(name, FIELDS)}")
        self.at += 1
        value = self._value(match[2])
        if not value:
            raise self.error(f"{name}: says nothing; give a value, in quotation marks where it holds brackets", place)
        self.fields.add(name)
        return FIELDS[name](value, lambda what: self.error(what, place))

    def _bracket(self, text: str) -> Test:
        if text == ")":
            raise self.error("a ')' stands where a term such as tag:hat is expected")
        self.at += 1
        test = self.either()
        if self.peek is None:
            raise self.error("a '(' is not closed")
        self.at += 1
        return test

    def _value(self, begun: str) -> str:
        """The words that belong together: `tag:blue hair` is about the tag `blue hair`."""
        words = [begun] if begun else []
        while self.peek:
            kind, text, _ = self.peek
            if kind == "quoted":
                if words:
                    break
                self.at += 1
                return re.sub(r"\\(.)", r"\1", text[1:-1])
            if kind == "bracket" or text in ("AND", "OR", "NOT") or _FIELD.fullmatch(text):
                break
            words.append(text)
            self.at += 1
        return " ".join(words)
