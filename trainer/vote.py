"""The blind vote: two pictures of one prompt and seed from two epochs, no labels, which one is better?

What the votes say is read with the model of `preference`; "both bad" is counted on its own beside.

No torch and no user interface here. Votes are lines of votes.jsonl beside the comparison, only ever appended to.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from trainer import files
from trainer.cells import Evaluation, Rendered, is_base
from trainer.errors import UserError
from trainer.preference import OUTCOMES, Outcome, Posterior, fit

Candidate = tuple[int, float]  # (epoch, strength)
FILE = "votes.jsonl"

SURE = 0.95  # how probable it must be that one epoch beats another
SURE_ALIKE = 0.8
LEAST_SHOWN = 4  # a candidate that was seen less often is not judged
MOST_PER_CANDIDATE = 16  # votes after which the rest of a difference is not worth anyone's evening


@dataclass(frozen=True)
class Picture:
    epoch: int
    strength: float
    file: str  # relative to the comparison's folder; named by its content

    @property
    def candidate(self) -> Candidate:
        return self.epoch, self.strength


@dataclass(frozen=True)
class Pair:
    """Two pictures to show side by side; who they are is for the log, not for the voter."""

    prompt: str
    seed: int
    left: Picture
    right: Picture


@dataclass(frozen=True)
class Vote(Pair):
    outcome: Outcome = "tie"


@dataclass(frozen=True)
class Standing:
    """A candidate's place: how often its picture is preferred to the average candidate's, with the 95 % interval."""

    epoch: int
    strength: float
    preferred: float
    low: float
    high: float
    shown: int
    bad: int  # how many of its pictures were part of a "both bad"

    @property
    def candidate(self) -> Candidate:
        return self.epoch, self.strength


@dataclass(frozen=True)
class Ranking:
    """What the votes say so far. `sure` is how probable it is that the first beats its nearest rival."""

    standings: list[Standing]  # best first
    contenders: list[Candidate]  # not clearly worse than the first, which is one of them
    verdict: Literal["undecided", "winner", "alike"]
    sure: float
    votes: int

    @property
    def winner(self) -> Candidate | None:
        return self.standings[0].candidate if self.verdict == "winner" else None

    def sentence(self, labels: Mapping[int, str] = MappingProxyType({})) -> str:
        """The verdict in words; `labels` are those of the comparison."""
        first = self.standings[0]
        if self.verdict == "winner":
            name = labels.get(first.epoch, f"Epoch {first.epoch}")
            return f"{name} is the clear winner after {self.votes} votes ({self.sure:.0%} sure)."
        if self.verdict == "alike":
            if len(self.contenders) == len(self.standings):
                return f"No difference after {self.votes} votes: take the earliest, or what the scores say."
            names = _names(self.contenders, labels)
            return f"After {self.votes} votes {names} cannot be told apart, and are better than the rest."
        return f"Undecided after {self.votes} votes: {_names(self.contenders, labels)} are still in the running."


def _names(candidates: list[Candidate], labels: Mapping[int, str]) -> str:
    epochs = [labels.get(epoch, str(epoch)) for epoch in sorted({epoch for epoch, _ in candidates})]
    return f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {', '.join(epochs[:-1])} and {epochs[-1]}"


# ── the ballot ──────────────────────────────────────────────────────────────────────────────────────────


class Ballot:
    """A vote over one comparison: which pair to show next, what the votes say, when it is over."""

    def __init__(self, evaluation: Evaluation, folder: Path, *, strength: float | None = None):
        """Over the epochs at one strength, or over all epochs and strengths together (two strengths of one epoch never
        meet: they are ranked by how they do against the others).

        Prompts that ask for something without the trigger are left out: there is no better one of two there.
        """
        leaks = {prompt.name for prompt in evaluation.prompts if prompt.leak}
        self.folder = Path(folder)
        self.contexts: dict[tuple[str, int], dict[Candidate, Picture]] = {}
        for cell in evaluation.cells:
            wanted = strength is None or math.isclose(cell.strength, strength)
            if not is_base(cell.epoch) and cell.column not in leaks and wanted and self._is_there(cell):
                picture = Picture(cell.epoch, cell.strength, cell.file)
                self.contexts.setdefault((cell.column, cell.seed), {})[picture.candidate] = picture
        self.candidates = sorted({candidate for found in self.contexts.values() for candidate in found})
        self.votes = [vote for vote in read_votes(self.folder) if self._counts(vote)]
        self._pairs = list(self._all_pairs())
        self._fitted: Posterior | None = None  # to the votes as they stand

    def _is_there(self, cell: Rendered) -> bool:
        return (self.folder / cell.file).is_file()

    def _counts(self, vote: Vote) -> bool:
        """Both pictures are still what the comparison shows there; a changed prompt or epoch has other files."""
        shown = self.contexts.get((vote.prompt, vote.seed), {})
        return all(shown.get(picture.candidate) == picture for picture in (vote.left, vote.right))

    def next(self) -> Pair | None:
        """The pair whose vote is expected to decide most; None when the vote is over.

        Pictures that were shown together are not shown again while there are others. Which candidates meet
        follows from how probable each is the best (both must have a chance; Russo 2016, arXiv 1602.08448, on
        comparing the top two) times what the vote would tell. The side is drawn from the content.
        """
        if len(self.candidates) < 2 or self.ranking().verdict != "undecided":
            return None
        posterior = self._posterior()
        best = posterior.best(len(self.votes)) + 1e-3
        # Rounded, so that what is equal in theory is: the emptier prompt and the coin decide between equals.
        worth = np.round(np.sqrt(best[:, None] * best[None]) * posterior.gain(), 9)
        index = {candidate: place for place, candidate in enumerate(self.candidates)}
        seen = Counter(frozenset((vote.left.file, vote.right.file)) for vote in self.votes)
        prompts = Counter(vote.prompt for vote in self.votes)

        def order(one: tuple[Pair, frozenset[str], int]) -> tuple:
            pair, files, coin = one
            told = worth[index[pair.left.candidate], index[pair.right.candidate]]
            return seen[files], -told, prompts[pair.prompt], coin

        chosen = min(self._pairs, key=order, default=None)
        return None if chosen is None else _sided(chosen[0], chosen[2] + seen[chosen[1]])

    def _all_pairs(self) -> Iterator[tuple[Pair, frozenset[str], int]]:
        """Every pair that may be shown, with its files and a number that its content decides."""
        for (prompt, seed), pictures in self.contexts.items():
            for left, right in combinations(pictures.values(), 2):
                if left.epoch != right.epoch and left.file != right.file:
                    pair, files = Pair(prompt, seed, left, right), frozenset((left.file, right.file))
                    yield pair, files, _coin(prompt, seed, files)

    def cast(self, pair: Pair, outcome: Outcome) -> None:
        """Count a vote and write it down. Raises UserError when it cannot be written."""
        if outcome not in OUTCOMES:
            raise ValueError(f"{outcome!r} is none of {', '.join(OUTCOMES)}")
        vote = Vote(pair.prompt, pair.seed, pair.left, pair.right, outcome)
        append_line(self.folder, asdict(vote))
        self.votes.append(vote)
        self._fitted = None

    def undo(self) -> Vote | None:
        """Take the last vote back, None when there is none; the log keeps both lines."""
        if not self.votes:
            return None
        append_line(self.folder, {"undo": _identity(self.votes[-1])})
        self._fitted = None
        return self.votes.pop()

    def _posterior(self) -> Posterior:
        if self._fitted is None:
            self._fitted = self._fit()
        return self._fitted

    def _fit(self) -> Posterior:
        index = {candidate: place for place, candidate in enumerate(self.candidates)}
        contests = [(index[v.left.candidate], index[v.right.candidate], v.outcome) for v in self.votes]
        return fit(len(self.candidates), contests)

    def ranking(self) -> Ranking:
        """What the votes say so far. Raises UserError when there are no two epochs to compare."""
        if len(self.candidates) < 2:
            raise UserError("A vote needs two epochs with pictures: render more epochs first.")
        posterior = self._posterior()
        mean, spread, beats = posterior.mean(), posterior.spread(), posterior.beats()
        shown, bad = self._shown()
        order = sorted(range(len(mean)), key=lambda place: (-round(mean[place], 9), self.candidates[place]))
        first = order[0]
        rivals = [place for place in order[1:] if beats[first, place] < SURE or shown[self.candidates[place]] == 0]
        standings = [
            Standing(
                *self.candidates[place],
                *(_logistic(mean[place] + z * spread[place]) for z in (0, -1.96, 1.96)),
                shown[self.candidates[place]],
                bad[self.candidates[place]],
            )
            for place in order
        ]
        sure = min(beats[first, place] for place in order[1:])
        verdict = self._verdict(first, rivals, posterior, shown)
        contenders = [self.candidates[place] for place in [first, *rivals]]
        return Ranking(standings, contenders, verdict, float(sure), len(self.votes))

    def _verdict(self, first: int, rivals: list[int], posterior: Posterior, shown: Counter) -> str:
        judged = all(shown[candidate] >= LEAST_SHOWN for candidate in self.candidates)
        if not rivals:
            # One who has clearly lost need not be shown again, but the winner must have been seen often enough.
            return "winner" if shown[self.candidates[first]] >= LEAST_SHOWN else "undecided"
        alike = posterior.alike()
        if judged and all(alike[first, rival] >= SURE_ALIKE for rival in rivals):
            return "alike"
        return "alike" if len(self.votes) >= MOST_PER_CANDIDATE * len(self.candidates) else "undecided"

    def _shown(self) -> tuple[Counter, Counter]:
        shown: Counter = Counter()
        bad: Counter = Counter()
        for vote in self.votes:
            for picture in (vote.left, vote.right):
                shown[picture.candidate] += 1
                bad[picture.candidate] += vote.outcome == "bad"
        return shown, bad


def _logistic(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def _coin(prompt: str, seed: int, files: frozenset[str]) -> int:
    content = json.dumps([prompt, seed, *sorted(files)])
    return int(hashlib.sha256(content.encode()).hexdigest()[:16], 16)


def _sided(pair: Pair, coin: int) -> Pair:
    """Left and right as the coin falls; shown once more, two pictures change sides."""
    first, second = sorted((pair.left, pair.right), key=lambda picture: picture.file)
    if coin % 2:
        first, second = second, first
    return Pair(pair.prompt, pair.seed, first, second)


def ranking(evaluation: Evaluation, folder: Path) -> Ranking | None:
    """What all votes on a comparison say; None while there are none."""
    ballot = Ballot(evaluation, folder)
    return ballot.ranking() if ballot.votes and len(ballot.candidates) > 1 else None


# ── the log ─────────────────────────────────────────────────────────────────────────────────────────────


def append_line(folder: Path, values: dict[str, Any]) -> None:
    """One line more in the log. Raises UserError when it cannot be written."""
    path = Path(folder) / FILE
    line = json.dumps({"time": round(time.time(), 3), **values}, ensure_ascii=False)
    try:
        files.append_line(path, line, sync=True)
    except OSError as error:
        raise UserError(f"The vote could not be written to {path} ({error.strerror}); nothing else changed.") from None


def read_votes(folder: Path) -> list[Vote]:
    """The votes that stand, in order: without those that were taken back and lines that cannot be read."""
    path = Path(folder) / FILE
    votes: list[Vote] = []
    try:
        # Not splitlines(): a prompt's name may hold other line breaks than ours.
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return votes
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): the votes are in it.") from None
    for line in lines:
        try:
            values = json.loads(line)
            if "undo" in values:
                _take_back(votes, values["undo"])
            else:
                votes.append(_vote(values))
        except (ValueError, TypeError, KeyError):
            continue  # cut in two by a kill, or not ours
    return votes


def _vote(values: dict[str, Any]) -> Vote:
    if values["outcome"] not in OUTCOMES:
        raise ValueError(values["outcome"])
    sides = (Picture(**values[side]) for side in ("left", "right"))
    return Vote(str(values["prompt"]), int(values["seed"]), *sides, values["outcome"])


def _identity(vote: Vote) -> list:
    return [vote.left.file, vote.right.file, vote.outcome]


def _take_back(votes: list[Vote], identity: list) -> None:
    for place in range(len(votes) - 1, -1, -1):
        if _identity(votes[place]) == identity:
            del votes[place]
            return
