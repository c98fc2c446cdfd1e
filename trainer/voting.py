"""The blind vote at a terminal: two pictures on a page in the browser, the answer as one key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trainer import report
from trainer.cells import BASE_EPOCH, Evaluation, is_base
from trainer.drawing import save_grid
from trainer.errors import UserError
from trainer.files import write_text
from trainer.preference import Outcome
from trainer.recommend import recommend
from trainer.run import Run
from trainer.vote import Ballot, Pair, Ranking, ranking

KEYS: dict[str, Outcome] = {"1": "left", "2": "right", "0": "tie", "b": "bad"}
QUESTION = "1 left is better, 2 right, 0 no difference, b both bad, u undo, q stop"


def find(run: Run, prompts: str = "") -> tuple[Evaluation, Path]:
    """A run's comparison by the name of its prompt set, else the newest. Raises UserError when there is none."""
    found = [run.evaluation_folder(Path(prompts).stem)] if prompts else run.comparisons()
    if not found:
        raise UserError(f"{run.name} has no comparison to vote on: run `lora-studio evaluate {run.path}` first.")
    return Evaluation.load(found[0]), found[0]


def nearest_strength(evaluation: Evaluation, strength: float | None) -> float:
    """The strength to vote at: the one asked for, else the rendered one nearest to 1. Raises UserError."""
    if strength is None:
        return min(evaluation.strengths, key=lambda value: abs(value - 1))
    if strength not in evaluation.strengths:
        there = ", ".join(f"{value:g}" for value in evaluation.strengths)
        raise UserError(f"--strength {strength:g} is not in this comparison; it has {there}.")
    return strength


def session(ballot: Ballot, ask: Callable[[Pair, Path], str], say: Callable[[str], None]) -> Ranking:
    """Show pair after pair until the vote is over or the voter stops; every vote is on the disk at once.

    `ask(pair, page)` gives a key of KEYS, "u" to undo or "q" to stop, for the pair on the page (an HTML file).
    """
    page = ballot.folder / "vote.html"
    try:
        while (pair := ballot.next()) is not None:
            write_text(page, report.pair_page(*(ballot.folder / side.file for side in (pair.left, pair.right))))
            answer = ask(pair, page).strip().lower()
            if answer == "q":
                break
            if answer == "u":
                say("Took the last vote back." if ballot.undo() else "There is no vote to take back.")
            elif answer in KEYS:
                ballot.cast(pair, KEYS[answer])
            else:
                say(f"{answer!r} is none of the keys: {QUESTION}.")
    finally:
        page.unlink(missing_ok=True)
    return ballot.ranking()


def recommend_again(evaluation: Evaluation, folder: Path) -> None:
    """Let the votes count in the comparison's recommendation, grid and report."""
    settle(evaluation, folder)
    evaluation.save(folder)
    save_grid(evaluation, folder)
    report.write_report(evaluation, folder)


def settle(evaluation: Evaluation, folder: Path) -> None:
    """Recommend an epoch by the scores and the votes there are.

    Two runs are not weighed against each other by scores, which depend on what each was trained on: what the
    scores say of each stands in `about`, and the vote decides between them.
    """
    if not evaluation.labels:
        evaluation.recommended = recommend(evaluation.rows, ranking(evaluation, folder))
        return
    own = [row for row in evaluation.rows if row.epoch not in evaluation.labels]
    # The second run's numbers begin behind the first's; its last row's label ends in the number it has there.
    last = max(evaluation.labels)
    offset = last - int(evaluation.labels[last].rpartition(" ")[2])
    base = evaluation.base_of(last)
    other = [replace(row, epoch=BASE_EPOCH) for row in evaluation.rows if row.epoch == base]
    theirs = [row for row in evaluation.rows if row.epoch in evaluation.labels and not is_base(row.epoch)]
    other += [replace(row, epoch=row.epoch - offset) for row in theirs]
    for name, rows in ((evaluation.run, own), (evaluation.about["Against"], other)):
        best = recommend(rows, None)
        evaluation.about[f"Scores of {name}"] = best["reason"] if best else "do not set one epoch apart"
    evaluation.recommended = None
