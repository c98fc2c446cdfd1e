"""What the captions of a folder say together: how often, what with what, and what says nothing new."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from trainer.dataset import captions
from trainer.dataset.captions import same

NEGATIONS = frozenset("no not non without anti un".split())
"""`no hat` does not say `hat`."""

TRAITS = {
    "hair": r".*\b(hair|bangs|ponytail|twintails|braids?|ahoge|bob cut|fringe|sidelocks|beard|mustache)",
    "eyes": r".*\b(eyes|eyelashes|eyebrows|pupils|heterochromia)",
    "skin": r".*\b(skin|freckles?|scars?|mole|birthmark|stripes|spots|tattoo)",
    "body": r".*\b(ears?|tail|horns?|antlers?|wings|fangs?|snout|muzzle|fur|scales|body|breasts|beak|claws|paws)",
    "kind": r"(1|solo )?(girl|boy|other|cat|dog|fox|wolf|dragon|robot|creature|animal)|(cat|dog|fox|wolf) (girl|boy)",
}
"""What belongs to a character's body and stays with it from picture to picture. Clothes, poses and places do not:
left in the captions they stay changeable."""

_TRAITS = {kind: re.compile(pattern) for kind, pattern in TRAITS.items()}
# CLIP's own rule for cutting a text into words before it looks for parts of words (openai/CLIP, simple_tokenizer.py).
_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """Two tags that stand in the same captions."""

    tags: tuple[str, str]
    captions: int
    share: float
    """Of the captions with the rarer of the two, 0 to 1; at 1 it never stands alone."""
    lift: float
    """Times more often than chance would have it."""


@dataclass(frozen=True)
class Trait:
    """A tag that seems to describe the character itself."""

    tag: str
    captions: int
    share: float
    """Of all captions, 0 to 1."""
    kind: str
    """Key of TRAITS."""

    def __str__(self) -> str:
        return (
            f"{self.tag}: in {self.share:.0%} of the captions and part of the character ({self.kind}); without it "
            f"the trigger word learns it"
        )


def frequencies(texts: Iterable[str | None]) -> dict[str, int]:
    """Tag -> in how many captions, most frequent first; spellings that mean the same count as one."""
    spelling: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for text in texts:
        keys = set()
        for tag in captions.split(text or ""):
            spelling.setdefault(same(tag), tag)
            keys.add(same(tag))
        counts.update(keys)
    # Equally frequent ones stand in the order in which they are met.
    return dict(sorted(((tag, counts[key]) for key, tag in spelling.items()), key=lambda entry: -entry[1]))


def together(texts: Iterable[str | None], *, top: int = 200, least: int = 2) -> list[Pair]:
    """Which of the `top` most frequent tags stand together in at least `least` captions, most often first."""
    texts = [text for text in texts if text]
    names = {same(tag): tag for tag in list(frequencies(texts))[:top]}
    alone: Counter[str] = Counter()
    both: Counter[tuple[str, str]] = Counter()
    for text in texts:
        keys = sorted({same(tag) for tag in captions.split(text)} & names.keys())
        alone.update(keys)
        both.update(combinations(keys, 2))
    found = []
    for (one, other), number in both.most_common():
        if number < least:
            break
        fewest = min(alone[one], alone[other])
        lift = number * len(texts) / (alone[one] * alone[other])
        found.append(Pair((names[one], names[other]), number, number / fewest, lift))
    return found


def implied(tags: Iterable[str]) -> dict[str, str]:
    """Tag -> the longer tag beside it that already says it.

    English puts the noun last, so a tag says every shorter end of itself: `very long hair` says `long hair` and
    `hair`; `hair ornament` does not say `hair`, and `no hat` not `hat`.
    """
    tags = list(tags)
    words = {tag: tuple(same(tag).split()) for tag in tags}
    said: dict[tuple[str, ...], str] = {}
    for tag in sorted(tags, key=lambda tag: -len(words[tag])):
        for start in range(1, len(words[tag])):
            if words[tag][start - 1] in NEGATIONS:
                break
            said.setdefault(words[tag][start:], tag)
    return {tag: said[words[tag]] for tag in tags if words[tag] in said}


def traits(texts: Iterable[str | None], *, share: float = 0.5, trigger: str = "") -> list[Trait]:
    """Tags in at least `share` of the captions that describe the body of a character, most frequent first."""
    texts = [text for text in texts if text]
    own = {same(tag) for tag in captions.split(trigger)}
    found = []
    for tag, number in frequencies(texts).items():
        if number < share * len(texts) or same(tag) in own:
            continue
        kind = next((kind for kind, pattern in _TRAITS.items() if pattern.fullmatch(same(tag))), None)
        if kind:
            found.append(Trait(tag, number, number / len(texts), kind))
    return found


def is_prose(caption: str) -> bool:
    """Sentences rather than a list of tags: some part between two commas has seven words, or ends in a full stop."""
    return any(len(tag.split()) >= 7 or (tag.endswith(".") and " " in tag) for tag in captions.split(caption))


def count_tokens(caption: str) -> int:
    """CLIP tokens without start and end, from below: rare words take more than the one that is counted here."""
    return len(_WORDS.findall(caption))
