"""Edits to many captions at once: planned first, shown, then written as one entry of the journal.

An edit is one function in EDITS: it takes the captions and its arguments and gives the new texts of those that it
changes. Nothing is written before `apply`, and one undo takes all of it back.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from trainer.dataset import captions, formats, tags
from trainer.dataset.formats import Texts
from trainer.dataset.names import count, shown
from trainer.errors import UserError, nearest


@dataclass(frozen=True)
class Change:
    """One caption before and after; None where there is no caption."""

    picture: Path
    before: str | None
    after: str


@dataclass(frozen=True)
class Plan:
    """What an edit would do."""

    operation: str
    """Its name in the journal."""
    changes: list[Change]
    notes: list[str] = field(default_factory=list)
    """Why, where that is not plain from the texts."""

    def __str__(self) -> str:
        return f"{self.operation}: {count(len(self.changes), 'caption')} would change"


def plan(texts: Texts, edit: str, arguments: Sequence[str] = ()) -> Plan:
    """What `edit` would make of these captions. Raises UserError for an unknown edit or wrong arguments."""
    if edit not in EDITS:
        raise UserError(f"Unknown edit '{edit}': {nearest(edit, EDITS)}")
    notes: list[str] = []
    after = EDITS[edit](texts, list(arguments), notes)
    changes = [Change(picture, texts[picture], text) for picture, text in after.items() if text != texts[picture]]
    return Plan(" ".join([edit, *arguments]), changes, notes)


def apply(folder: Path, plan: Plan, format: str = "txt") -> str | None:
    """Write the planned captions; returns the operation's id for undo, None when nothing changes.

    Raises UserError when a caption is no longer what the plan was made for.
    """
    now = formats.read(folder, [change.picture for change in plan.changes], format)
    stale = [change for change in plan.changes if now[change.picture] != change.before]
    if stale:
        raise UserError(
            f"The caption of {shown(stale[0].picture.name)} has been changed since the edit was planned: plan it again."
        )
    return formats.write(folder, {c.picture: c.after for c in plan.changes}, plan.operation, format)


# --- one function an edit: (texts, arguments, notes) -> picture -> new text ---


def add(texts: Texts, arguments: list[str], _) -> dict[Path, str]:
    """TAG ...: put them at the end of every caption that lacks them."""
    wanted = _tags(arguments, "add TAG ...")
    return {path: captions.merge(text or "", wanted) for path, text in texts.items()}


def prepend(texts: Texts, arguments: list[str], _) -> dict[Path, str]:
    """TAG ...: put them at the start of every caption that lacks them."""
    wanted = _tags(arguments, "prepend TAG ...")
    done = {}
    for path, text in texts.items():
        there = {captions.same(tag) for tag in captions.split(text or "")}
        missing = captions.join(tag for tag in wanted if captions.same(tag) not in there)
        if missing:
            done[path] = f"{missing}, {text}" if text else missing
    return done


def remove(texts: Texts, arguments: list[str], _) -> dict[Path, str]:
    """TAG ...: take them out; `*hair` takes out every tag that ends so."""
    patterns = [captions.same(tag).replace("[", "[[]") for tag in _tags(arguments, "remove TAG ...")]

    def change(tag: str) -> list[str]:
        return [] if any(fnmatchcase(captions.same(tag), pattern) for pattern in patterns) else [tag]

    return {path: captions.rewrite(text, change) for path, text in _there(texts)}


def replace(texts: Texts, arguments: list[str], _) -> dict[Path, str]:
    """OLD NEW: one tag by another, or by several with commas between."""
    old, new = _exactly(arguments, "replace OLD NEW", 2)
    return {path: captions.replace(text, {old: new}) for path, text in _there(texts)}


def regex(texts: Texts, arguments: list[str], _) -> dict[Path, str]:
    r"""PATTERN NEW: a regular expression over the whole text, \1 for what its first group found."""
    pattern, new = _exactly(arguments, "regex PATTERN NEW", 2)
    try:
        expression = re.compile(pattern)
        return {path: expression.sub(new, text) for path, text in _there(texts)}
    except (re.error, IndexError) as error:
        raise UserError(f"The regular expression '{pattern}' with '{new}' cannot be used: {error}.") from error


def order(texts: Texts, arguments: list[str], notes: list[str]) -> dict[Path, str]:
    """frequency | alphabet | TAG ...: the most frequent first, by letter, or these first; sentences stay."""
    wanted = _tags(arguments, "order frequency, order alphabet or order TAG ...")
    if wanted == ["frequency"]:
        ranks = {captions.same(tag): rank for rank, tag in enumerate(tags.frequencies(texts.values()))}
        key = ranks.__getitem__
    elif wanted == ["alphabet"]:
        key = str
    else:
        first = {captions.same(tag): rank for rank, tag in reversed(list(enumerate(wanted)))}

        def key(tag: str) -> int:
            return first.get(tag, len(first))

    done, prose = {}, 0
    for path, text in _there(texts):
        if tags.is_prose(text):
            prose += 1
            continue
        before = captions.split(text)
        after = sorted(before, key=lambda tag: key(captions.same(tag)))
        done[path] = text if after == before else captions.join(after)
    if prose:
        notes.append(f"{count(prose, 'caption')} in sentences stay as they are")
    return done


def dedupe(texts: Texts, arguments: list[str], _) -> dict[Path, str]:
    """Each tag once, where it stands first."""
    _exactly(arguments, "dedupe", 0)
    return {path: captions.dedupe(text) for path, text in _there(texts)}


def prune(texts: Texts, arguments: list[str], notes: list[str]) -> dict[Path, str]:
    """Take out tags that a longer one beside them says already: `hair` beside `blue hair`."""
    _exactly(arguments, "prune", 0)
    done, said = {}, {}
    for path, text in _there(texts):
        implied = tags.implied(captions.split(text))
        said |= {captions.same(short): longer for short, longer in implied.items()}
        done[path] = captions.remove(text, implied)
    notes += [f"{short}: said by {longer}" for short, longer in said.items()]
    return done


def absorb(texts: Texts, arguments: list[str], notes: list[str]) -> dict[Path, str]:
    """[TAG ...]: take out what describes the character itself, so that the trigger word learns it.

    A LoRA binds what it sees to the words beside it. What every caption names (`blue hair`) is bound to that name and
    must be asked for; what no caption names is bound to the trigger. Without arguments the tags are found: those in
    half of the captions or more that describe a body.
    """
    first = captions.split(next((text for text in texts.values() if text), ""))[:1]
    if arguments:
        unwanted = _tags(arguments, "absorb [TAG ...]")
        notes += [f"{tag}: taken out, so that the trigger word learns it" for tag in unwanted]
    else:
        found = tags.traits(texts.values(), trigger=captions.join(first))
        unwanted = [trait.tag for trait in found]
        notes += map(str, found)
    done = {path: captions.remove(text, unwanted) for path, text in _there(texts)}
    bare = [path for path, text in done.items() if not text and texts[path]]
    if bare:
        notes.append(f"{shown(bare[0].name)} and others would keep no word at all: put the trigger first")
    return done


def trigger(texts: Texts, arguments: list[str], _) -> dict[Path, str]:
    """WORD: first in every caption and nowhere else; pictures without a caption get one of it."""
    words = captions.join(_tags(arguments, "trigger WORD"))
    return {path: captions.with_trigger(text or "", words) for path, text in texts.items()}


def spaces(texts: Texts, arguments: list[str], _) -> dict[Path, str]:
    """`blue hair` for `blue_hair`, as prompts are written; faces such as ^_^ stay."""
    _exactly(arguments, "spaces", 0)

    def change(tag: str) -> list[str]:
        return [tag.replace("_", " ") if re.search(r"[^\W_]{2}", tag) else tag]

    return {path: captions.rewrite(text, change) for path, text in _there(texts)}


Edit = Callable[[Texts, list[str], list[str]], Mapping[Path, str]]
EDITS: dict[str, Edit] = {
    "add": add,
    "prepend": prepend,
    "remove": remove,
    "replace": replace,
    "regex": regex,
    "order": order,
    "dedupe": dedupe,
    "prune": prune,
    "absorb": absorb,
    "trigger": trigger,
    "spaces": spaces,
}


def _there(texts: Texts) -> Iterable[tuple[Path, str]]:
    return ((path, text) for path, text in texts.items() if text is not None)


def _tags(arguments: list[str], usage: str) -> list[str]:
    found = [tag for argument in arguments for tag in captions.split(argument)]
    if not found:
        raise UserError(f"This edit needs to know what: {usage}.")
    return found


def _exactly(arguments: list[str], usage: str, number: int) -> list[str]:
    if len(arguments) != number:
        raise UserError(f"This edit takes {number} arguments and was given {len(arguments)}: {usage}.")
    return arguments
