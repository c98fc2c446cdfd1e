"""The trainer's own sentences in the reader's language: errors, findings, reasons, states.

The trainer says whole English sentences with names and numbers in them, and knows of no other language. What it can
say stands in its source, so that is where `collect` finds the patterns to translate, "alpha {alpha} is above dim
{rank}, …", and `said` recognises a sentence by them. What matches none is shown as it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import trainer.run
import trainer.texts
from studio import language
from trainer import report
from trainer.cells import Evaluation

ROOM = Path(trainer.run.__file__).parent
# Whose every text is made for people; of all others the sentences of their UserErrors are.
SPOKEN = (
    "basecheck.py",
    "checks/learning.py",
    "checks/network.py",
    "checks/pictures.py",
    "checks/problem.py",
    "doctor.py",
    "errors.py",
    "recommend.py",
    "export.py",
    "vote.py",
    "grid.py",
    "lifetime.py",
    "run.py",
    "record.py",
    "loop.py",
    "preparation.py",
    "dataset/findings.py",
    "families/checkpoint_file.py",
    "families/folder.py",
    "families/shapes.py",
    "kohya/info.py",
)
# What can be taken back, as journals call it; of the parts only these are words of ours.
DONE = (
    "add files",
    "edit {name}",
    "fix {kind}",
    "tag ({mode})",
    "mask {name}",
    "no mask {name}",
    "masks from {name}",
    "convert {source} to {to}",
    "dedupe",
    "{operation}: {what}",
)
OURS = ("kind", "mode", "operation")
# What commands print whose last words a page shows, and how lists end that are filled in.
PRINTED = ("Exported to {file} ({size})", "In your prompt: {prompt}", "{names} and {number} more")
PRINTED += ("Wrote {captions} in {folder}.",)
TIMES = ("{hours} h {minutes} min", "{minutes} min {seconds} s", "{minutes} min", "{seconds} s")  # `texts.duration`
TERMINAL = ("cli", "toybox", "demo.py", "explain.py", "processes.py")  # never on a page
LEAST = 2  # words without which a pattern fits too much: then all that is filled in must be known as well
FIELD = re.compile(r"{(\w+)}")
NUMBER = re.compile(r"[\d.,×%−+ -]*\d[\d.,×%−+ -]*")
COUNTED = re.compile(r"([\d,]+) ([a-z -]+?)(?:es|s)?")


# ── from the source ─────────────────────────────────────────────────────────────────────────────────────


def collect() -> list[str]:
    """Every pattern of the trainer's, in the order of its files."""
    names = [path.relative_to(ROOM).as_posix() for path in sorted(ROOM.rglob("*.py"))]
    trees = {name: ast.parse((ROOM / name).read_text("utf-8")) for name in names if Path(name).parts[0] not in TERMINAL}
    filled = {name for tree in trees.values() for name in filled_in(tree) if name.isupper()}
    found = [text for name, tree in trees.items() for text in patterns(tree, name in SPOKEN, filled)]
    return list(dict.fromkeys(found))


def made(tree: ast.AST) -> Iterator[ast.expr]:
    """What sentences are made of in a piece of source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UserError", "Problem", "Finding"):
            yield from node.args


def filled_in(tree: ast.AST) -> set[str]:
    """Names of the variables whose values stand in sentences."""
    parts = (part for sentence in made(tree) for part in ast.walk(sentence) if isinstance(part, ast.FormattedValue))
    return {part.value.id for part in parts if isinstance(part.value, ast.Name)}


def patterns(tree: ast.AST, everything: bool, elsewhere: Iterable[str] = ()) -> Iterator[str]:
    """`everything`: also what is in no error. `elsewhere`: constants that sentences of other files fill in."""
    for sentence in made(tree):
        yield from texts(sentence)
    filled = filled_in(tree) | set(elsewhere)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (
            everything or filled.intersection(getattr(one, "id", "") for one in node.targets)
        ):
            yield from texts(node.value)
        elif everything and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for statement in node.body:
                if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                    yield from texts(statement)


def texts(node: ast.AST) -> Iterator[str]:
    """Patterns of the sentences and halves of sentences in a piece of source, outermost first."""
    if isinstance(node, ast.JoinedStr):
        text = pattern(node)
        if spoken(FIELD.sub("", text)):
            yield text
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str) and spoken(node.value):
            yield node.value.strip()
        return
    for child in ast.iter_child_nodes(node):
        # What an f-string consists of has been said with it; what is computed in it may hold sentences of its own.
        if not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from texts(child)


def spoken(text: str) -> bool:
    """Words, rather than a key, a name or a format."""
    return bool(re.search(r"[A-Za-z]{2,} [A-Za-z]", text) or re.search(r"[a-z]{3,}[.:,;]? ", text))


def pattern(node: ast.JoinedStr) -> str:
    """An f-string as `str.format` reads it: f"{a.rank:g} of {sum(b)}" -> "{rank} of {b}"."""
    parts: list[str] = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(part.value.replace("{", "{{").replace("}", "}}"))
            continue
        names = [getattr(one, "attr", None) or getattr(one, "id", None) for one in ast.walk(part.value)]
        name = next((name for name in names if name and name not in ("shown", "str", "len", "listed")), "value")
        taken = [one for one in parts if re.fullmatch(rf"{{{name}\d*}}", one)]
        parts.append(f"{{{name}{len(taken) + 1 if taken else ''}}}")
    return "".join(parts).strip()


# ── on a page ───────────────────────────────────────────────────────────────────────────────────────────


def said(text: object) -> str:
    """A sentence of the trainer's in the reader's language; itself where it is not known."""
    chosen = language.current()
    text = str(text)
    return text if chosen == "en" or not text else translated(chosen, text) or text


def of_report(evaluation: Evaluation) -> dict[str, Any]:
    """The words of a comparison's report in the reader's language, as `report.in_words` takes them."""
    if language.current() == "en":
        return report.NO_WORDS
    texts = (*report.own_texts(), *report.texts_about(evaluation))
    return {"language": language.current().replace("_", "-"), "texts": {text: said(text) for text in texts}}


def duration(seconds: float) -> str:
    return said(trainer.texts.duration(seconds))


def done(operation: str) -> str:
    """What was done to a folder, by its name in the journal."""
    catalog = language.catalog(language.current())
    for known in DONE:
        if match := as_regex(known).fullmatch(operation):
            parts = match.groupdict().items()
            return catalog.gettext(known).format(**{k: catalog.gettext(v) if k in OURS else v for k, v in parts})
    return language._(operation)


@lru_cache(maxsize=2000)
def translated(chosen: str, text: str) -> str:
    """Empty where no pattern fits."""
    catalog = language.catalog(chosen)
    if (exact := catalog.gettext(text)) != text:
        return exact
    if NUMBER.fullmatch(text):
        return text
    if (counted := COUNTED.fullmatch(text)) and (noun := catalog.gettext(counted[2])) != counted[2]:
        return f"{counted[1]} {noun}"
    likely = ""
    for known, pattern, sure in known_patterns(chosen):
        if match := pattern.fullmatch(text):
            parts = match.groupdict()
            filled = {name: translated(chosen, part) for name, part in parts.items()}
            whole = catalog.gettext(known).format(**{name: filled[name] or parts[name] for name in parts})
            if all(filled.values()):
                return whole
            likely = likely or whole * sure
    return likely


@cache
def known_patterns(chosen: str) -> list[tuple[str, re.Pattern[str], bool]]:
    """(text, what it looks like with everything filled in, whether that cannot be mistaken), the most telling first."""
    found = []
    for text in getattr(language.catalog(chosen), "_catalog", {}):
        if isinstance(text, str) and FIELD.search(text):
            fixed = FIELD.sub(" ", text)
            found.append((len(fixed), text, len(re.findall(r"[A-Za-z]{2,}", fixed)) >= LEAST))
    found.sort(reverse=True)
    return [(text, as_regex(text), sure) for _length, text, sure in found]


def as_regex(text: str) -> re.Pattern[str]:
    at, parts = 0, []
    for field in FIELD.finditer(text):
        parts += [re.escape(unescaped(text[at : field.start()])), f"(?P<{field[1]}>.*?)"]
        at = field.end()
    return re.compile("".join(parts) + re.escape(unescaped(text[at:])), re.DOTALL)


def unescaped(text: str) -> str:
    return text.replace("{{", "{").replace("}}", "}")
