"""Texts in two languages: nothing is missing, nothing that is filled in is lost, and the page follows Settings."""

import io
import re

import pytest
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po

from studio import preferences, translate
from studio.language import LANGUAGES

OTHERS = [name for name in LANGUAGES if name != "en"]


def catalog(language: str) -> dict[str, str]:
    return {m.id: m.string for m in read_po(io.BytesIO(translate.po(language).read_bytes())) if m.id}


@pytest.mark.parametrize("language", OTHERS)
def test_every_text_of_the_studio_and_of_the_trainer_is_translated(language):
    """If this fails: run `python -m studio.translate` and fill in what it names."""
    texts = catalog(language)
    assert [text for text in translate.messages() if not texts.get(text)] == []


@pytest.mark.parametrize("language", OTHERS)
def test_what_is_filled_in_stays(language):
    for text, translated in catalog(language).items():
        if translated:
            assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", translated)), text
            assert text.count("**") == translated.count("**"), text


@pytest.mark.parametrize("language", OTHERS)
def test_the_compiled_file_is_the_written_one(language):
    compiled = read_mo(io.BytesIO(translate.po(language).with_suffix(".mo").read_bytes()))
    assert {m.id: m.string for m in compiled if m.id} == {k: v for k, v in catalog(language).items() if v}


def test_the_page_is_in_the_language_that_settings_name(open_page, words, here):
    assert "Last runs" in words(open_page("home"))
    page = open_page("settings")
    page.selectbox(key="language choice").select("zh_CN").run()
    assert not page.exception and preferences.load().language == "zh_CN"
    assert "最近的训练" in words(open_page("home"))


@pytest.mark.parametrize("page", ["home", "dataset", "train", "runs", "compare", "library", "png_info", "settings"])
def test_every_page_opens_in_every_language(page, open_page, here):
    for language in OTHERS:
        preferences.save(preferences.Preferences(language=language))
        open_page(page)
