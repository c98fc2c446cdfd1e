"""Undo gives the same bytes back, whatever was edited and wherever it was interrupted."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import files
from trainer.dataset import captions, journal
from trainer.dataset.journal import Journal
from trainer.errors import UserError

NAMES = ["a.txt", "sub/b.txt", "naïve\n猫.txt"]
contents = st.one_of(st.none(), st.binary(max_size=6), st.text(max_size=6).map(str.encode))
steps = st.lists(st.dictionaries(st.sampled_from(NAMES), contents), max_size=6)


def state(folder) -> dict:
    return {name: journal._read(folder / name) for name in NAMES}


def change(folder, step, operation="edit", **options):
    return Journal(folder).write({folder / name: content for name, content in step.items()}, operation, **options)


class Crash(BaseException):
    """The machine stops."""


def crash_after(monkeypatch, writes: int):
    """The next `writes` writes of captions happen, then nothing more."""
    left = [writes]
    write = journal._write

    def stop(path, content):
        if not left[0]:
            raise Crash
        left[0] -= 1
        write(path, content)

    monkeypatch.setattr(journal, "_write", stop)


@settings(max_examples=25)
@given(start=st.dictionaries(st.sampled_from(NAMES), contents), steps=steps)
def test_any_edits_undone_give_the_same_bytes_and_redone_too(tmp_path_factory, start, steps):
    folder = tmp_path_factory.mktemp("set")
    for name, content in start.items():
        journal._write(folder / name, content)
    states = [state(folder)]
    for step in steps:
        if change(folder, step):
            states.append(state(folder))
    for earlier in reversed(states[:-1]):
        assert Journal(folder).undo()
        assert state(folder) == earlier
    assert Journal(folder).undo() == [] and state(folder) == states[0]
    for later in states[1:]:
        assert Journal(folder).redo()
        assert state(folder) == later
    assert Journal(folder).redo() == []


@settings(max_examples=25)
@given(data=st.data())
def test_any_mix_of_edit_undo_and_redo_follows_a_plain_stack(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("set")
    done, undone = [state(folder)], []
    for action in data.draw(st.lists(st.sampled_from(["edit", "edit", "undo", "redo"]), max_size=10)):
        if action == "edit":
            if change(folder, data.draw(st.dictionaries(st.sampled_from(NAMES), contents))):
                done.append(state(folder))
                undone.clear()
        elif action == "undo":
            assert bool(Journal(folder).undo()) == (len(done) > 1)
            if len(done) > 1:
                undone.append(done.pop())
        else:
            assert bool(Journal(folder).redo()) == bool(undone)
            if undone:
                done.append(undone.pop())
        assert state(folder) == done[-1]


@pytest.mark.parametrize("writes", range(4))
@pytest.mark.parametrize("action", ["write", "undo", "redo"])
def test_a_crash_between_any_two_writes_leaves_undo_right(tmp_path, monkeypatch, action, writes):
    change(tmp_path, {name: b"\xff first" for name in NAMES})
    first = state(tmp_path)
    if action != "write":
        change(tmp_path, {name: b"second" for name in NAMES})
    if action == "redo":
        Journal(tmp_path).undo()
    with monkeypatch.context() as patch:
        crash_after(patch, writes)
        try:
            if action == "write":
                change(tmp_path, {name: b"second" for name in NAMES})
            else:
                getattr(Journal(tmp_path), action)()
        except Crash:
            pass
    if action != "undo" or writes < len(NAMES):
        assert Journal(tmp_path).undo()
    assert state(tmp_path) == first
    Journal(tmp_path).undo()
    assert set(state(tmp_path).values()) == {None}


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_cut_by_a_crash_never_happened(tmp_path, cut):
    change(tmp_path, {"a.txt": b"one"})
    path = tmp_path / journal.NAME
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:cut])
    assert len(Journal(tmp_path).history()) == 1
    change(tmp_path, {"a.txt": b"two"})
    Journal(tmp_path).undo()
    assert state(tmp_path)["a.txt"] == b"one"


def test_a_full_disk_leaves_captions_as_they_were_or_undoable(tmp_path, monkeypatch):
    change(tmp_path, {"a.txt": b"one", "sub/b.txt": b"one"})
    before = state(tmp_path)
    written = []

    def full(path, content):
        if written:
            raise UserError("No space left")
        written.append(path)
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        with pytest.raises(UserError, match="No space"):
            change(tmp_path, {"a.txt": b"two", "sub/b.txt": b"two"})
    Journal(tmp_path).undo()
    assert state(tmp_path) == before


def test_newer_changes_by_something_else_are_not_lost(tmp_path):
    change(tmp_path, {"a.txt": b"one"}, "tag")
    (tmp_path / "a.txt").write_bytes(b"by hand")
    with pytest.raises(UserError, match="undo 'tag' would lose newer changes to a.txt"):
        Journal(tmp_path).undo()
    assert (tmp_path / "a.txt").read_bytes() == b"by hand"
    assert Journal(tmp_path).undo(force=True) == [tmp_path / "a.txt"]
    assert not (tmp_path / "a.txt").exists()
    assert "by hand" in (tmp_path / journal.NAME).read_text()


def test_parts_of_one_operation_are_undone_as_one(tmp_path):
    change(tmp_path, {"a.txt": b"0"}, "edit")
    id = change(tmp_path, {"a.txt": b"1"}, "tag")
    change(tmp_path, {"a.txt": b"2", "sub/b.txt": b"2"}, "tag", id=id)
    change(tmp_path, {NAMES[2]: b"3"}, "tag", id=id)
    assert [operation.name for operation in Journal(tmp_path).history()] == ["edit", "tag"]
    Journal(tmp_path).undo()
    assert state(tmp_path) == {"a.txt": b"0", "sub/b.txt": None, NAMES[2]: None}
    Journal(tmp_path).redo()
    assert state(tmp_path) == {"a.txt": b"2", "sub/b.txt": b"2", NAMES[2]: b"3"}


@pytest.mark.parametrize("file", ["../../escape.txt", "/escape.txt", "sub/../../escape.txt", ""])
def test_a_hostile_journal_reaches_nothing_outside(tmp_path, file):
    folder = tmp_path / "set"
    folder.mkdir()
    entry = {"id": "1", "time": "", "operation": "x"}
    entry["changes"] = [{"file": file, "before": "owned", "after": None}]
    (folder / journal.NAME).write_text(json.dumps(entry) + "\n")
    with pytest.raises(UserError, match="Line 1 of"):
        Journal(folder).undo(force=True)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("line", ["nonsense", "[]", "{}", '{"undo": "x"}', '{"redo": "x"}', '"x"', "\xff"])
def test_a_damaged_journal_is_named(tmp_path, line):
    change(tmp_path, {"a.txt": b"one"})
    with open(tmp_path / journal.NAME, "a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="Line 2 of"):
        Journal(tmp_path).undo()


def test_files_outside_the_folder_are_refused(tmp_path):
    with pytest.raises(ValueError):
        Journal(tmp_path / "set").write({tmp_path / "a.txt": b""}, "edit")


def test_the_journal_is_readable_by_people(tmp_path):
    captions.write_captions(tmp_path, {tmp_path / "a.txt": "moss, hat"}, "tag")
    entry = json.loads((tmp_path / journal.NAME).read_text())
    assert entry["operation"] == "tag"
    assert entry["changes"] == [{"file": "a.txt", "before": None, "after": "moss, hat\n"}]
