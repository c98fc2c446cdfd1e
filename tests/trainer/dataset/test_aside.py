"""Fixes take nothing away for good: what moved comes back, also after a crash between any two writes."""

import json
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import detectors
import pytest
from PIL import Image

from trainer.dataset import aside, captions, fixes, health, images
from trainer.dataset.faces import Faces
from trainer.errors import UserError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    for name in ["a.png", "sub/b.png", "c.png"]:
        Image.effect_noise((64, 64), 90).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(name)
    return folder


def bytes_of(folder):
    paths = [p for p in folder.rglob("*") if p.is_file() and not p.relative_to(folder).parts[0].startswith(".")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def test_files_go_with_their_captions_and_return(folder):
    before = bytes_of(folder)
    gone = [folder / "sub/b.png", *aside.companions(folder / "sub/b.png")]
    id = aside.set_aside(folder, gone, "dedupe")
    assert sorted(bytes_of(folder)) == ["a.png", "a.txt", "c.png", "c.txt"]
    assert (folder / ".originals" / id / "sub/b.txt").exists()
    assert len(images.find(folder)) == 2
    assert aside.newest(folder) == ("dedupe", gone)
    assert aside.undo(folder) == ("dedupe", gone)
    assert bytes_of(folder) == before and aside.undo(folder) == ("", [])


def test_a_shared_caption_stays(folder):
    Image.effect_noise((64, 64), 90).save(folder / "a.jpg")
    Image.effect_noise((64, 64), 90).save(folder / "c.v2.png")
    assert aside.companions(folder / "a.png") == []
    assert aside.companions(folder / "c.png") == [folder / "c.txt"]


def test_edits_and_removals_are_undone_newest_first(folder):
    states = [bytes_of(folder)]
    captions.write_captions(folder, {folder / "a.txt": "moss"}, "edit")
    states.append(bytes_of(folder))
    aside.set_aside(folder, [folder / "a.png", folder / "a.txt"], "remove")
    states.append(bytes_of(folder))
    captions.write_captions(folder, {folder / "c.txt": "moss"}, "edit again")
    names = []
    while (undone := aside.undo(folder))[0]:
        names.append(undone[0])
        assert bytes_of(folder) == states.pop()
    assert names == ["edit again", "remove", "edit"]


def test_what_was_undone_is_done_again_in_its_order(folder):
    states = [bytes_of(folder)]
    captions.write_captions(folder, {folder / "a.txt": "moss"}, "edit")
    states.append(bytes_of(folder))
    aside.set_aside(folder, [folder / "a.png", folder / "a.txt"], "remove")
    states.append(bytes_of(folder))
    make(folder, "alpha")
    repair = fixes.plan("alpha", health.check(folder).findings)
    states[:] = [state | {"big.png": (folder / "big.png").read_bytes()} for state in states]
    fixes.apply(folder, repair)
    states.append(bytes_of(folder))
    captions.write_captions(folder, {folder / "c.txt": "moss"}, "edit again")
    states.append(bytes_of(folder))
    for _round in range(2):
        for state in reversed(states[:-1]):
            aside.undo(folder)
            assert bytes_of(folder) == state
        for name, state in zip(["edit", "remove", "fix alpha", "edit again"], states[1:]):
            assert aside.redoable(folder)[0] == name
            assert aside.redo(folder)[0] == name and bytes_of(folder) == state
        assert aside.redo(folder) == aside.redoable(folder) == ("", [])


@pytest.mark.parametrize("new", ["edit", "removal"])
@pytest.mark.parametrize("undone", ["edit", "removal"])
def test_something_new_leaves_nothing_to_redo(folder, undone, new):
    def act(kind, name):
        if kind == "edit":
            captions.write_captions(folder, {folder / f"{name}.txt": "new"}, "edit")
        else:
            aside.set_aside(folder, [folder / f"{name}.png"], "removal")

    act(undone, "a")
    aside.undo(folder)
    assert aside.redoable(folder)[0] == undone
    act(new, "c")
    assert aside.redoable(folder) == ("", [])
    aside.undo(folder)  # nor does what stood before it come back into question
    assert aside.redoable(folder)[0] == new and aside.redo(folder)[0] == new
    assert aside.redo(folder) == ("", [])


def test_redo_writes_over_nothing_new(folder):
    make(folder, "turned")
    fixes.apply(folder, fixes.plan("turned", health.check(folder).findings))
    aside.undo(folder)
    (folder / "big.png").write_bytes(b"new")
    with pytest.raises(UserError, match="big.png has been made anew since"):
        aside.redo(folder)
    assert (folder / "big.png").read_bytes() == b"new" and (folder / "big.jpg").exists()


def test_nothing_that_stands_there_now_is_written_over(folder):
    aside.set_aside(folder, [folder / "a.png"], "remove")
    (folder / "a.png").write_bytes(b"new")
    with pytest.raises(UserError, match="a.png has been made anew"):
        aside.undo(folder)
    assert (folder / "a.png").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../x", "/x", ""])
def test_a_hostile_record_reaches_nothing_outside(folder, name):
    (folder / ".originals").mkdir()
    entry = {"id": "1", "time": "", "operation": "x", "moves": [[name, "a.png"]], "made": []}
    (folder / ".originals/moves.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(UserError, match="Line 1"):
        aside.undo(folder)


def test_two_who_set_pictures_aside_at_once_are_both_on_record(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(200)]
    for path in paths:
        path.write_bytes(b"x")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: aside.set_aside(tmp_path, [path], "remove"), paths))
    assert len(aside.history(tmp_path)) == len(paths) and not any(path.exists() for path in paths)


def test_ten_thousand_operations_of_one_second_have_ten_thousand_names():
    """Two of one name would be undone as one."""
    assert len({aside.new_id() for _ in range(10_000)}) == 10_000


def test_a_large_folder_is_listed_once_for_all_that_goes_with_its_pictures(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(50)]
    for path in paths:
        path.write_bytes(b"x")
        path.with_suffix(".txt").write_text("moss")
    (tmp_path / "0.jpg").write_bytes(b"x")  # needs 0.txt as well
    listed, iterdir = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: listed.append(folder) or iterdir(folder))
    wanted = [file for path in paths[1:] for file in (path, path.with_suffix(".txt"))]
    assert aside.with_companions(paths) == [paths[0], *wanted] and listed == [tmp_path]


# ── every fix ───────────────────────────────────────────────────────────────────────────────────────────


def make(folder, kind):
    """Give the folder one picture with this trouble; returns its name."""
    noise = Image.effect_noise((640, 640), 90).convert("RGB")
    big = folder / "big.png"
    if kind == "broken":
        big.write_bytes(b"")
    elif kind == "foreign":
        big = folder / "big.heic"
        big.write_bytes(b"x")
    elif kind == "duplicate":
        big.write_bytes((folder / "a.png").read_bytes())
    elif kind == "near duplicate":
        Image.open(folder / "a.png").resize((60, 60)).save(big)
    elif kind == "blurry":
        Image.radial_gradient("L").resize((640, 640)).save(big)
    elif kind == "extreme":
        noise.resize((3000, 500)).save(big)
    elif kind == "cropped":
        noise.resize((850, 500)).save(big)  # halfway between the buckets 128×128 and 192×64
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 8
        big = folder / "big.jpg"
        noise.save(big, exif=exif)
    elif kind == "alpha":
        noise.putalpha(Image.linear_gradient("L").resize(noise.size))
        noise.save(big)
    elif kind == "animated":
        big = folder / "big.gif"
        noise.save(big, save_all=True, append_images=[Image.new("RGB", noise.size)])
    elif kind == "orphan":
        big = folder / "big.txt"
        big.write_text("x")
    elif kind == "caption shared":
        noise.save(folder / "c.jpg")
        big = folder / "c.png"  # the second one is the one to rename
    elif kind == "small face":
        detectors.scene((1280, 1280), (960, 192), 100).save(big)
    elif kind == "small":
        big = folder / "sub/b.png"
    elif kind == "odd colours":
        for number in range(12):
            Image.effect_noise((64, 64), 90).save(folder / f"{number}.png")
        Image.effect_noise((64, 64), 90).point(lambda value: value // 25).save(big)
    else:
        noise.save(big)
        text = {"empty caption": "", "trigger missing": "hat", "long caption": "moss" + ", hat" * 80}.get(kind)
        if kind == "caption unreadable":
            (folder / "big.txt").write_bytes(b"\xe9")
        elif kind == "encodings":
            (folder / "big.txt").write_bytes("größer\r\n".encode("utf-16"))
        elif text is not None:
            (folder / "big.txt").write_text(text)
    return big


@pytest.mark.parametrize("kind", fixes.FIXES)
def test_every_fix_mends_what_it_is_for_and_is_undone(folder, tmp_path, kind):
    trouble = make(folder, kind)
    before = bytes_of(folder)
    resolution = 128 if kind == "cropped" else 512

    faces = Faces(str(detectors.yolo(tmp_path / "face.onnx"))) if kind == "small face" else None

    def found():
        trigger = "moss" if kind == "trigger missing" else ""
        report = health.check(folder, trigger=trigger, resolution=resolution, faces=faces)
        either = kind in ("near duplicate", "duplicate")  # of two that are alike, either may go
        return [finding for finding in report.findings if finding.kind == kind and (either or finding.file == trouble)]

    assert found()
    repair = fixes.plan(kind, found(), fixes.Settings(trigger="moss", resolution=resolution, faces=faces))
    assert bytes_of(folder) == before  # a plan is only a plan
    fixes.apply(folder, repair)
    assert not found() and bytes_of(folder) != before
    if kind == "encodings":
        assert (folder / "big.txt").read_bytes() == "größer\r\n".encode()
    aside.undo(folder)
    assert bytes_of(folder) == before


def test_kinds_without_a_fix_say_so(folder):
    with pytest.raises(UserError, match="'few pictures' has no fix"):
        fixes.plan("few pictures", [])
    with pytest.raises(UserError, match="--trigger"):
        fixes.plan("no caption", [])
    assert set(fixes.FIXES) <= set(health.KINDS)


# ── a process that dies at each step ────────────────────────────────────────────────────────────────────


def _fix_and_die(folder, times):
    count = 0

    def watch(event, arguments):
        nonlocal count
        if event in ("os.rename", "open", "os.mkdir") and any("set" in str(argument) for argument in arguments[:2]):
            count += 1
            if count == times:
                os.kill(os.getpid(), signal.SIGKILL)

    repair = fixes.plan("alpha", health.check(folder).findings)
    sys.addaudithook(watch)
    fixes.apply(folder, repair)


@pytest.mark.parametrize("times", range(1, 14))
def test_killed_at_any_step_nothing_is_lost(folder, times):
    make(folder, "alpha")
    health.check(folder)
    before = bytes_of(folder)
    process = multiprocessing.get_context("fork").Process(target=_fix_and_die, args=(folder, times))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    while aside.undo(folder)[0]:
        pass
    after = {name: data for name, data in bytes_of(folder).items() if not name.split("/")[-1].startswith(".")}
    assert after == before
