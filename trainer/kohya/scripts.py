"""Calls of sd-scripts as people keep them: a shell, batch or PowerShell file with variables above the call."""

from __future__ import annotations

import re
import shlex
from typing import Any

from trainer.kohya.arguments import Values

_SCRIPT = re.compile(r"(\w*)train_network(?:\.py)?[\"']?")
_ASSIGNED = re.compile(r"\s*(?:(\$|set\s+\"?)|export\s+|local\s+|declare\s+)?(\w+)\s*=\s*(.*)$", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*)|[^}\w][^}]*)?\}|\$(\w+)|%(\w+)%|!(\w+)!")
_LIST = re.compile(r'"?\$\{\w+\[[@*]\]\}"?')  # of a shell, which is filled under conditions
_ENDS = re.compile(r"(\|\|?|&&?|;|[12]?>.*)$")  # of a command, where the next one begins or its output goes
_HERE = {"cd": ".", "pwd": ".", "psscriptroot": "."}  # a script's own folder, from which it is started


def call(text: str) -> tuple[str, Values, Values, list[str]]:
    """(name of the script that is called, its options, options that stand elsewhere, all lines with variables put in).

    Without a call the name is empty, and its options are those of the whole text.
    """
    lines = _filled_in(_lines(text))
    calls = [n for n, line in enumerate(lines) if _SCRIPT.search(line)]
    with_options = [n for n in calls if "--" in lines[n][_SCRIPT.search(lines[n]).end() :]]
    if not calls:
        return "", options("\n".join(lines)), {}, lines
    place = (with_options or calls)[-1]
    found = _SCRIPT.search(lines[place])
    elsewhere = "\n".join(line for n, line in enumerate(lines) if n not in calls)
    # Often within quotes and brackets: extArgs+=("--clip_skip 2")
    scattered = re.findall(r"--([A-Za-z]\w*)(?:[= ]([^\n\"';)-][^\n\"';)]*))?", elsewhere)
    return f"{found[1]}train_network.py", options(lines[place][found.end() :]), dict(scattered), lines


def unknown_variable(value: Any) -> str:
    """The first variable in an option's value that the text gives no value to; empty when there is none."""
    found = _VARIABLE.search(" ".join(map(str, value)) if isinstance(value, list) else str(value))
    return found[0] if found else ""


def options(text: str) -> Values:
    """`--network_dim 16 --sdpa --network_args a=1 b=2` -> {"network_dim": "16", "sdpa": True, "network_args": […]}."""
    splitter = shlex.shlex(text, posix=True, punctuation_chars=False)
    splitter.whitespace_split, splitter.commenters = True, ""
    splitter.escape = ""  # paths of Windows
    try:
        tokens = list(splitter)
    except ValueError:  # a quotation mark without its partner
        tokens = text.split()
    values: Values = {}
    name = ""
    for token in tokens:
        if _ENDS.match(token):
            break
        if option := re.match(r"--([A-Za-z]\w*)(?:=(.*))?$", token, flags=re.DOTALL):
            name, value = option[1], option[2]
            values[name] = True if value is None else value
        elif name and token == "":  # a list that is empty, or a value that is
            values[name] = "" if values[name] is True else values[name]
        elif name:
            before = values[name]
            values[name] = token if before is True else [*(before if isinstance(before, list) else [before]), token]
    return values


def _lines(text: str) -> list[str]:
    """Without comments, and with what goes on in the next line as shells, batch files and PowerShell write it."""
    joined = re.sub(r"[\\^`][ \t]*\r?\n", " ", text)
    return [line for line in joined.splitlines() if not re.match(r"\s*(#|rem\s|::)", line, re.IGNORECASE)]


def _filled_in(lines: list[str]) -> list[str]:
    """With the variables put in that are given one value above; a list that is filled under conditions is empty."""
    known: dict[str, str] = dict(_HERE)
    unsure: set[str] = set()
    filled = []
    for line in lines:
        filled.append(_put_in(line, known))
        for part in re.split(r";\s+", filled[-1]):  # A=1; B=2
            if found := _ASSIGNED.match(part):
                name, value = found[2].lower(), _plain(found[3], whole_line=(found[1] or "").lower().startswith("set"))
                if "$" in value or known.setdefault(name, value) != value:
                    unsure.add(name)  # what it is depends on something
        for name in unsure & known.keys():
            del known[name]
    return filled


def _put_in(line: str, known: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = next(group for group in (found[1], found[3], found[4], found[5]) if group)
        return known.get(name.lower(), found[0] if found[2] is None else found[2])

    return _VARIABLE.sub(value, _LIST.sub("", line))


def _plain(text: str, *, whole_line: bool) -> str:
    """The value of an assignment: `"a b"  # why` -> a b. In a batch file the rest of the line is the value."""
    text = text.strip()
    if text[:1] in ("(", "[", "@"):
        return ""
    if text[:1] in ("'", '"'):
        return text[1:].partition(text[0])[0]
    return text.rstrip('"') if whole_line else re.split(r"[\s;]", text, maxsplit=1)[0]
