"""The blind vote on a page: two pictures, no labels, one key each, until it is clear which epoch is best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from studio import comparison, state
from studio.language import _, plural
from studio.sentences import said
from studio.text import escape
from trainer import voting
from trainer.cells import Evaluation
from trainer.errors import UserError
from trainer.vote import Ballot, Outcome, Pair, Ranking


def show(evaluation: Evaluation, folder: Path, ask_export: Callable[[int, str], None]) -> None:
    """The next pair, or the result. `ask_export(epoch, key)` draws the button that takes the winner."""
    strength = ask_strength(evaluation)
    ballot = Ballot(evaluation, folder, strength=strength)
    try:
        ranking = ballot.ranking()
    except UserError as error:
        st.info(escape(error))
        return
    pair = ballot.next()
    if pair is None:
        show_result(ranking, evaluation, ask_export)
        ask_undo(ballot, evaluation)
    else:
        show_pair(ballot, pair, evaluation)
        show_certainty(ranking)
    if ballot.votes:
        with st.expander(_("What the votes say so far"), expanded=pair is None, key="standings"):
            show_standings(ranking, evaluation)


def ask_strength(evaluation: Evaluation) -> float:
    usual = voting.nearest_strength(evaluation, None)
    if len(evaluation.strengths) < 2:
        return usual
    return st.segmented_control(
        _("Strength"),
        evaluation.strengths,
        default=usual,
        required=True,
        key="vote strength",
        format_func="{:g}".format,
    )


def show_pair(ballot: Ballot, pair: Pair, evaluation: Evaluation) -> None:
    prompt = next((one.prompt for one in evaluation.prompts if one.name == pair.prompt), "")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.markdown("**" + _("Which is better?") + "**", width="content")
        st.caption(escape(prompt), width="stretch")
    for column, key, side, name in zip(st.columns(2), "12", (pair.left, pair.right), (_("left"), _("right"))):
        with column.container(key=f"pair {key}"):
            if comparison.inside(side.file):
                # The file is named by its content, so nothing on the page tells which epoch it is.
                st.image(str(ballot.folder / side.file), width="stretch", alt=name)
    answers: list[tuple[str, Outcome, str]] = [
        (_("Left"), "left", "1"),
        (_("Right"), "right", "2"),
        (_("No difference"), "tie", "0"),
        (_("Both bad"), "bad", "B"),
    ]
    with st.container(horizontal=True, horizontal_alignment="center"):
        for label, outcome, key in answers:
            st.button(
                label, key=f"vote {outcome}", shortcut=key, on_click=cast, args=(ballot, pair, outcome, evaluation)
            )
        ask_undo(ballot, evaluation)


def ask_undo(ballot: Ballot, evaluation: Evaluation) -> None:
    if ballot.votes:
        text, callback = _("Take the last vote back"), {"on_click": take_back, "args": (ballot, evaluation)}
        st.button(text, key="vote undo", shortcut="U", icon=":material/undo:", **callback)


def cast(ballot: Ballot, pair: Pair, outcome: Outcome, evaluation: Evaluation) -> None:
    try:
        ballot.cast(pair, outcome)
        if ballot.ranking().verdict != "undecided":
            voting.recommend_again(evaluation, ballot.folder)
    except UserError as error:
        state.complain(error)


def take_back(ballot: Ballot, evaluation: Evaluation) -> None:
    try:
        decided = ballot.ranking().verdict != "undecided"
        ballot.undo()
        if decided:
            voting.recommend_again(evaluation, ballot.folder)
    except UserError as error:
        state.complain(error)


def show_certainty(ranking: Ranking) -> None:
    """A thin bar of how sure the votes are; it says nothing about which epoch leads."""
    text = _("{votes} · {sure} sure").format(votes=plural(ranking.votes, "vote"), sure=f"{ranking.sure:.0%}")
    # Even chances, 50 %, are what is known before the first vote, and no progress.
    st.progress(min(1.0, max(0.0, 2 * ranking.sure - 1)), text=text if ranking.votes else _("No votes yet"))


def show_result(ranking: Ranking, evaluation: Evaluation, ask_export: Callable[[int, str], None]) -> None:
    st.success(escape(said(ranking.sentence(evaluation.labels))), icon=":material/how_to_vote:")
    if ranking.winner and ranking.winner[0] not in evaluation.labels:  # a second run is exported from its own page
        ask_export(ranking.winner[0], "export winner")


def show_standings(ranking: Ranking, evaluation: Evaluation) -> None:
    """Best first, with the interval that the votes leave open."""
    several = len({one.strength for one in ranking.standings}) > 1
    rows = [
        {
            _("Epoch"): evaluation.labels.get(one.epoch, f"{one.epoch}") + (f" × {one.strength:g}" if several else ""),
            _("Preferred"): f"{one.preferred:.0%}",
            _("95 % interval"): f"{one.low:.0%} – {one.high:.0%}",
            _("Seen"): str(one.shown),
            _("Both bad"): str(one.bad),
        }
        for one in ranking.standings
    ]
    st.table(rows)
