import math

import numpy as np
import pytest

from trainer.cells import Row
from trainer.recommend import recommend

RISE = [0.45, 0.55, 0.65, 0.72, 0.78, 0.80, 0.81, 0.80, 0.79, 0.78]  # likeness that rises, stays, overcooks
BLEED = [0.00, 0.01, 0.02, 0.03, 0.04, 0.05, 0.08, 0.13, 0.20, 0.26]
VARIETY = [0.34, 0.33, 0.32, 0.31, 0.30, 0.29, 0.27, 0.20, 0.15, 0.10]
BURN = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.5, 0.9, 1.4]


def rows(likeness, bleed=None, diversity=None, burn=None, base=0.4, strength=1.0):
    """Rows of epochs 1, 2, … after the base's; curves that are not given are left out."""
    found = [] if base is None else [Row(0, 1.0, {"likeness": base, "diversity": 0.35, "burn": 0.1})]
    curves = {"likeness": likeness, "bleed": bleed, "diversity": diversity, "burn": burn}
    for index in range(len(likeness)):
        scores = {name: curve[index] for name, curve in curves.items() if curve is not None}
        found.append(Row(index + 1, strength, scores))
    return found


def test_where_likeness_stops_rising_and_before_it_overcooks():
    best = recommend(rows(RISE, BLEED, VARIETY, BURN))
    assert best["epoch"] in (5, 6)
    assert best["strength"] == 1.0
    assert "likeness has" in best["reason"] and "stopped rising; after it" in best["reason"]


@pytest.mark.parametrize("left_out", ["bleed", "diversity", "burn"])
def test_any_score_but_likeness_may_be_missing(left_out):
    curves = {"bleed": BLEED, "diversity": VARIETY, "burn": BURN}
    del curves[left_out]
    assert recommend(rows(RISE, **curves))["epoch"] in (5, 6)


def test_without_a_base_row_the_lowest_likeness_takes_its_place():
    assert recommend(rows(RISE, BLEED, VARIETY, BURN, base=None))["epoch"] in (5, 6)


def test_likeness_alone_gives_the_earliest_epoch_of_the_plateau():
    best = recommend(rows([0.5, 0.65, 0.8, 0.801, 0.803, 0.802, 0.803]))
    assert best["epoch"] == 3
    assert best["reason"] == "Epoch 3: likeness has stopped rising; later epochs add nothing."


def test_what_still_rises_at_the_end_should_be_trained_longer():
    best = recommend(rows([0.45, 0.5, 0.55, 0.6, 0.65, 0.7]))
    assert best["epoch"] == 6
    assert "still rising" in best["reason"]


def test_bleed_that_outruns_likeness_ends_the_search_early():
    best = recommend(rows([0.5, 0.6, 0.7, 0.78, 0.85, 0.9], [0.02, 0.05, 0.1, 0.3, 0.5, 0.7]))
    assert best["epoch"] == 3
    assert "likeness still rises, but bleed grows 7-fold" in best["reason"]


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_move_the_choice_off_the_plateau(seed):
    noise = np.random.default_rng(seed).normal(0, 0.01, len(RISE))
    best = recommend(rows(list(np.array(RISE) + noise), BLEED, VARIETY, BURN))
    assert best["epoch"] in (4, 5, 6, 7)
    assert max(RISE) - RISE[best["epoch"] - 1] < 0.1


def test_one_outlier_is_not_the_best_epoch():
    likeness = [0.5, 0.6, 0.7, 0.76, 0.8, 0.8, 0.8, 0.8]
    likeness[1] = 0.95
    assert recommend(rows(likeness))["epoch"] == 5


def test_a_lone_peak_of_few_epochs_is_taken():
    assert recommend(rows([0.5, 0.8, 0.45]))["epoch"] == 2


def test_nothing_learned_is_said():
    best = recommend(rows([0.4] * 6, BLEED[:6]))
    assert best["epoch"] == 1
    assert best["reason"] == "Epoch 1: likeness never rises above the base's; the earliest will do."


def test_scores_that_only_go_up_and_down_are_not_taken_for_a_course():
    best = recommend(rows([0.42, 0.45, 0.41, 0.46, 0.42, 0.44, 0.41, 0.46]))
    assert best["epoch"] == 1
    assert "without a course" in best["reason"]


def test_all_equal_without_a_base_gives_the_earliest():
    best = recommend(rows([0.7] * 6, base=None))
    assert best["reason"] == "Epoch 1: all epochs score alike; the earliest will do."


@pytest.mark.parametrize("base", [0.4, None])
def test_one_epoch_is_taken_as_it_is(base):
    assert recommend(rows([0.7], base=base))["reason"] == "Epoch 1: there is no other to choose from."


def test_values_that_are_not_finite_count_as_not_measured():
    likeness = [0.5, math.nan, 0.7, 0.8, math.inf, 0.8, math.nan]
    bleed = [math.nan, 0.1, 0.02, 0.02, 0.1, 0.02, 0.1]
    assert recommend(rows(likeness, bleed))["epoch"] == 4


@pytest.mark.parametrize(
    "none", [[], [Row(0, 1.0, {"likeness": 0.4})], [Row(1, 1.0, {})], [Row(1, 1.0, {"likeness": math.nan})]]
)
def test_without_any_likeness_nothing_is_recommended(none):
    assert recommend(none) is None


def test_a_clean_lower_strength_beats_an_overcooked_full_one():
    full = rows([0.6, 0.75, 0.8, 0.8], [0.2, 0.4, 0.6, 0.7], strength=1.0)
    lower = rows([0.5, 0.6, 0.75, 0.8], [0.01, 0.02, 0.02, 0.03], base=None, strength=0.8)
    best = recommend(full + lower)
    assert (best["epoch"], best["strength"]) == (4, 0.8)
    assert best["reason"].startswith("Epoch 4 at 0.8: ")


def test_between_equals_full_strength_comes_first():
    full, lower = rows([0.6, 0.8], strength=1.0), rows([0.8, 0.8], base=None, strength=0.6)
    assert recommend(full + lower)["strength"] == 1.0


@pytest.mark.parametrize(
    ("bleed", "words"),
    [
        ([0.05, 0.05, 0.05, 0.20], "bleed grows 4-fold"),
        ([0.10, 0.10, 0.10, 0.20], "bleed doubles"),
        ([0.05, 0.05, 0.05, 0.15], "bleed triples"),
        ([0.0, 0.0, 0.0, 0.2], "bleed sets in"),
    ],
)
def test_the_reason_says_how_much_bleed_grows(bleed, words):
    best = recommend(rows([0.5, 0.7, 0.8, 0.8], bleed))
    assert best == {"epoch": 3, "strength": 1.0, "reason": f"Epoch 3: likeness has stopped rising; after it {words}."}


def test_details_that_only_the_loss_still_sees_are_worth_waiting_for():
    """Likeness is up after two epochs; the loss on the training pictures goes on falling to the fifth."""
    measured = rows([0.5, 0.8, 0.8, 0.8, 0.8, 0.8])
    assert recommend(measured)["epoch"] == 2
    for row, loss in zip(measured, [0.3, 0.15, 0.1, 0.08, 0.06, 0.05, 0.05], strict=True):
        row.scores["loss"] = loss
    assert recommend(measured)["epoch"] == 5


def test_the_loss_on_held_back_pictures_counts_as_much_as_that_on_training_pictures():
    """Where it rises by more than the other falls, learning has become learning by heart."""
    for held_out, best in (
        ([0.3, 0.2, 0.16, 0.12, 0.16, 0.22, 0.3], 3),
        ([0.3, 0.2, 0.16, 0.12, 0.125, 0.13, 0.13], 5),
    ):
        measured = rows([0.5, 0.8, 0.8, 0.8, 0.8, 0.8])
        for row, loss, held in zip(measured, [0.3, 0.15, 0.1, 0.08, 0.06, 0.05, 0.05], held_out, strict=True):
            row.scores |= {"loss": loss, "held_out": held}
        assert recommend(measured)["epoch"] == best


def lossy(likeness, loss, **curves):
    """Rows with a loss; the first one of `loss` is the base's."""
    measured = rows(likeness, **curves)
    for row, value in zip(measured, loss, strict=True):
        row.scores["loss"] = value
    return measured


def test_the_reason_names_the_loss_where_it_decided():
    likeness = [0.7, 0.75, 0.76, 0.77, 0.77, 0.77, 0.5, 0.3]
    found = recommend(lossy(likeness, [0.3, 0.12, 0.09, 0.08, 0.07, 0.06, 0.052, 0.1, 0.9]))
    assert found["epoch"] == 6 and "after it the loss rises again" in found["reason"]
    goes_on = recommend(lossy([*likeness[:6], 0.77, 0.77], [0.3, 0.12, 0.09, 0.08, 0.07, 0.06, 0.052, 0.046, 0.04]))
    assert goes_on["epoch"] == 8 and "the loss is still falling" in goes_on["reason"]


def test_the_price_counts_half_where_the_loss_tells_of_details():
    """The same bleed that is too dear for a little more likeness is not for the last third of the loss."""
    likeness, bleed = [0.6, 0.7, 0.78, 0.79], [0.05, 0.1, 0.15, 0.4]
    assert recommend(rows(likeness, bleed))["epoch"] == 3
    assert recommend(lossy(likeness, [0.3, 0.15, 0.12, 0.1, 0.05], bleed=bleed))["epoch"] == 4
    assert recommend(lossy(likeness, [0.3, 0.15, 0.12, 0.1, 0.095], bleed=bleed))["epoch"] == 3


def test_likeness_that_tells_nothing_leaves_it_to_the_loss():
    found = recommend(lossy([0.4, 0.39, 0.4, 0.38], [0.3, 0.2, 0.15, 0.12, 0.13]))
    assert found == {
        "epoch": 3,
        "strength": 1.0,
        "reason": "Epoch 3: the loss has stopped falling; later epochs add nothing.",
    }


def test_a_loss_that_never_fell_below_the_bases_tells_nothing():
    assert recommend(lossy([0.4, 0.6, 0.8, 0.8], [0.3, 0.31, 0.4, 0.5, 0.6]))["epoch"] == 3


def test_strengths_are_held_against_one_lowest_loss():
    """At half the strength as much likeness, but most of the details are still missing."""
    half, full = lossy([0.7, 0.8], [0.3, 0.26, 0.22]), lossy([0.7, 0.8], [0.3, 0.2, 0.1])
    for row in half:
        row.strength = 0.5
    assert recommend([*full, *half[1:]])["strength"] == 1.0
    for row, loss in zip(half, [0.3, 0.1, 0.05], strict=True):
        row.scores["loss"] = loss
    assert recommend([*full, *half[1:]])["strength"] == 0.5


def test_bleed_costs_the_same_with_one_seed_as_with_several():
    """Its measure is the base's distance from the training pictures, which needs no variety."""
    likeness, bleed = [0.5, 0.6, 0.7, 0.78, 0.85, 0.9], [0.02, 0.05, 0.1, 0.3, 0.5, 0.7]
    several = rows(likeness, bleed)
    one = rows(likeness, bleed)
    one[0].scores.pop("diversity")
    assert recommend(one) == recommend(several) and recommend(one)["epoch"] == 3
    assert recommend(rows(likeness, [value / 100 for value in bleed]))["epoch"] == 6
