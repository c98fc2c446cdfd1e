"""The blind vote: who wins, when it ends, what is shown and what is written down."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from trainer import report, vote, voting
from trainer.cells import Evaluation, Prompt, Rendered, Row
from trainer.errors import UserError
from trainer.preference import fit
from trainer.recommend import recommend
from trainer.run import Run
from trainer.vote import Ballot, read_votes

FAIR = -1.0  # δ: some ties


def comparison(epochs=4, prompts=6, seeds=2, strengths=(1.0,)) -> Evaluation:
    columns = [Prompt(f"p{n}", f"p{n}") for n in range(prompts)] + [Prompt("leak", "leak", leak=True)]
    cells = [
        Rendered(column.name, epoch, strength, seed, f"cells/{column.name}-{epoch}-{strength}-{seed}.png")
        for epoch, strength, column, seed in itertools.product(range(epochs + 1), strengths, columns, range(seeds))
    ]
    return Evaluation("r", "t", {}, columns, list(range(seeds)), list(strengths), list(range(epochs + 1)), cells)


@pytest.fixture
def paper(monkeypatch):
    """Ballots whose pictures need not exist and whose votes are not written."""
    monkeypatch.setattr(Ballot, "_is_there", lambda self, cell: True)
    monkeypatch.setattr(vote, "append_line", lambda folder, values: None)


def judge(folder, strengths, delta, seed) -> Ballot:
    """A voter who sees true strengths by epoch through the model's own noise."""
    rng = np.random.default_rng(seed)
    ballot = Ballot(comparison(len(strengths)), folder)
    while (pair := ballot.next()) is not None:
        left, right = (strengths[side.epoch - 1] for side in (pair.left, pair.right))
        odds = np.exp([left, right, delta + (left + right) / 2])
        ballot.cast(pair, rng.choice(["left", "right", "tie"], p=odds / odds.sum()))
    return ballot


def test_the_best_epoch_wins_in_95_of_100_votes(paper, tmp_path):
    ballots = [judge(tmp_path, (0.0, 0.5, 3.0, 0.8), FAIR, seed) for seed in range(20)]
    winners = Counter(ballot.ranking().winner for ballot in ballots)
    assert winners[3, 1.0] >= 19
    assert max(len(ballot.votes) for ballot in ballots) <= 16 * 4


@pytest.mark.parametrize("delta", [FAIR, 3.0])  # a voter who tosses a coin, and one who mostly sees a tie
def test_who_prefers_nothing_ends_without_a_difference(paper, tmp_path, delta):
    verdicts = Counter(judge(tmp_path, (0.0,) * 4, delta, seed).ranking().verdict for seed in range(8))
    assert verdicts["alike"] >= 6


def test_all_ties_end_soon_and_say_so(paper, tmp_path):
    ballot = Ballot(comparison(3), tmp_path)
    while (pair := ballot.next()) is not None:
        ballot.cast(pair, "bad" if len(ballot.votes) % 2 else "tie")
    ranking = ballot.ranking()
    assert ranking.verdict == "alike" and "No difference" in ranking.sentence() and ranking.votes <= 30
    assert sum(one.bad for one in ranking.standings) == 2 * (ranking.votes // 2)


def test_the_ranking_is_that_of_the_odds_and_its_intervals_narrow():
    few = [(0, 1, "left")] * 3 + [(1, 0, "left")]
    many = few * 30
    (small, large) = (fit(2, contests) for contests in (few, many))
    # 90 of 120 without ties: odds of 3 to 1.
    assert large.mean()[0] - large.mean()[1] == pytest.approx(np.log(3), abs=0.1)
    assert large.spread()[0] < small.spread()[0]
    assert 0.5 < small.beats()[0, 1] < 0.95 < large.beats()[0, 1]
    assert np.allclose(large.beats() + large.beats().T, 1)


def test_left_and_right_count_the_same():
    one = fit(3, [(0, 1, "left"), (1, 2, "right"), (2, 0, "tie")])
    other = fit(3, [(1, 0, "right"), (2, 1, "left"), (0, 2, "bad")])
    assert np.allclose(one.mean(), other.mean())


def test_no_two_pictures_meet_twice_while_there_are_others(paper, tmp_path, monkeypatch):
    monkeypatch.setattr(vote, "SURE", 2.0)  # never over
    monkeypatch.setattr(vote, "SURE_ALIKE", 2.0)
    ballot = Ballot(comparison(3, prompts=2, seeds=1, strengths=(0.8, 1.0)), tmp_path)
    shown, sides = [], Counter()
    for _ in range(2 * 3 * 4):  # contexts × pairs of epochs × pairs of strengths
        pair = ballot.next()
        assert pair.left.epoch != pair.right.epoch and pair.prompt != "leak"
        shown.append(frozenset((pair.left.file, pair.right.file)))
        sides[pair.left.file < pair.right.file] += 1
        ballot.cast(pair, "tie")
    assert len(set(shown)) == len(shown)
    assert min(sides.values()) >= 5
    again = ballot.next()
    assert frozenset((again.left.file, again.right.file)) in shown


def real(tmp_path, epochs=2):
    """A comparison with pictures on the disk."""
    evaluation = comparison(epochs, prompts=2, seeds=1)
    (tmp_path / "cells").mkdir()
    for cell in evaluation.cells:
        Image.new("RGB", (8, 8), (40 * cell.epoch, 0, 0)).save(tmp_path / cell.file)
    evaluation.rows = [Row(epoch, 1.0, {"likeness": 0.5 + epoch / 10}) for epoch in range(epochs + 1)]
    evaluation.save(tmp_path)
    return evaluation


def test_votes_outlive_a_kill_and_the_last_can_be_taken_back(tmp_path):
    evaluation = real(tmp_path)
    ballot = Ballot(evaluation, tmp_path)
    first = ballot.next()
    ballot.cast(first, "left")
    with open(tmp_path / vote.FILE, "a") as file:
        file.write('{"prompt": "p1", "se')  # the power failed here
    again = Ballot(evaluation, tmp_path)
    assert again.votes == ballot.votes
    again.cast(again.next(), "tie")
    assert len(read_votes(tmp_path)) == 2
    assert again.undo().outcome == "tie" and again.undo().outcome == "left" and again.undo() is None
    assert read_votes(tmp_path) == [] and Ballot(evaluation, tmp_path).next() == first
    assert len((tmp_path / vote.FILE).read_text().splitlines()) == 5


def test_a_prompts_name_may_hold_any_line_break(tmp_path):
    evaluation = real(tmp_path)
    for cell in evaluation.cells:
        cell.column += "\u2028\x85"
    ballot = Ballot(evaluation, tmp_path)
    ballot.cast(ballot.next(), "left")
    assert len(Ballot(evaluation, tmp_path).votes) == 1


def test_a_vote_on_pictures_that_have_changed_no_longer_counts(tmp_path):
    evaluation = real(tmp_path)
    ballot = Ballot(evaluation, tmp_path)
    ballot.cast(ballot.next(), "left")
    changed = [cell.file.replace(".png", "x.png") for cell in evaluation.cells]
    for cell, file in zip(evaluation.cells, changed):
        (tmp_path / cell.file).rename(tmp_path / file)
        cell.file = file
    assert Ballot(evaluation, tmp_path).votes == []


def test_a_session_at_the_terminal(tmp_path):
    evaluation = real(tmp_path)
    answers, said = iter(["x", "u", "1", "u", "2", "q"]), []
    pages = []

    def ask(pair, page):
        pages.append(page.read_text())
        return next(answers)

    ballot = Ballot(evaluation, tmp_path)
    ranking = voting.session(ballot, ask, said.append)
    assert ranking.votes == 1 and not (tmp_path / "vote.html").exists()
    assert len(said) == 3 and "none of the keys" in said[0]
    assert all("cells/" not in page and "epoch" not in page.lower() for page in pages)
    assert pages[0].count("data:image/webp") == 2
    voting.recommend_again(evaluation, tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["recommended"]["epoch"] == 2


def test_what_cannot_be_voted_on_is_said(tmp_path):
    with pytest.raises(UserError, match="two epochs"):
        Ballot(real(tmp_path, epochs=1), tmp_path).ranking()
    with pytest.raises(UserError, match="it has 1"):
        voting.nearest_strength(comparison(), 0.5)
    (tmp_path / "evaluations").mkdir()
    with pytest.raises(UserError, match="evaluate"):
        voting.find(Run(tmp_path))


def test_a_page_of_a_missing_picture_is_still_a_page(tmp_path):
    assert "Which is better" in report.pair_page(tmp_path / "a.png", tmp_path / "b.png")


def ranking_of(paper_votes, epochs=3):
    ballot = Ballot(comparison(epochs), "nowhere")
    for left, right, outcome, times in paper_votes:
        pairs = [pair for pair, _, _ in ballot._pairs if (pair.left.epoch, pair.right.epoch) == (left, right)]
        for pair in pairs[:times]:
            ballot.cast(pair, outcome)
    return ballot.ranking()


def test_eyes_come_before_figures(paper):
    rows = [Row(0, 1.0, {"likeness": 0.4})] + [Row(e, 1.0, {"likeness": v}) for e, v in enumerate((0.5, 0.6, 0.9), 1)]
    assert recommend(rows)["epoch"] == 3
    clear = recommend(rows, ranking_of([(1, 2, "right", 12), (2, 3, "left", 12)]))
    assert clear["epoch"] == 2 and "blind vote of 24" in clear["reason"] and "it would be epoch 3" in clear["reason"]
    agreed = recommend(rows, ranking_of([(1, 3, "right", 12), (2, 3, "right", 12)]))
    assert agreed["epoch"] == 3 and agreed["reason"].endswith("; the scores agree.")
    out = recommend(rows, ranking_of([(1, 3, "left", 12), (2, 3, "left", 12)]))
    assert out["epoch"] in (1, 2) and "rule out epoch 3" in out["reason"]
    assert recommend(rows, None) == recommend(rows)
