"""Where the list of known tags is found, what Settings say about it, and what the page answers."""

import json

import pytest
from trainees import draw_pictures

from studio import completion, places, preferences
from trainer.errors import UserError


@pytest.fixture
def tags(here):
    path = here / "my tags.csv"
    path.write_text('blue_hair,0,900,"cyan_hair"\n<b>bold</b>,0,8,\n')
    return path


def test_the_list_of_a_linked_tool_is_found_and_that_of_settings_goes_first(here, tags):
    assert places.tag_list() is None and completion.tag_list() is None
    linked = here / "forge" / places.TAG_LIST
    linked.parent.mkdir(parents=True)
    linked.write_text("hat,0,5,\n")
    preferences.save(preferences.Preferences(model_folders=[str(here), str(here / "forge")]))
    assert places.tag_list() == linked and len(completion.tag_list()) == 1
    preferences.save(preferences.Preferences(model_folders=[str(here / "forge")], tag_list=str(tags)))
    assert places.tag_list() == tags and len(completion.tag_list()) == 2


def test_a_list_that_has_changed_is_read_anew(tags):
    preferences.save(preferences.Preferences(tag_list=str(tags)))
    assert completion.tag_list().search("hat") == []
    tags.write_text("hat,0,5,\n")
    assert [match.tag for match in completion.tag_list().search("hat")] == ["hat"]


def test_settings_take_a_list_and_refuse_what_is_none(open_page, words, here, tags):
    page = open_page("settings")
    page.text_input(key="tag list").set_value(str(here / "nothing.csv")).run()
    assert "is no file here" in words(page) and preferences.load().tag_list == ""
    page.text_input(key="tag list").set_value(str(tags)).run()
    assert "2 tags at hand" in words(page) and preferences.load().tag_list == str(tags)
    tags.write_bytes(b"\xff")
    page.run()
    assert "is no list of tags" in words(page)
    page.text_input(key="tag list").set_value("").run()
    assert preferences.load().tag_list == ""


def test_the_gallery_goes_on_without_a_list_that_is_gone(open_page, here, tags):
    draw_pictures(here / "datasets" / "moss")
    preferences.save(preferences.Preferences(tag_list=str(tags)))
    open_page("dataset")
    tags.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        completion.tag_list()
    open_page("dataset")


def test_nonsense_in_the_settings_counts_as_nothing(here):
    preferences.FILE.parent.mkdir(exist_ok=True)
    preferences.FILE.write_text(json.dumps({"tag_list": ["x"], "language": "zh_CN"}))
    assert preferences.load() == preferences.Preferences(language="zh_CN")


def test_tags_are_parted_as_the_folder_does_it():
    assert completion.parts_words({"blue hair": 1, "hat": 3})
    assert completion.parts_words({})
    assert not completion.parts_words({"blue_hair": 1, "hat": 3})
