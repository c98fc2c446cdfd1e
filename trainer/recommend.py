"""Which epoch to keep, and why, in one sentence: read from the scores of the rows, without looking at a picture.

The best epoch lies where likeness has stopped rising and the price of more training has not begun to: pictures
without the trigger change (bleed), poses repeat (diversity falls), colours burn. Each row is worth its share of
what was gained over the base, minus that price. The earliest epoch within the noise of the best wins.

Likeness alone stops rising when the outlines and colours are there; the details come after, and the loss still sees
them. Where it was measured it makes up most of the gain, by its logarithm: the loss on training pictures, and in equal
part that on held-back ones, which rises again when learning becomes learning by heart, but does so long before pictures
get worse. Then the price, which only pictures tell, counts half: they do not show all that was gained for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.cells import BASE_EPOCH, Row
from trainer.vote import Ranking

# What one unit costs, in shares of all that was gained: bleed as large as the base's distance from the training
# pictures, all variety lost, burn one standard deviation above the base's.
BLEED_COST = 0.45  # set on the toybox, where the truth is known: benchmarks/recommend.py
SAMENESS_COST = 0.4
BURN_COST = 0.3
# Rows whose likeness differs by less are equal: pictures of a handful of prompts cannot tell them apart. The loss has
# no such noise, since it is measured at the same noise and time steps for every row.
LEAST_NOISE, MOST_NOISE = 0.02, 0.1
# The part of the gain that the loss tells, where it was measured; likeness tells the rest.
LOSS_SHARE = 0.8
# How much of the price counts then.
PRICE_SHARE = 0.5
# Less likeness than this over the base is nothing learned, with CLIP as with the built-in descriptor.
LEAST_GAIN = 0.01
ENOUGH_EPOCHS = 6  # to tell noise from the course of a curve


@dataclass(frozen=True)
class _Candidate:
    """A row in comparable units. NaN where something was not measured."""

    epoch: int
    strength: float
    gain: float  # share of what was gained over the base by the best row, 1 at that row
    bleed: float  # 1: as far as the base's pictures are from the training pictures
    sameness: float  # share of the base's variety that is lost, at least 0
    burn: float  # above the base's, in deviations of the training pictures, at least 0
    price_share: float = 1.0

    @property
    def worth(self) -> float:
        """Gain minus price; what was not measured costs nothing."""
        price = BLEED_COST * self.bleed, SAMENESS_COST * self.sameness, BURN_COST * self.burn
        return self.gain - self.price_share * sum(cost for cost in price if math.isfinite(cost))


def recommend(rows: Sequence[Row], votes: Ranking | None = None) -> dict[str, Any] | None:
    """The row to keep as {"epoch", "strength", "reason"}; None when no epoch has a likeness and no vote decides.

    Reads the scores likeness, loss, held_out, bleed, diversity and burn; any but the first may be missing, and so may
    the base's row, without which there is nothing to hold a loss against. Values that are not finite count as not
    measured. Rows of several strengths are compared by the same worth; of equals the one nearest to strength 1 wins.

    Eyes come before figures: the clear winner of a blind vote is recommended whatever the scores say (and it is
    said when they differ). Without a winner, rows that clearly lost the vote are out, and the scores choose
    among the rest; rows that nobody voted on stay in.
    """
    if votes is None or not votes.votes:
        return _by_scores(rows)
    if votes.winner is not None:
        return _voted(votes, _by_scores(rows))
    lost = {one.candidate for one in votes.standings} - set(votes.contenders)
    best = _by_scores([row for row in rows if (row.epoch, row.strength) not in lost])
    if best and lost:
        out = sorted({epoch for epoch, _ in lost})
        names = f"epoch {out[0]}" if len(out) == 1 else f"epochs {_listed(out)}"
        best["reason"] = f"{best['reason']} Your {votes.votes} votes rule out {names}."
    return best


def _voted(votes: Ranking, scored: dict[str, Any] | None) -> dict[str, Any]:
    """The winner of the vote, and whether the scores agree."""
    epoch, strength = votes.standings[0].candidate
    several = len({one.strength for one in votes.standings}) > 1 or strength != 1
    agree = scored is not None and scored["epoch"] == epoch
    reason = f"preferred in your blind vote of {votes.votes} pairs ({votes.sure:.0%} sure)"
    if agree:
        reason = f"{reason}; the scores agree"
    elif scored is not None:
        reason = f"{reason}; by the scores alone it would be epoch {scored['epoch']}"
    return _answer(epoch, strength, several, reason)


def _listed(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


def _by_scores(rows: Sequence[Row]) -> dict[str, Any] | None:
    base = next((row for row in rows if row.epoch == BASE_EPOCH), None)
    curves = _curves(rows)
    likeness = [value for curve in curves for value in _values(curve, "likeness")]
    if not likeness:
        return None
    ground = _score(base, "likeness") if base else math.nan
    several = len(curves) > 1
    noise = max(map(_noise, curves))
    learned, no_choice = _learned(curves, base), _no_choice(likeness, ground, noise)
    if no_choice and not learned:
        row = min((row for curve in curves for row in curve), key=lambda row: (abs(row.strength - 1), row.epoch))
        return _answer(row.epoch, row.strength, several, no_choice)
    ground = min(likeness) if math.isnan(ground) else ground
    gained = math.nan if no_choice else max(likeness) - ground
    variety = _variety(rows, base)
    compared = [
        _comparable(curve, base, ground, gained, variety, learned[at] if learned else [math.nan] * len(curve))
        for at, curve in enumerate(curves)
    ]
    noise = LEAST_NOISE if no_choice else min(max(noise / gained, LEAST_NOISE), MOST_NOISE)
    noise *= 1 - LOSS_SHARE if learned else 1
    best = _earliest_of_the_best([one for curve in compared for one in curve], noise)
    curve = next(curve for curve in compared if best in curve)
    return _answer(best.epoch, best.strength, several, _reason(best, curve, noise, _words(bool(learned))))


def _no_choice(likeness: list[float], ground: float, noise: float) -> str:
    """Why the scores cannot tell the epochs apart, in words; empty when they can. `ground` is NaN without a base."""
    if math.isnan(ground) and len(likeness) == 1:
        return "there is no other to choose from"
    gained = max(likeness) - (min(likeness) if math.isnan(ground) else ground)
    if gained < LEAST_GAIN:
        what = "all epochs score alike" if math.isnan(ground) else "likeness never rises above the base's"
        return f"{what}; the earliest will do"
    return "likeness goes up and down without a course; the earliest will do" if gained < 2 * noise else ""


def _curves(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows that have a likeness, by strength, each in the order of epochs."""
    usable = [row for row in rows if row.epoch != BASE_EPOCH and not math.isnan(_score(row, "likeness"))]
    strengths = sorted({row.strength for row in usable})
    return [sorted((r for r in usable if r.strength == s), key=lambda row: row.epoch) for s in strengths]


def _score(row: Row, name: str) -> float:
    value = row.scores.get(name)
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _values(curve: Sequence[Row], name: str) -> list[float]:
    return [value for row in curve if not math.isnan(value := _score(row, name))]


def _variety(rows: Sequence[Row], base: Row | None) -> float:
    """How different two pictures usually are: the base's diversity, else the highest of all rows'."""
    own = _score(base, "diversity") if base else math.nan
    return own if not math.isnan(own) else max(_values(rows, "diversity"), default=math.nan)


def _comparable(
    curve: list[Row], base: Row | None, ground: float, gained: float, variety: float, learned: list[float]
) -> list[_Candidate]:
    """The rows in comparable units. `gained` is NaN where likeness tells nothing, `learned` where the loss does."""
    likeness, bleed, diversity, burn = (_smooth(curve, name) for name in ("likeness", "bleed", "diversity", "burn"))
    usual = _score(base, "burn") if base else math.nan
    usual = min(_values(curve, "burn"), default=math.nan) if math.isnan(usual) else usual
    return [
        _Candidate(
            row.epoch,
            row.strength,
            gain=_blend((likeness[i] - ground) / gained, learned[i]),
            bleed=bleed[i] / (1 - ground) if ground < 1 else math.nan,
            sameness=max(0.0, 1 - diversity[i] / variety) if variety > 0 and not math.isnan(diversity[i]) else math.nan,
            burn=max(0.0, burn[i] - usual) if not math.isnan(burn[i]) else math.nan,
            price_share=1.0 if math.isnan(learned[i]) else PRICE_SHARE,
        )
        for i, row in enumerate(curve)
    ]


def _learned(curves: list[list[Row]], base: Row | None) -> list[list[float]]:
    """Share of the fall of the log loss below the base's, 1 at the row where most was learned; empty where unmeasured.

    Of the losses that every row has, on training and on held-back pictures, each counts the same.
    """
    rows = [row for curve in curves for row in curve]
    names = [name for name in ("loss", "held_out") if base and all(_score(row, name) > 0 for row in (base, *rows))]
    if not names:
        return []
    falls = [
        [sum(math.log(_score(base, name) / _score(row, name)) for name in names) for row in curve] for curve in curves
    ]
    largest = max(fall for curve in falls for fall in curve)
    return [[fall / largest for fall in curve] for curve in falls] if largest > 0 else []


def _blend(likeness: float, learned: float) -> float:
    if math.isnan(likeness) or math.isnan(learned):
        return likeness if math.isnan(learned) else learned
    return (1 - LOSS_SHARE) * likeness + LOSS_SHARE * learned


def _smooth(curve: list[Row], name: str) -> list[float]:
    """Running median of three: takes out single outliers and keeps knees and cliffs where they are.

    Of a few epochs each stands for itself: a lone peak among them is more likely a peak than an outlier.
    """
    values = [_score(row, name) for row in curve]
    if len(values) < ENOUGH_EPOCHS:
        return values
    triples = zip(values, values[1:], values[2:], strict=False)
    inner = [own if math.isnan(left + own + right) else sorted((left, own, right))[1] for left, own, right in triples]
    return [values[0], *inner, values[-1]]


def _noise(curve: list[Row]) -> float:
    """Standard deviation of likeness around a smooth course, from second differences (Gasser et al. 1986).

    The median makes it blind to the one or two bends that a curve really has; shorter ones are all bend.
    """
    values = _values(curve, "likeness")
    if len(values) < ENOUGH_EPOCHS:
        return 0.0
    return float(np.median(np.abs(np.diff(values, 2))) / (0.6745 * math.sqrt(6)))


def _earliest_of_the_best(candidates: list[_Candidate], noise: float) -> _Candidate:
    """Among equals the strength nearest to 1, since that is how a LoRA is first tried, then the earliest epoch."""
    top = max(candidate.worth for candidate in candidates)
    equal = [candidate for candidate in candidates if candidate.worth >= top - noise]
    return min(equal, key=lambda candidate: (round(abs(candidate.strength - 1), 6), candidate.epoch))


# The sentence


def _answer(epoch: int, strength: float, several: bool, reason: str) -> dict[str, Any]:
    sentence = f"Epoch {epoch} at {strength:g}: {reason}." if several else f"Epoch {epoch}: {reason}."
    return {"epoch": epoch, "strength": strength, "reason": sentence}


@dataclass(frozen=True)
class _Words:
    """How the course of the gain is spoken of: by what makes up most of it."""

    goes_on: str
    most: str
    still: str
    stopped: str
    almost: str
    at_once: str
    turns: str


def _words(by_loss: bool) -> _Words:
    if by_loss:
        return _Words(
            "the loss is still falling at the last epoch; more training may help",
            "the loss is lowest",
            "the loss still falls",
            "the loss has stopped falling",
            "the loss has almost stopped falling",
            "the loss is as low as it gets",
            "the loss rises again",
        )
    return _Words(
        "likeness is still rising at the last epoch; more training may help",
        "likeness is highest",
        "likeness still rises",
        "likeness has stopped rising",
        "likeness has almost stopped rising",
        "likeness is as high as it gets",
        "likeness falls",
    )


def _reason(best: _Candidate, curve: list[_Candidate], noise: float, words: _Words) -> str:
    earlier = [one for one in curve if one.epoch < best.epoch]
    later = [one for one in curve if one.epoch > best.epoch]
    if not earlier and not later:
        return "there is no other to choose from"
    if not later:
        return words.goes_on if best.gain - earlier[-1].gain > max(noise, LEAST_NOISE) else words.most
    more = max(one.gain for one in later) - best.gain
    worse = _what_gets_worse(best, later, words)
    if more > max(0.1, noise):
        return f"the best balance; after it {words.still}, but {_and(worse or ['the price rises faster'])}"
    stopped = words.stopped if more <= max(0.04, noise) else words.almost
    reached = stopped if earlier else words.at_once
    return f"{reached}; after it {_and(worse)}" if worse else f"{reached}; later epochs add nothing"


def _what_gets_worse(best: _Candidate, later: list[_Candidate], words: _Words) -> list[str]:
    """The two worst things that happen after the chosen epoch, in words, most costly first."""
    bleed = _worst(later, "bleed")
    changes = [
        (BLEED_COST * (bleed - best.bleed), 0.05, _bleed(best.bleed, bleed)),
        (SAMENESS_COST * (_worst(later, "sameness") - best.sameness), 0.06, "pictures repeat themselves"),
        (BURN_COST * (_worst(later, "burn") - best.burn), 0.1, "colours burn"),
        (best.gain - min(one.gain for one in later), 0.15, words.turns),
    ]
    notable = [(cost, said) for cost, least, said in changes if cost >= least]  # NaN is never notable
    return [said for _, said in sorted(notable, reverse=True)[:2]]


def _worst(candidates: list[_Candidate], name: str) -> float:
    values = [value for one in candidates if not math.isnan(value := getattr(one, name))]
    return max(values, default=math.nan)


def _bleed(before: float, after: float) -> str:
    if not before > 0.02:  # a fiftieth of the usual difference between two pictures is none
        return "bleed sets in"
    times = after / before
    many = f"bleed grows {times:.0f}-fold" if math.isfinite(times) else ""
    words = ((3.5, many), (2.5, "bleed triples"), (1.75, "bleed doubles"))
    return next((word for least, word in words if times >= least), "bleed grows")


def _and(parts: list[str]) -> str:
    one, *other = parts
    return f"{one} and {other[0]}" if other else one
