"""The list of known tags: what is found, in what order, and files that are none."""

import pytest

from trainer.dataset import vocabulary
from trainer.dataset.vocabulary import Match
from trainer.errors import UserError

LINES = """name,category,count,aliases
1girl,0,6000000,"1girls,sole_female"
blue_hair,0,900,"cyan_hair,/蓝发"
hair_ribbon,0,5000,
hat,0,400,hats
hatsune_miku,4,9000,"miku,初音ミク"
fate_(series),3,300,"fate"
chair,0,100,
^_^,0,50,"happy face"
lone,0,
,0,7,nothing
"""


@pytest.fixture
def tags(tmp_path):
    (tmp_path / "tags.csv").write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    return vocabulary.load(tmp_path / "tags.csv")


def found(tags, text, **options):
    return [match.tag for match in tags.search(text, **options)]


def test_the_tag_itself_then_beginnings_then_words_then_anything(tags):
    assert len(tags) == 9
    assert found(tags, "hat") == ["hat", "hatsune miku"]
    assert found(tags, "HAIR") == ["hair ribbon", "blue hair", "chair"]
    assert found(tags, "hai", limit=2) == ["hair ribbon", "blue hair"]
    assert found(tags, "blue_h") == found(tags, "blue  h") == ["blue hair"]
    assert found(tags, "ai") == ["hair ribbon", "blue hair", "chair"]
    assert found(tags, "") == found(tags, " _ ") == found(tags, "no such") == found(tags, "\n") == []


def test_an_alias_leads_to_its_tag_and_is_named(tags):
    assert tags.search("cyan") == [Match("blue hair", 900, "cyan hair")]
    assert tags.search("蓝发") == [Match("blue hair", 900, "蓝发")]
    assert tags.search("miku")[0] == Match("hatsune miku", 9000)  # the name holds it too
    assert tags.search("初音")[0].alias == "初音ミク"


def test_tags_are_written_as_a_caption_has_them(tags):
    assert found(tags, "fate") == [r"fate \(series\)"]
    assert found(tags, "blue", spaces=False) == ["blue_hair"]
    assert found(tags, "happy") == ["^_^"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "holds no tags"), (b"a,b\n1,2\n", "holds no tags"), (b"\xff\xfe\x00", "is no list of tags")],
)
def test_what_is_no_list_is_said(tmp_path, content, said):
    (tmp_path / "tags.csv").write_bytes(content)
    with pytest.raises(UserError, match=said):
        vocabulary.load(tmp_path / "tags.csv")
    with pytest.raises(UserError, match="cannot be read"):
        vocabulary.load(tmp_path / "missing.csv")
