"""Editing captions without a page: cards, bulk changes, filters, and two tabs at once."""

from pathlib import Path

import pytest
import streamlit as st
from trainees import draw_pictures

from studio import bulk, counting, editing, places, sieve
from trainer import toybox
from trainer.dataset import captions, edit
from trainer.dataset.query import Item
from trainer.errors import UserError
from trainer.families.tokens import tokenizer


@pytest.fixture
def folder(here):
    return draw_pictures(here / "datasets" / "moss")


def change(folder, **values) -> dict:
    picture = folder / "00.png"
    return {"id": picture.as_posix(), "before": captions.caption_of(picture), **values}


def test_tags_and_text_are_saved_and_can_be_taken_back(folder):
    before = captions.caption_of(folder / "00.png")
    assert editing.save(folder, change(folder, tags=["moss", "<script>x</script>"])) == "Saved 1 caption."
    assert captions.caption_of(folder / "00.png") == "moss, <script>x</script>"
    editing.save(folder, change(folder, text=" as text "))
    assert captions.caption_of(folder / "00.png") == "as text"
    captions.undo(folder)
    captions.undo(folder)
    assert captions.caption_of(folder / "00.png") == before


def test_the_second_of_two_tabs_is_told_and_nothing_is_lost(folder):
    first, second = change(folder, text="from one tab"), change(folder, text="from the other")
    editing.save(folder, first)
    with pytest.raises(UserError, match="now reads: from one tab. Not saved: from the other"):
        editing.save(folder, second)
    assert captions.caption_of(folder / "00.png") == "from one tab"


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "datasets/moss/nothing.png"])
def test_a_card_cannot_write_outside_of_its_folder(folder, name, here):
    draw_pictures(here)
    with pytest.raises(UserError, match="no longer in the folder"):
        editing.save(folder, {"id": name, "before": "", "text": "x"})


def test_a_bulk_change_is_not_written_over_what_changed_meanwhile(folder):
    texts = {path: captions.caption_of(path) for path in sorted(folder.glob("*.png"))}
    made = bulk.plan("Add at the end", "new", "", texts)
    (folder / "01.txt").write_text("from another tab")
    with pytest.raises(UserError, match="01.png has been changed since"):
        edit.apply(folder, made)
    assert captions.caption_of(folder / "01.png") == "from another tab"
    assert captions.caption_of(folder / "02.png") == texts[folder / "02.png"]


@pytest.mark.parametrize(
    ("name", "what", "by", "after"),
    [
        ("Add in front", "new, HAT", "", "new, moss, hat, blue hair, hat"),
        ("Add at the end", "new, HAT", "", "moss, hat, blue hair, hat, new"),
        ("Remove", "Blue_Hair", "", "moss, hat, hat"),
        ("Replace a tag", "hat", "cap, red", "moss, cap, red, blue hair"),
        ("Replace text", "blue", "red", "moss, hat, red hair, hat"),
        ("Move to the front", "hat", "", "hat, hat, moss, blue hair"),
        ("Replace by a regular expression", "(blue) hair", r"\1 eyes", "moss, hat, blue eyes, hat"),
        ("Trigger word first", "cat", "", "cat, moss, hat, blue hair, hat"),
        ("Most frequent tags first", "", "", "moss, hat, hat, blue hair"),
        ("Tags in alphabetical order", "", "", "blue hair, hat, hat, moss"),
        ("Remove duplicates", "", "", "moss, hat, blue hair"),
        ("Take out what longer tags say", "", "", None),
        ("Take out what describes the character", "", "", "moss, hat, hat"),
        ("Spaces instead of underscores", "", "", None),
    ],
)
def test_every_bulk_change(name, what, by, after):
    before, path = "moss, hat, blue hair, hat", Path("a.png")
    changes = [(change.before, change.after) for change in bulk.plan(name, what, by, {path: before}).changes]
    assert changes == ([(before, after)] if after else [])


def test_nothing_is_planned_before_it_is_said_what():
    for name, operation in bulk.OPERATIONS.items():
        if operation.which and not operation.optional:
            assert bulk.plan(name, " ", "", {Path("a.png"): "moss"}).changes == []


def test_letters_are_replaced_as_they_are():
    made = bulk.plan("Replace text", "a.c (", r"\1 [x]", {Path("a.png"): "abc, a.c (", Path("b.png"): "abc"})
    assert [change.after for change in made.changes] == [r"abc, \1 [x]"]


@pytest.mark.parametrize(
    ("wanted", "picked", "kept"),
    [
        ("", [], "cat dog bare"),
        ("tag:HAT", [], "cat"),
        ("NOT tag:hat", [], "dog bare"),
        ("", ['say "hi"'], "dog"),
        ("missing:caption OR tag:hat", [], "cat bare"),
        ("width:>500", ["moss"], "cat"),
        ("issue:blurry", [], "dog"),
    ],
)
def test_the_filter(wanted, picked, kept):
    items = [
        Item(Path("cat"), "moss, Hat, blue_hair", 512, 512),
        Item(Path("dog"), 'moss, say "hi"', 64, 64, issues=frozenset({"blurry"})),
        Item(Path("bare")),
    ]
    assert [item.path.name for item in sieve.select(items, wanted, picked, "By name")] == kept.split()


def test_the_order():
    items = [Item(Path("two"), "a, b"), Item(Path("none")), Item(Path("one"), "a")]
    assert [i.path.name for i in sieve.select(items, "", [], "Fewest tags first")] == ["none", "one", "two"]
    assert [i.path.name for i in sieve.select(items, "", [], "Most tags first")] == ["two", "one", "none"]


def test_tokens_are_counted_by_the_chosen_base_and_estimated_without_one(here):
    exact = counting.chosen()
    assert exact == counting.Counting("toybox/sd15", (toybox.PARTS["sd15"] / "tokenizer").as_posix())
    assert exact.count(["moss", "standing"]) == [
        len(tokenizer("toybox/sd15").ids(text)) for text in ("moss", "standing")
    ]
    (here / "models").mkdir()
    with open(here / "models" / "dream.ckpt", "wb") as file:
        file.truncate(places.SMALLEST_BASE)
    st.cache_data.clear()
    estimate = counting.chosen()
    assert estimate == counting.Counting("models/dream.ckpt")
    assert estimate.count(["moss, hat, blue", "1girl, solo, looking at viewer"]) == [5, 8]
    assert [counting.limit(number) for number in (0, 75, 76, 225, 400)] == [75, 75, 150, 225, 225]
    # A tokenizer whose files are damaged counts as none.
    (here / "models" / "tokenizer").mkdir()
    (here / "models" / "tokenizer" / "tokenizer.json").write_text("{}")
    assert counting.chosen() == estimate


def test_the_filter_asks_for_exact_tokens():
    items = [Item(Path("a"), "standing", tokens=76), Item(Path("b"), "standing")]
    assert [item.path.name for item in sieve.select(items, "tokens:>75", [], "By name")] == ["a"]
