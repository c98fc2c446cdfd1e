"""Several taggers over the same pictures, and how their answers become one."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trainer.dataset.captions import same
from trainer.dataset.tags import is_prose
from trainer.errors import UserError, nearest
from trainer.taggers.base import DEFAULTS, Tagger, TagOptions, Tags


def union(answers: Sequence[Tags]) -> Tags:
    """Every tag that any of them gives, the surest first, sentences last."""
    return _sorted(_scores(answers), answers, at_least=1)


def intersection(answers: Sequence[Tags]) -> Tags:
    """Only what all of them give."""
    return _sorted(_scores(answers), answers, at_least=len(answers))


def vote(answers: Sequence[Tags]) -> Tags:
    """What more than half of them give."""
    return _sorted(_scores(answers), answers, at_least=len(answers) // 2 + 1)


def first(answers: Sequence[Tags]) -> Tags:
    """All of the first one's answer, in its order, then what the others add in theirs."""
    found: dict[str, tuple[str, float]] = {}
    for answer in answers:
        for tag, score in answer:
            found.setdefault(same(tag), (tag, score))
    return list(found.values())


COMBINATIONS: dict[str, Callable[[Sequence[Tags]], Tags]] = {
    "union": union,
    "intersection": intersection,
    "vote": vote,
    "first": first,
}


class Several:
    """Taggers as one tagger; they go through the pictures side by side."""

    def __init__(self, taggers: Sequence[Tagger], how: str = "union"):
        if how not in COMBINATIONS:
            raise UserError(f"Unknown way '{how}' to combine taggers: {nearest(how, COMBINATIONS)}")
        self.taggers = list(taggers)
        self.name = f" {how} ".join(tagger.name for tagger in self.taggers)
        self._combine = COMBINATIONS[how]

    def tag(
        self,
        paths: Sequence[Path],
        options: TagOptions = DEFAULTS,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[Path, Tags]]:
        """See `Tagger.tag`."""
        running = [tagger.tag(paths, options) for tagger in self.taggers]
        for done, answers in enumerate(zip(*running, strict=True), start=1):
            yield answers[0][0], self._combine([tags for _, tags in answers])
            if progress:
                progress(done, len(paths))


def _scores(answers: Sequence[Tags]) -> dict[str, list[tuple[str, float]]]:
    """Tag in any spelling -> (spelling, score) of each tagger that gives it."""
    found: dict[str, list[tuple[str, float]]] = {}
    for answer in answers:
        for tag, score in {same(tag): (tag, score) for tag, score in reversed(answer)}.values():
            found.setdefault(same(tag), []).append((tag, score))
    return found


def _sorted(scores: dict[str, list[tuple[str, float]]], answers: Sequence[Tags], at_least: int) -> Tags:
    """Score: the mean over all taggers, those that are silent counting as 0. Sentences have none and come last."""
    kept = [
        (given[0][0], sum(score for _, score in given) / len(answers))
        for given in scores.values()
        if len(given) >= at_least
    ]
    return sorted(kept, key=lambda entry: (is_prose(entry[0]), -entry[1]))
