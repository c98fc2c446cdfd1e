"""Caption files in every encoding, and the algebra of tags."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.dataset import captions
from trainer.errors import UserError

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"]
typed = st.text(st.sampled_from("ab, ,\\()_|\nÄ猫"), max_size=40)
# Where an opened `\\(` cannot swallow the commas that a test counts on.
plain = st.text(st.sampled_from("ab, ,_|\nÄ猫"), max_size=40)


def encoded(text: str, encoding: str) -> bytes:
    return ("\ufeff" + text).encode(encoding) if encoding == "utf-16-be" else text.encode(encoding)


# --- files ---


def test_sidecars_keep_all_but_the_last_ending(tmp_path):
    assert captions.sidecar(tmp_path / "cat.v2.PNG") == tmp_path / "cat.v2.txt"
    assert captions.sidecar(tmp_path / "cat.png", "caption") == tmp_path / "cat.caption"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
@pytest.mark.parametrize("ending", [True, False])
def test_edits_keep_encoding_and_line_breaks(tmp_path, encoding, line_break, ending):
    path = tmp_path / "a.txt"
    last = line_break if ending else ""
    path.write_bytes(encoded(f"猫, hat{line_break}second{last}", encoding))
    assert captions.read(path) == "猫, hat\nsecond"
    captions.write_captions(tmp_path, {path: "moss, 猫\nthird"}, "edit")
    assert path.read_bytes() == encoded(f"moss, 猫{line_break}third{last}", encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_writing_what_was_read_changes_nothing(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(before := encoded("  a,b\r\n\r\n", encoding))
    assert captions.write_captions(tmp_path, {path: captions.read(path)}, "edit") is None
    assert path.read_bytes() == before and not captions.history(tmp_path)


@pytest.mark.parametrize(
    "content", ["café, hat".encode("cp1252"), "hat".encode("utf-16-le"), b"\xff\xfea", b"\xef\xbb\xbf\xe9"]
)
def test_an_unreadable_encoding_is_said_and_can_be_overwritten_and_undone(tmp_path, content):
    path = tmp_path / "odd name\n.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd name\\n.txt cannot be told.*UTF-8") as caught:
        captions.read(path)
    assert "\n" not in str(caught.value)
    captions.write_captions(tmp_path, {path: "new"}, "overwrite")
    assert captions.read(path) == "new"
    captions.undo(tmp_path)
    assert path.read_bytes() == content


def test_no_file_is_not_an_empty_caption(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"\n")
    assert captions.caption_of(tmp_path / "a.png") is None
    assert captions.caption_of(tmp_path / "b.png") == ""


def test_half_a_character_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="half a character"):
        captions.write_captions(tmp_path, {tmp_path / "a.txt": "ok", tmp_path / "b.txt": "\ud800"}, "edit")
    assert list(tmp_path.iterdir()) == []


# --- tags ---


def test_commas_between_escaped_parentheses_stay():
    assert captions.split(r"a, b \(c, d\), e") == ["a", r"b \(c, d\)", "e"]
    assert captions.split(r"a \(b, c, d") == [r"a \(b", "c", "d"]
    assert captions.split(r"a (b, c)") == ["a (b", "c)"]
    assert captions.split(" , ,") == []


@given(typed)
def test_split_and_join_lose_no_tag(caption):
    tags = captions.split(caption)
    assert captions.split(captions.join(tags)) == tags
    letters = "".join(captions.join(tags).replace(",", "").split())
    assert letters == "".join(caption.replace(",", "").split())


@given(typed)
def test_dedupe_keeps_order_and_the_first_spelling(caption):
    tags = captions.split(captions.dedupe(caption))
    assert len({captions.same(tag) for tag in tags}) == len(tags)
    remaining = iter(captions.split(caption))
    assert all(tag in remaining for tag in tags)  # a subsequence
    assert captions.dedupe(captions.dedupe(caption)) == captions.dedupe(caption)


def test_dedupe_compares_as_people_do():
    assert captions.dedupe(r"Blue_Hair, hat, blue hair, fate \(a\), fate_(a)") == r"Blue_Hair, hat, fate \(a\)"


@given(typed, st.sampled_from(["moss", "moss cat", "a", "moss, style"]))
def test_the_trigger_is_first_once_and_stays(caption, trigger):
    out = captions.with_trigger(caption, trigger)
    words = captions.split(trigger)
    tags = captions.split(out)
    assert tags[: len(words)] == words
    keys = [captions.same(tag) for tag in tags]
    assert all(keys.count(captions.same(word)) == 1 for word in words)
    assert captions.with_trigger(out, trigger) == out
    others = [tag for tag in captions.split(caption) if captions.same(tag) not in map(captions.same, words)]
    assert tags[len(words) :] == others


def test_the_trigger_alone_and_none():
    assert captions.with_trigger("", "moss") == "moss"
    assert captions.with_trigger("a,b", "") == "a,b"
    assert captions.with_trigger("moss,a", "moss") == "moss,a"


@given(plain, st.lists(st.sampled_from(["a", "B_b", r"c \(d, e\)", "猫"])))
def test_merge_keeps_the_old_text_and_adds_what_is_missing(old, new):
    out = captions.merge(old, new)
    assert out.startswith(old.rstrip(", \t\n"))
    assert {captions.same(t) for t in captions.split(out)} >= {captions.same(t) for t in new}
    assert captions.merge(out, new) == out


def test_add_remove_replace():
    assert captions.remove("a,  b, C", ["c", "A"]) == "b"
    assert captions.remove("a,  b", ["x"]) == "a,  b"
    assert captions.replace("a, cat, b", {"Cat": "moss cat, fur", "b": ""}) == "a, moss cat, fur"
    assert captions.replace("a, b", {"a": "B"}) == "B"
    assert captions.replace("a,b", {"x": "y"}) == "a,b"


# --- what one step sees ---


def test_the_text_is_kept_as_written_without_shuffle():
    assert captions.for_step("a,b ,  c.", rng=random.Random(0)) == "a,b ,  c."
    assert captions.for_step("moss ||| a,b|||c", rng=random.Random(0)) == "moss, a,b, c"


@given(st.lists(st.text("abc", min_size=1), max_size=8), st.integers(0, 9), st.integers())
def test_shuffle_keeps_all_tags_and_the_first_ones_in_place(tags, keep, seed):
    out = captions.for_step(", ".join(tags), rng=random.Random(seed), shuffle=True, keep_tokens=keep)
    assert captions.split(out)[:keep] == tags[:keep]
    assert sorted(captions.split(out)) == sorted(tags)


def test_separators_hold_both_ends():
    seen = set()
    for seed in range(50):
        out = captions.for_step("moss, cat ||| a, b, c ||| last", rng=random.Random(seed), shuffle=True)
        tags = captions.split(out)
        assert tags[:2] == ["moss", "cat"] and tags[-1] == "last" and sorted(tags[2:-1]) == ["a", "b", "c"]
        seen.add(out)
    assert len(seen) == 6


def test_dropout_has_its_rate_and_does_not_depend_on_shuffle():
    def dropped(shuffle):
        return [
            captions.for_step("a, b, c", rng=random.Random(f"{i}"), shuffle=shuffle, dropout=0.25) == ""
            for i in range(2000)
        ]

    assert dropped(True) == dropped(False)
    assert 0.2 < sum(dropped(True)) / 2000 < 0.3
    assert captions.for_step("a", rng=random.Random(0), dropout=1.0) == ""
