"""Tagging a folder: what is written, what is left alone, and that one undo takes it back."""

import pytest
from PIL import Image

from trainer import tag as story
from trainer.dataset import captions
from trainer.errors import UserError
from trainer.tag import tag_folder


class ByName:
    """Gives each picture the tags in its name and one below the usual threshold."""

    name = "by name"

    def tag(self, paths, options, *, progress=None):
        for done, path in enumerate(paths, start=1):
            scored = [(word, 0.9) for word in path.stem.split("+")] + [("doubtful", 0.2)]
            yield path, [(word, score) for word, score in scored if score >= options.threshold]
            if progress:
                progress(done, len(paths))


@pytest.fixture
def folder(tmp_path):
    for name in ["cat+hat.png", "dog.PNG", "sub/fox+hat.jpg"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    (tmp_path / "dog.txt").write_bytes(b"By hand,Dog\r\n")
    return tmp_path


def texts(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.txt"))}


def test_skip_writes_only_what_is_missing(folder):
    seen = []
    report = tag_folder(folder, ByName(), trigger="moss", progress=lambda *done: seen.append(done))
    assert texts(folder) == {
        "cat+hat.txt": b"moss, cat, hat\n",
        "dog.txt": b"By hand,Dog\r\n",
        "sub/fox+hat.txt": b"moss, fox, hat\n",
    }
    assert report.skipped == [folder / "dog.txt"] and len(report.written) == 2 and seen[-1] == (2, 2)
    assert str(report) == "2 written, 1 skipped (had a caption)"


def test_append_keeps_the_text_and_its_line_breaks(folder):
    tag_folder(folder, ByName(), trigger="moss", mode="append", threshold=0.1)
    assert texts(folder)["dog.txt"] == b"moss, By hand, Dog, doubtful\r\n"
    again = tag_folder(folder, ByName(), trigger="moss", mode="append", threshold=0.1)
    assert not again.written and len(again.unchanged) == 3 and again.operation is None


def test_overwrite_is_journaled_and_undone_as_one(folder, monkeypatch):
    monkeypatch.setattr(story, "PART", 1)
    before = texts(folder)
    report = tag_folder(folder, ByName(), mode="overwrite")
    assert len(report.written) == 3 and texts(folder)["dog.txt"] == b"dog\r\n"
    assert [operation.name for operation in captions.history(folder)] == ["tag (overwrite)"]
    captions.undo(folder)
    assert texts(folder) == before


def test_a_blank_caption_counts_as_none(folder):
    (folder / "dog.txt").write_bytes(b" \n")
    tag_folder(folder, ByName())
    assert captions.read(folder / "dog.txt") == "dog"


def test_what_was_tagged_before_a_stop_is_kept(folder):
    class Stops(ByName):
        def tag(self, paths, options, *, progress=None):
            yield next(super().tag(paths, options))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tag_folder(folder, Stops())
    assert captions.read(folder / "cat+hat.txt") == "cat, hat"
    assert len(tag_folder(folder, ByName()).written) == 1


@pytest.mark.parametrize("trouble", ["broken", "encoding", "clash", "mode", "empty"])
def test_trouble_is_said_before_anything_is_written(folder, trouble):
    mode = "append"
    if trouble == "broken":
        (folder / "z.png").write_bytes(b"")
    elif trouble == "encoding":
        (folder / "sub/fox+hat.txt").write_bytes(b"caf\xe9")
    elif trouble == "clash":
        Image.new("RGB", (8, 8)).save(folder / "dog.jpg")
    elif trouble == "mode":
        mode = "apend"
    elif trouble == "empty":
        folder = folder / "nothing"
        folder.mkdir()
    before = texts(folder)
    expected = {"broken": "z.png is empty", "encoding": "cannot be told", "clash": r"dog.jpg and dog.PNG"}
    expected |= {"mode": "did you mean 'append'", "empty": "No pictures"}
    with pytest.raises(UserError, match=expected[trouble]):
        tag_folder(folder, ByName(), mode=mode)
    assert texts(folder) == before and not captions.history(folder)
