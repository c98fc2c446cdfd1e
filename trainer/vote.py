"""The blind vote: two pictures of one prompt and seed from two epochs, no labels, which one is better?

What the votes say is read with Bradley and Terry's model (Biometrika 39, 1952) with ties as Davidson added them
(JASA 65, 1970): epochs have strengths θ, and of two pictures

    left : right : tie  =  exp θ_l : exp θ_r : exp(δ + (θ_l + θ_r) / 2).

"Both bad" ranks like a tie, since neither is better; it is counted on its own beside. The prior on θ is
N(0, σ²), on δ N(−1, 1). σ is not chosen but averaged over SCALES by how well each explains the votes, so a voter
who prefers nothing pulls all strengths together instead of making one of many epochs look good by chance (partial
pooling; Gelman, Hill and Yajima 2012, arXiv 0907.2478). For each σ the posterior is a normal at its mode with the
inverse Hessian as covariance (Laplace); intervals are those of the mixture. The model knows of no difference
between prompts: an epoch that is better at one and worse at another comes out in the middle.

No torch and no user interface here. Votes are lines of votes.jsonl beside the comparison, only ever appended to.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from trainer.cells import Evaluation, Rendered, is_base
from trainer.errors import UserError

Outcome = Literal["left", "right", "tie", "bad"]
OUTCOMES: tuple[Outcome, ...] = ("left", "right", "tie", "bad")
Candidate = tuple[int, float]  # (epoch, strength)
FILE = "votes.jsonl"

SCALES = (0.1, 0.4, 1.0, 2.0)  # σ: from "all alike" to "the better one is preferred 9 times of 10"
TIE_MEAN, TIE_SPREAD = -1.0, 1.0  # of δ: about one tie in six between equals, give or take
SURE = 0.95  # how probable it must be that one epoch beats another
ALIKE = 0.3  # of 100 pairs, one is preferred by fewer than 30 times more than the other: alike
SURE_ALIKE = 0.8
LEAST_SHOWN = 4  # a candidate that was seen less often is not judged
MOST_PER_CANDIDATE = 16  # votes after which the rest of a difference is not worth anyone's evening
DRAWS = 400


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
            return f"After {self.votes} votes {_names(self.contenders, labels)} are alike and better than the rest."
        return f"Undecided after {self.votes} votes: {_names(self.contenders, labels)} are still in the running."


def _names(candidates: list[Candidate], labels: Mapping[int, str]) -> str:
    epochs = [labels.get(epoch, str(epoch)) for epoch in sorted({epoch for epoch, _ in candidates})]
    return f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {', '.join(epochs[:-1])} and {epochs[-1]}"


# ── the model ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Normal:
    """The posterior for one σ: weight in the mixture, mode and covariance of (θ_0 … θ_n−1, δ)."""

    weight: float
    mode: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Posterior:
    """Strengths of n candidates as a mixture of normals."""

    parts: list[_Normal] = field(repr=False)
    n: int

    def mean(self) -> np.ndarray:
        """Strengths [n], relative to their average."""
        mean = sum(part.weight * part.mode[: self.n] for part in self.parts)
        return mean - mean.mean()

    def spread(self) -> np.ndarray:
        """Standard deviation [n] of each strength relative to the average one."""
        centre = np.eye(self.n) - 1 / self.n
        mean, square = np.zeros(self.n), np.zeros(self.n)
        for part in self.parts:
            mode = centre @ part.mode[: self.n]
            variance = np.diag(centre @ part.covariance[: self.n, : self.n] @ centre)
            mean, square = mean + part.weight * mode, square + part.weight * (mode**2 + variance)
        return np.sqrt(np.maximum(square - mean**2, 0))

    def difference(self, part: _Normal) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances [n, n] of θ_i − θ_j under one part."""
        theta, cov = part.mode[: self.n], part.covariance[: self.n, : self.n]
        own = np.diag(cov)
        return theta[:, None] - theta[None], np.maximum(own[:, None] + own[None] - 2 * cov, 1e-12)

    def beats(self) -> np.ndarray:
        """[n, n]: how probable it is that i is stronger than j."""
        values = ((part.weight, *self.difference(part)) for part in self.parts)
        return sum(weight * _phi(mean / np.sqrt(variance)) for weight, mean, variance in values)

    def alike(self) -> np.ndarray:
        """[n, n]: how probable it is that neither of i and j is preferred by ALIKE more than the other."""
        total = np.zeros((self.n, self.n))
        for part in self.parts:
            mean, variance = self.difference(part)
            limit, spread = _alike_limit(part.mode[-1]), np.sqrt(variance)
            total += part.weight * (_phi((limit - mean) / spread) - _phi((-limit - mean) / spread))
        return total

    def best(self, seed: int) -> np.ndarray:
        """[n]: how probable it is that i is the strongest, from DRAWS draws that `seed` decides."""
        rng = np.random.default_rng(seed)
        counts = np.zeros(self.n)
        for part in self.parts:
            half = np.linalg.cholesky(part.covariance)[: self.n]
            drawn = part.mode[: self.n] + rng.standard_normal((DRAWS, len(part.mode))) @ half.T
            counts += part.weight * np.bincount(drawn.argmax(axis=1), minlength=self.n) / DRAWS
        return counts

    def gain(self) -> np.ndarray:
        """[n, n]: expected information of one more vote on i against j about their difference, in nats.

        ½ log(1 + variance · Fisher information), as for a normal measurement.
        """
        total = np.zeros((self.n, self.n))
        for part in self.parts:
            mean, variance = self.difference(part)
            logits = np.stack([mean / 2, -mean / 2, np.full_like(mean, part.mode[-1])])
            left, right, _ = np.exp(logits) / np.exp(logits).sum(axis=0)
            fisher = (left + right) / 4 - (left - right) ** 2 / 4
            total += part.weight * np.log1p(variance * fisher) / 2
        return total


def _alike_limit(delta: float) -> float:
    """The difference d of strengths at which P(left) − P(right) is ALIKE: larger where the voter sees many ties.

    With s = exp(d / 2) and E = exp δ it is (s − 1/s) / (s + 1/s + E) = ALIKE, a quadratic in s.
    """
    ties = ALIKE * math.exp(delta)
    return 2 * math.log((ties + math.sqrt(ties**2 + 4 * (1 - ALIKE**2))) / (2 * (1 - ALIKE)))


_phi = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)), otypes=[float])


def fit(n: int, contests: list[tuple[int, int, Outcome]]) -> Posterior:
    """The posterior over the strengths of n candidates from (left, right, outcome) contests."""
    design, counts = _design(n, contests)
    found = [_laplace(n, design, counts, scale) for scale in SCALES]
    evidence = np.array([value for value, _, _ in found])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    return Posterior([_Normal(float(w), mode, cov) for w, (_, mode, cov) in zip(weights, found)], n)


def _design(n: int, contests: list[tuple[int, int, Outcome]]) -> tuple[np.ndarray, np.ndarray]:
    """Outcome logits as linear forms [pairs, 3, n + 1] of the parameters, and how often each came out [pairs, 3]."""
    tally: Counter = Counter()
    for left, right, outcome in contests:
        first, second = sorted((left, right))
        place = {"left": left, "right": right}.get(outcome)
        tally[first, second, 2 if place is None else int(place == second)] += 1
    pairs = list(dict.fromkeys((i, j) for i, j, _ in tally))
    design, counts = np.zeros((len(pairs), 3, n + 1)), np.zeros((len(pairs), 3))
    for row, (i, j) in enumerate(pairs):
        design[row, 0, i] = design[row, 1, j] = design[row, 2, n] = 1
        design[row, 2, [i, j]] = 0.5
        counts[row] = [tally[i, j, outcome] for outcome in range(3)]
    return design, counts


def _laplace(n: int, design: np.ndarray, counts: np.ndarray, scale: float) -> tuple[float, np.ndarray, np.ndarray]:
    """(log evidence up to a constant, mode, covariance) by Newton's method; the log posterior is concave."""
    precision = np.array([scale**-2] * n + [TIE_SPREAD**-2])
    centre = np.array([0.0] * n + [TIE_MEAN])
    x = centre.copy()
    value, gradient, hessian = _log_posterior(x, design, counts, precision, centre)
    for _ in range(50):
        step = np.linalg.solve(hessian, gradient)
        if np.abs(step).max() < 1e-6:
            break
        value, x, gradient, hessian = _uphill(x, step, value, design, counts, precision, centre)
    evidence = value + 0.5 * np.log(precision).sum() - 0.5 * np.linalg.slogdet(hessian)[1]
    return float(evidence), x, np.linalg.inv(hessian)


def _uphill(x, step, value, *problem) -> tuple:
    """The step, halved until it leads up."""
    for _ in range(30):
        found, gradient, hessian = _log_posterior(x + step, *problem)
        if found >= value - 1e-12:
            break
        step = step / 2
    return found, x + step, gradient, hessian


def _log_posterior(x, design, counts, precision, centre) -> tuple[float, np.ndarray, np.ndarray]:
    """Value, gradient and minus the Hessian of the log posterior at x."""
    logits = design @ x
    top = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - top).sum(axis=1, keepdims=True)
    log_p = logits - top - np.log(total)
    p, times = np.exp(log_p), counts.sum(axis=1)
    away = x - centre
    value = float((counts * log_p).sum() - 0.5 * (precision * away**2).sum())
    mean = np.einsum("po,pox->px", p, design)
    gradient = np.einsum("po,pox->x", counts, design) - times @ mean - precision * away
    flat, weights = design.reshape(-1, len(x)), (times[:, None] * p).reshape(-1, 1)
    spread = flat.T @ (weights * flat) - mean.T @ (times[:, None] * mean)
    return value, gradient, spread + np.diag(precision)


# ── the ballot ──────────────────────────────────────────────────────────────────────────────────────────


class Ballot:
    """A vote over one comparison: which pair to show next, what the votes say, when it is over."""

    def __init__(self, evaluation: Evaluation, folder: Path, *, strength: float | None = None):
        """Over the epochs at one strength, or over all epochs and strengths together.

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
            raise UserError("A vote needs two epochs with pictures: run `lora-studio evaluate` for more epochs first.")
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
    """One line more, on the disk before this returns. A line that a kill cut short is ended first."""
    path = Path(folder) / FILE
    line = json.dumps({"time": round(time.time(), 3), **values}, ensure_ascii=False) + "\n"
    try:
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"The vote could not be written to {path} ({error.strerror}); nothing else changed.") from None


def read_votes(folder: Path) -> list[Vote]:
    """The votes that stand, in order: without those that were taken back and lines that cannot be read."""
    path = Path(folder) / FILE
    votes: list[Vote] = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return votes
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
