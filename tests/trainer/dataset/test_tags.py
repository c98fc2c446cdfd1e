"""What captions say together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.dataset import captions, tags

TEXTS = ["moss, Blue_Hair, hat, 1girl", "moss, blue hair, sitting, 1girl", "moss, hat, blue hair", "", None]
typed = st.text(st.sampled_from("ab, ,\\()_|\nÄ猫"), max_size=40)


def test_frequencies_count_captions_not_spellings():
    assert tags.frequencies(TEXTS) == {"moss": 3, "Blue_Hair": 3, "hat": 2, "1girl": 2, "sitting": 1}
    assert tags.frequencies(["a, a, A"]) == {"a": 1}


def test_together_counts_pairs_with_share_and_lift():
    pairs = {pair.tags: pair for pair in tags.together(TEXTS)}
    both = pairs["hat", "moss"]
    assert (both.captions, both.share) == (2, 1.0) and both.lift == pytest.approx(1.0)
    assert ("hat", "sitting") not in pairs  # never together
    assert all(pair.captions >= 2 for pair in pairs.values())
    apart = tags.together(["a, b", "a, b", "c", "c"])
    assert [(pair.tags, pair.lift) for pair in apart] == [(("a", "b"), 2.0)]


def test_the_end_of_a_tag_is_implied_by_it():
    found = tags.implied(
        ["very long hair", "hair", "long hair", "hair ornament", "hat", "no hat", "shirt_dress", "dress"]
    )
    assert found == {"hair": "very long hair", "long hair": "very long hair", "dress": "shirt_dress"}


def test_traits_are_frequent_and_bodily():
    found = tags.traits(TEXTS, trigger="moss")
    assert [trait.tag for trait in found] == ["Blue_Hair", "1girl"]
    assert found[0].share == 1.0 and "the trigger word learns it" in str(found[0])
    assert tags.traits(TEXTS, share=0.9, trigger="moss")[0].tag == "Blue_Hair"
    assert len(tags.traits(TEXTS, share=0.9)) == 1
    assert not tags.traits(["hair ornament, red hat"] * 3)


@pytest.mark.parametrize("text", ["A cat sits on a red mat.", "moss, she is standing on the left side of it"])
def test_sentences(text):
    assert tags.is_prose(text)
    assert not tags.is_prose("moss, blue hair, standing on one leg, d.va")


def test_tokens_are_counted_as_clip_cuts_words():
    assert tags.count_tokens("moss, blue_hair 42!") == 8
    assert tags.count_tokens("") == 0


@given(typed)
def test_pieces_lose_nothing(caption):
    assert ",".join(captions.pieces(caption)) == caption


@given(typed, st.sampled_from("ab猫"))
def test_removing_leaves_the_rest_as_typed(caption, tag):
    after = captions.remove(caption, [tag])
    rest = [piece for piece in captions.pieces(caption) if captions.same(piece.strip()) != tag]
    changed = len(rest) < len(captions.pieces(caption))
    assert after == (",".join(rest).strip() if changed else caption)
    assert captions.remove(after, [tag]) == after
