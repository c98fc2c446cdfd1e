"""Changes to many captions at once: what each would become, shown before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trainer.dataset import captions
from trainer.dataset.captions import join, same, split


def add_first(caption: str, what: str, _with: str) -> str:
    """Tags in front"""
    there = {same(tag) for tag in split(caption)}
    return join([tag for tag in split(what) if same(tag) not in there] + split(caption)) if split(what) else caption


def add_last(caption: str, what: str, _with: str) -> str:
    """Tags at the end"""
    return captions.merge(caption, split(what))


def remove(caption: str, what: str, _with: str) -> str:
    """Tags out"""
    return captions.remove(caption, split(what))


def replace(caption: str, what: str, with_: str) -> str:
    """One tag by another"""
    return captions.replace(caption, dict.fromkeys(split(what), with_))


def replace_text(caption: str, what: str, with_: str) -> str:
    """Letters by others, as in an editor"""
    return caption.replace(what, with_).strip() if what else caption


def move_first(caption: str, what: str, _with: str) -> str:
    """Tags to the front where they are"""
    wanted = {same(tag) for tag in split(what)}
    tags = split(caption)
    front = [tag for tag in tags if same(tag) in wanted]
    return join(front + [tag for tag in tags if same(tag) not in wanted]) if front else caption


def dedupe(caption: str, _what: str, _with: str) -> str:
    """Each tag once"""
    return captions.dedupe(caption)


# Name -> (how it changes a caption, whether it asks what, whether it asks by what)
OPERATIONS: dict[str, tuple[Callable[[str, str, str], str], bool, bool]] = {
    "Add at the end": (add_last, True, False),
    "Add in front": (add_first, True, False),
    "Remove": (remove, True, False),
    "Replace a tag": (replace, True, True),
    "Replace text": (replace_text, True, True),
    "Move to the front": (move_first, True, False),
    "Remove duplicates": (dedupe, False, False),
}


def preview(name: str, what: str, with_: str, texts: Mapping[str, str | None]) -> dict[str, tuple[str, str]]:
    """Picture -> (caption now, caption then), of those that would change."""
    change, asks, _ = OPERATIONS[name]
    if asks and not what.strip():
        return {}
    found = {path: (text or "", change(text or "", what, with_)) for path, text in texts.items()}
    return {path: (before, after) for path, (before, after) in found.items() if before != after}
