"""Schedules against their closed forms."""

import math

import pytest

from trainer.config import OptimizerConfig
from trainer.schedules import SCHEDULES, factor


def rates(name: str, steps: int = 100, **settings) -> list[float]:
    config = OptimizerConfig(schedule=name, **settings)
    return [factor(config, step, steps) for step in range(steps)]


CLOSED_FORMS = {
    "constant": ({}, lambda p: 1.0),
    "constant_with_warmup": ({}, lambda p: 1.0),
    "linear": ({}, lambda p: 1 - p),
    "cosine": ({}, lambda p: math.cos(math.pi * p / 2) ** 2),
    "cosine_with_restarts": (
        {"schedule_cycles": 4},
        lambda p: math.cos(math.pi * (4 * p - math.floor(4 * p)) / 2) ** 2,
    ),
    "polynomial": ({"schedule_power": 3}, lambda p: 1 - 3 * p + 3 * p**2 - p**3),
    "inverse_sqrt": ({}, lambda p: (10_000 / (10_000 + 100 * p)) ** 0.5),
    "rex": ({}, lambda p: 2 * (1 - p) / (2 - p)),
    "warmup_stable_decay": (
        {"schedule_decay": 0.5},
        lambda p: 1.0 if p < 0.5 else math.cos(math.pi * (p - 0.5)) ** 2,
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_is_its_closed_form(name):
    settings, form = CLOSED_FORMS[name]
    assert rates(name, **settings) == pytest.approx([form(step / 100) for step in range(100)])


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_ends_at_the_lowest_rate_that_was_set(name):
    """The same curve between the full rate and that share of it."""
    settings, form = CLOSED_FORMS[name]
    found = rates(name, schedule_floor=0.1, **settings)
    assert found == pytest.approx([0.1 + 0.9 * form(step / 100) for step in range(100)])


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_begins_full_and_never_leaves_its_bounds(name):
    found = rates(name, steps=37)
    assert found[0] == 1
    assert all(0 <= rate <= 1 for rate in found)


@pytest.mark.parametrize(("warmup", "rising"), [(0.1, 10), (10, 10), (0, 0), (500, 100)])
def test_warmup_is_a_share_below_one_and_steps_above(warmup, rising):
    found = rates("constant", warmup=warmup)
    assert all(a < b for a, b in zip(found[:rising], found[1:rising]))
    assert all(0 < rate < 1 for rate in found[:rising])
    assert found[rising:] == [1.0] * (100 - rising)


def test_after_the_warmup_a_schedule_runs_over_what_is_left():
    assert rates("linear", warmup=20)[20:] == pytest.approx([1 - step / 80 for step in range(80)])


def test_inverse_sqrt_counts_in_warmups():
    assert rates("inverse_sqrt", warmup=20)[20:] == pytest.approx([(20 / step) ** 0.5 for step in range(20, 100)])


@pytest.mark.parametrize("decay", [0.25, 25])
def test_the_decay_is_a_share_below_one_and_steps_above(decay):
    found = rates("warmup_stable_decay", warmup=10, schedule_decay=decay)
    assert found[10:76] == [1.0] * 66
    assert found[76] < 1
    assert all(a > b for a, b in zip(found[75:], found[76:]))


def test_without_a_decay_the_rate_stays():
    assert rates("warmup_stable_decay", schedule_decay=0) == [1.0] * 100
