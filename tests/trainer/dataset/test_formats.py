"""Captions in every place that other tools keep them."""

import json

import pytest

from trainer.dataset import captions, formats, images
from trainer.errors import UserError

NAMES = ["a.png", "sub/b.v2.png", "猫\n.png", "c.png"]
TEXTS = ["moss, hat", "A cat sits. It is red, and\nold.", "猫, \\(a\\)", None]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def texts(folder):
    return {folder / name: text for name, text in zip(NAMES, TEXTS)}


@pytest.mark.parametrize("source", formats.FORMATS)
@pytest.mark.parametrize("target", formats.FORMATS)
def test_every_format_to_every_other_and_back_in_one_undo(folder, source, target):
    formats.write(folder, texts(folder), "start", source)
    assert formats.read(folder, images.find(folder), source) == texts(folder)
    assert formats.present(folder) == [source]
    if source == target:
        with pytest.raises(UserError, match="two different"):
            formats.convert(folder, source, target)
        return
    changes = formats.convert(folder, source, target)
    formats.write(folder, changes, "convert", target)
    assert formats.read(folder, images.find(folder), target) == texts(folder)
    assert not formats.convert(folder, source, target)
    captions.undo(folder)
    assert formats.present(folder) == [source]


def test_metadata_keeps_other_columns_rows_and_untouched_bytes(folder):
    lines = [
        '{"file_name": "a.png",  "caption": "moss", "score": 1}\r\n',
        "\r\n",
        '{"file_name":"gone.png","caption":"kept"}\r\n',
        '{"file_name": "c.png", "caption": "c"}',
    ]
    path = folder / "metadata.jsonl"
    path.write_bytes("".join(lines).encode("utf-8-sig"))
    assert formats.read(folder, images.find(folder), "metadata")[folder / "a.png"] == "moss"
    formats.write(folder, {folder / "c.png": "moss, c", folder / "sub/b.v2.png": "b"}, "edit", "metadata")
    after = path.read_bytes().decode("utf-8-sig").splitlines(keepends=True)
    assert after[:3] == lines[:3]
    assert after[3:] == [
        '{"file_name": "c.png", "caption": "moss, c"}\r\n',
        '{"file_name": "sub/b.v2.png", "caption": "b"}\r\n',
    ]
    formats.write(folder, {folder / "a.png": None, folder / "c.png": None}, "edit", "metadata")
    assert formats.read(folder, images.find(folder), "metadata")[folder / "a.png"] is None
    assert '"score": 1' in path.read_text() and '"c.png"' not in path.read_text()


def test_kohya_keys_as_its_tools_write_them(folder):
    entries = {
        "a": {"tags": "moss, hat", "train_resolution": [512, 512]},
        "C:\\pictures\\b.v2.png": {"caption": "a cat", "tags": "moss"},
        "elsewhere": {"tags": "kept"},
    }
    path = folder / "meta_lat.json"
    path.write_text(json.dumps(entries))
    found = formats.read(folder, images.find(folder), "kohya")
    assert found[folder / "a.png"] == "moss, hat" and found[folder / "sub/b.v2.png"] == "a cat, moss"
    edited = {
        folder / "a.png": "moss",
        folder / "sub/b.v2.png": "a cat, moss, red",
        folder / "c.png": "It is a red cat.",
    }
    formats.write(folder, edited, "edit", "kohya")
    after = json.loads(path.read_text())
    assert after == {
        "a": {"tags": "moss", "train_resolution": [512, 512]},
        "C:\\pictures\\b.v2.png": {"caption": "a cat", "tags": "moss, red"},
        "elsewhere": {"tags": "kept"},
        "c": {"caption": "It is a red cat."},
    }


def test_names_that_occur_twice_get_their_path(folder):
    (folder / "sub/a.png").write_bytes(b"")
    wanted = {folder / "a.png": "one", folder / "sub/a.png": "two"}
    formats.write(folder, wanted, "edit", "kohya")
    assert set(json.loads((folder / "meta_cap.json").read_text())) == {"a.png", "sub/a.png"}
    assert formats.read(folder, wanted, "kohya") == wanted


def test_pictures_that_share_a_sidecar(folder):
    (folder / "a.jpg").write_bytes(b"")
    both = [folder / "a.jpg", folder / "a.png"]
    formats.write(folder, dict.fromkeys(both, "same"), "edit")
    with pytest.raises(UserError, match="shares the caption a.txt"):
        formats.write(folder, dict(zip(both, ["one", "two"])), "edit")


def test_conversion_never_replaces_unasked(folder):
    (folder / "a.txt").write_text("moss")
    (folder / "a.caption").write_text("by hand")
    with pytest.raises(UserError, match="a.png say something else"):
        formats.convert(folder, "txt", "caption")
    assert formats.convert(folder, "txt", "caption", overwrite=True) == {folder / "a.png": "moss"}
    with pytest.raises(UserError, match="it holds txt, caption"):
        formats.convert(folder, "kohya", "txt")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metadata.jsonl", b"nonsense", "Line 1"),
        ("metadata.jsonl", b'{"file_name": "a.png"}\n[]\n', "Line 2"),
        ("metadata.jsonl", b'{"text": "a"}', "Line 1"),
        ("metadata.jsonl", b"[" * 100_000, "Line 1"),
        ("metadata.jsonl", b"\xe9", "encoding"),
        ("meta_cap.json", b"[]", "no dataset of kohya"),
        ("meta_cap.json", b'{"a": "moss"}', "no dataset of kohya"),
        ("meta_cap.json", "{}".encode("utf-16"), "UTF-8"),
    ],
)
def test_damaged_files_are_named(folder, name, content, said):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        formats.read(folder, images.find(folder), "kohya" if name.endswith(".json") else "metadata")
    with pytest.raises(UserError, match="Unknown caption format"):
        formats.read(folder, [], "text")
