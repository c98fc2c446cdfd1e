"""Several taggers over one folder."""

import pytest
from PIL import Image

from trainer.dataset import captions
from trainer.errors import UserError
from trainer.tag import tag_folder
from trainer.taggers import COMBINATIONS, TAGGERS, Several, get_all

A = [("Blue_Hair", 0.9), ("hat", 0.5), ("smile", 0.4)]
B = [("blue hair", 0.7), ("hat", 0.9), ("dog", 0.8)]
C = [("a cat sits on a small red mat", 1.0), ("hat", 0.2)]


def words(how, *answers):
    return [tag for tag, _ in COMBINATIONS[how](answers)]


def test_ways_to_combine():
    assert words("union", A, B) == ["Blue_Hair", "hat", "dog", "smile"]
    assert COMBINATIONS["union"]([A, B])[0][1] == pytest.approx(0.8)
    assert words("intersection", A, B) == ["Blue_Hair", "hat"]
    assert words("vote", A, B, C) == ["Blue_Hair", "hat"] or words("vote", A, B, C) == ["hat", "Blue_Hair"]
    assert words("vote", A, B) == words("intersection", A, B)
    assert words("first", B, A) == ["blue hair", "hat", "dog", "smile"]
    assert words("union", A, C)[-1] == "a cat sits on a small red mat"
    assert words("intersection", A, []) == []


class Says:
    def __init__(self, name):
        self.name = name

    def tag(self, paths, options, *, progress=None):
        for path in paths:
            yield path, [(self.name, 0.9), ("both", 0.5)]


def test_a_folder_is_tagged_by_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setitem(TAGGERS, "wd14", Says)
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    seen = []
    tag_folder(tmp_path, ["wd14:one", "wd14:two"], trigger="moss", progress=lambda *done: seen.append(done))
    assert captions.read(tmp_path / "b.txt") == "moss, both, one, two" and seen[-1] == (2, 2)
    tag_folder(tmp_path, ["wd14:one", "wd14:two"], mode="overwrite", combine="intersection")
    assert captions.read(tmp_path / "a.txt") == "both"
    with pytest.raises(UserError, match="Unknown way 'unoin'"):
        tag_folder(tmp_path, ["wd14:one"], mode="overwrite", combine="unoin")
    with pytest.raises(UserError, match="Unknown way"):
        Several([], "all")
    assert get_all(["wd14:one"]).name == "one"
