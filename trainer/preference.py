"""What votes say: strengths of candidates from which of two was preferred, with what is not known about them.

Bradley and Terry's model (Biometrika 39, 1952) with ties as Davidson added them (JASA 65, 1970): candidates have
strengths θ, and of two pictures

    left : right : tie  =  exp θ_l : exp θ_r : exp(δ + (θ_l + θ_r) / 2).

"Both bad" ranks like a tie, since neither is better. The prior on θ is N(0, σ²), on δ N(−1, 1). σ is not chosen but
averaged over SCALES by how well each explains the votes, so a voter who prefers nothing pulls all strengths together
instead of making one of many candidates look good by chance (partial pooling; Gelman, Hill and Yajima 2012, arXiv
0907.2478). For each σ the posterior is a normal at its mode with the inverse Hessian as covariance (Laplace);
intervals are those of the mixture. The model knows of no difference between prompts: an epoch that is better at one
and worse at another comes out in the middle.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Outcome = Literal["left", "right", "tie", "bad"]
OUTCOMES: tuple[Outcome, ...] = ("left", "right", "tie", "bad")

SCALES = (0.1, 0.4, 1.0, 2.0)  # σ: from "all alike" to "the better one is preferred 9 times of 10"
TIE_MEAN, TIE_SPREAD = -1.0, 1.0  # of δ: about one tie in six between equals, give or take
ALIKE = 0.3  # of 100 pairs, one is preferred by fewer than 30 times more than the other: alike
DRAWS = 400


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
