"""What becomes of a caption in one step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import DataConfig
from trainer.dataset import captions, wording


def said(caption: str, seed: int = 0, epoch: int = 0, **settings) -> str:
    return wording.for_step(caption, DataConfig(**{"shuffle_tags": False, **settings}), seed, epoch)


def test_the_text_is_kept_as_written_when_nothing_moves():
    assert said("a,b ,  c.") == "a,b ,  c."
    assert said("moss ||| a,b|||c") == "moss, a,b, c"
    assert said("moss ||| a|||c|||d") == "moss, a, c, d"
    assert not wording.varies(DataConfig(shuffle_tags=False))


@given(st.lists(st.text("abc", min_size=1), max_size=8), st.integers(0, 9), st.integers(0, 2**63))
def test_shuffle_keeps_all_tags_and_the_first_ones_in_place(tags, keep, seed):
    out = said(", ".join(tags), seed, shuffle_tags=True, keep_tokens=keep)
    assert captions.split(out)[:keep] == tags[:keep]
    assert sorted(captions.split(out)) == sorted(tags)


@pytest.mark.parametrize("separator", ["|||", "@@"])
def test_separators_hold_both_ends(separator):
    seen = set()
    text = "moss, cat ||| a, b, c ||| last".replace("|||", separator)
    for seed in range(50):
        tags = captions.split(said(text, seed, shuffle_tags=True, keep_tokens_separator=separator))
        assert tags[:2] == ["moss", "cat"] and tags[-1] == "last" and sorted(tags[2:-1]) == ["a", "b", "c"]
        seen.add(tuple(tags))
    assert len(seen) == 6


def test_dropout_has_its_rate_and_does_not_depend_on_the_other_options():
    def dropped(**settings):
        return [said("a, {b|c}, d", seed, caption_dropout=0.25, **settings) == "" for seed in range(2000)]

    assert dropped() == dropped(shuffle_tags=True) == dropped(tag_dropout=0.5, wildcards=True)
    assert 0.2 < sum(dropped()) / 2000 < 0.3


def test_every_so_many_epochs_there_are_no_captions():
    assert [said("a", epoch=epoch, caption_dropout_every=3) for epoch in range(6)] == ["a", "a", "", "a", "a", ""]


def test_tags_drop_out_at_their_rate_but_never_the_kept_ones():
    tags = ["moss", *(f"t{number}" for number in range(20))]
    found = [captions.split(said(", ".join(tags), seed, tag_dropout=0.3)) for seed in range(200)]
    assert all(left[0] == "moss" for left in found)
    assert all(left == [tag for tag in tags if tag in left] for left in found)  # in order
    assert 0.65 < sum(len(left) - 1 for left in found) / (200 * 20) < 0.75


def test_dropping_tags_leaves_their_order_as_the_shuffle_had_it():
    text = "moss, " + ", ".join("abcdefgh")
    for seed in range(20):
        whole = captions.split(said(text, seed, shuffle_tags=True))
        left = captions.split(said(text, seed, shuffle_tags=True, tag_dropout=0.4))
        assert left == [tag for tag in whole if tag in left]


def test_a_wildcard_is_each_of_its_words_in_turn():
    found = {said("moss, {red|blue} hat, {{x}}", seed, wildcards=True) for seed in range(40)}
    assert found == {"moss, red hat, {x}", "moss, blue hat, {x}"}
    assert said("moss, {red|blue} hat") == "moss, {red|blue} hat"
    assert {said("one\ntwo", seed, wildcards=True) for seed in range(40)} == {"one", "two"}
    assert wording.fullest("{a|abc} hat", DataConfig(wildcards=True)) == "abc hat"


def test_prefix_and_suffix_frame_the_words_and_never_move():
    found = {
        said("a, b", seed, shuffle_tags=True, keep_tokens=0, caption_prefix="best,", caption_suffix=", end")
        for seed in range(40)
    }
    assert found == {"best, a, b, end", "best, b, a, end"}
    assert said("a", caption_prefix="photo of", caption_suffix="at night") == "photo of a at night"


def test_tags_of_the_second_separator_stay_together():
    found = {said("m, a;;;b, c", seed, shuffle_tags=True, secondary_separator=";;;") for seed in range(40)}
    assert found == {"m, a, b, c", "m, c, a, b"}
