"""Editing captions without a page: cards, bulk changes, filters, and two tabs at once."""

import pytest
from trainees import draw_pictures

from studio import bulk, editing, gallery, sieve
from trainer.dataset import captions
from trainer.errors import UserError


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


def test_a_bulk_change_leaves_what_changed_meanwhile(folder):
    texts = {path.as_posix(): captions.caption_of(path) for path in sorted(folder.glob("*.png"))}
    changes = bulk.preview("Add at the end", "new", "", texts)
    (folder / "01.txt").write_text("from another tab")
    said = editing.save_many(folder, changes, "add: new")
    assert "Saved 4 captions" in said and "1 caption had been changed elsewhere" in said
    assert captions.caption_of(folder / "01.png") == "from another tab"
    assert len(captions.undo(folder)) == 4


@pytest.mark.parametrize(
    ("name", "what", "by", "after"),
    [
        ("Add in front", "new, HAT", "", "new, moss, hat, blue hair, hat"),
        ("Add at the end", "new, HAT", "", "moss, hat, blue hair, hat, new"),
        ("Remove", "Blue_Hair", "", "moss, hat, hat"),
        ("Replace a tag", "hat", "cap, red", "moss, cap, red, blue hair"),
        ("Replace text", "blue", "red", "moss, hat, red hair, hat"),
        ("Move to the front", "hat", "", "hat, hat, moss, blue hair"),
        ("Remove duplicates", "", "", "moss, hat, blue hair"),
    ],
)
def test_every_bulk_change(name, what, by, after):
    before = "moss, hat, blue hair, hat"
    assert bulk.preview(name, what, by, {"a.png": before}) == {"a.png": (before, after)}


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [("", True), ("hat", True), ("HAT, blue_hair", True), ("blu", True), ("-hat", False), ("-smile", True),
     ("hat, -moss", False), ("-", False), ("cat.png", True), ("dog", False)],
)  # fmt: skip
def test_the_filter(tmp_path, wanted, kept):
    text, tags = "moss, Hat, blue_hair", frozenset({"moss", "hat", "blue hair"})
    assert sieve.keep(tmp_path / "cat.png", text, tags, sieve.terms_of(wanted)) is kept


def test_a_dash_alone_asks_for_pictures_without_a_caption(tmp_path):
    assert all(sieve.keep(tmp_path / "a.png", text, frozenset(), sieve.terms_of("-")) for text in (None, ""))


def test_tokens_are_counted_as_clip_splits_words():
    assert gallery.estimate_tokens("moss, hat, blue") == 5
    assert gallery.estimate_tokens("1girl, solo, looking at viewer") == 8
    assert gallery.estimate_tokens("a photo of cat") == 4
