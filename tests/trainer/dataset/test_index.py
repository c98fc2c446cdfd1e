"""The index knows what it knew, and never what is no longer so."""

import os
import sqlite3

import pytest
from PIL import Image

from trainer.dataset import images, index
from trainer.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["a.png", "sub/b.jpg", "猫\n\u202e.png", os.fsdecode(b"caf\xe9.png")]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.effect_noise((40, 30 + number), 80).save(path)
    (tmp_path / "z.png").write_bytes(b"")
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are decoded."""
    seen, decode = [], images._decode

    def watched(file):
        seen.append(os.path.basename(file.name))
        return decode(file)

    monkeypatch.setattr(images, "_decode", watched)
    return seen


def everything(found):
    pictures, broken = found
    return [(p, p.bytes, p.mtime_ns, p.looks) for p in pictures], broken


def test_a_second_scan_reads_nothing_and_says_the_same(folder, read):
    expected = everything(images.survey(folder))
    read.clear()
    seen = []
    assert everything(index.survey(folder, progress=lambda *done: seen.append(done))) == expected
    assert len(read) == 5 and seen[-1] == (5, 5)
    read.clear()
    assert everything(index.survey(folder)) == expected and not read
    with pytest.raises(UserError, match="z.png is empty"):
        index.scan(folder)


def test_what_changed_came_or_went_is_noticed(folder, read):
    index.survey(folder)
    read.clear()
    Image.effect_noise((50, 50), 80).save(folder / "a.png")
    Image.effect_noise((60, 60), 80).save(folder / "new.png")
    (folder / "sub/b.jpg").unlink()
    os.utime(folder / "猫\n\u202e.png")
    found = everything(index.survey(folder))
    assert sorted(read) == sorted(["a.png", "new.png", "猫\n\u202e.png"])
    assert found == everything(images.survey(folder))


def test_same_size_and_time_but_other_bytes_is_noticed(folder, read):
    index.survey(folder)
    path = folder / "a.png"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    read.clear()
    index.survey(folder)
    assert read == ["a.png"]


@pytest.mark.parametrize("damage", ["no database", "other version", "other table", "rows", "cut"])
def test_a_damaged_index_is_done_without(folder, damage):
    expected = everything(index.survey(folder))
    path = folder / index.NAME
    if damage == "no database":
        path.write_bytes(b"nonsense" * 1000)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        with sqlite3.connect(path) as database:
            if damage == "other version":
                database.execute("PRAGMA user_version = 99")
            elif damage == "other table":
                database.execute("DROP TABLE pictures")
                database.execute("CREATE TABLE pictures (name TEXT)")
            else:
                database.execute("UPDATE pictures SET digest = 7, width = 'wide'")
        database.close()
    assert everything(index.survey(folder)) == expected
    assert everything(index.survey(folder)) == expected


def test_a_folder_that_cannot_be_written_is_scanned_all_the_same(folder, monkeypatch):
    monkeypatch.setattr(index, "NAME", "no such folder/index.sqlite")  # tests may run as root
    assert everything(index.survey(folder)) == everything(images.survey(folder))


def test_a_scan_that_is_stopped_keeps_what_it_has(folder, read, monkeypatch):
    monkeypatch.setattr(index, "PART", 1)

    def stop(done, total):
        raise KeyboardInterrupt

    for number in range(100):
        Image.effect_noise((9, 9), 50).save(folder / f"many {number}.png")
    with pytest.raises(KeyboardInterrupt):
        index.survey(folder, progress=stop)
    read.clear()
    assert everything(index.survey(folder)) == everything(images.survey(folder))
    assert len(read) == 5 + 105
