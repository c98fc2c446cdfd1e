"""Files and names that are out to hurt, through everything that looks at a folder; and processes that die."""

import io
import multiprocessing
import os
import random
import signal
import struct
import sys
import zipfile
import zlib

import pytest
from PIL import Image, ImageDraw

from trainer.dataset import (
    aside,
    captions,
    duplicates,
    edit,
    fixes,
    formats,
    health,
    images,
    index,
    items,
    prepare,
    sheet,
    splitting,
)
from trainer.errors import UserError

NAMES = [
    "plain.png",
    "line\nbreak.png",
    "\u202egnp.exe.png",
    "🐈\u200d⬛ cat.png",
    "Case.png",
    "case.png",
    "1²1.png",  # a digit to isdigit(), a number to nobody
    "CASE.PNG",
    "a'; DROP TABLE pictures; --.png",
    "-rf.png",
    "[red]markup {name} %s.png",
    "*.png",
    "sub/con\ttab.png",
    "é".encode().decode("latin-1") + ".png",
    os.fsdecode(b"caf\xe9.png"),
    "x" * 200 + ".png",
]


def scene(seed):
    rng = random.Random(seed)
    picture = Image.new("RGB", (70, 60), tuple(rng.choices(range(256), k=3)))
    for _ in range(9):
        x, y = rng.randrange(50), rng.randrange(40)
        ImageDraw.Draw(picture).rectangle((x, y, x + 18, y + 14), fill=tuple(rng.choices(range(256), k=3)))
    return picture


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        scene(seed).save(folder / name, format="PNG")
        (folder / name).with_suffix(".txt").write_text(f"moss, hat, number {seed}")
    return folder


def bytes_of(folder):
    files = [p for p in folder.rglob("*") if p.is_file() and not p.relative_to(folder).parts[0].startswith(".")]
    return {os.fsencode(p.relative_to(folder)): p.read_bytes() for p in files}


def spoil(folder):
    """Pictures that are none, or more than that; returns the names of those that must be found out."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 9))  # 20 MB of text in 20 kB
    whole = io.BytesIO()
    scene(99).save(whole, "PNG")
    png = whole.getvalue()
    (folder / "text bomb.png").write_bytes(png[:33] + text + png[33:])
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "page.jpg").write_text("<html><script>alert(1)</script></html>")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "device.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../../escape.txt", "owned")
    (folder / "polyglot.png").write_bytes(png + archive.getvalue())  # a picture and an archive: used as a picture
    (folder / "loop.txt").symlink_to("/dev/null")
    return {"bomb.png", "cut.png", "page.jpg", "loop.png", "device.png", "pipe.png"}


def test_every_stage_gets_through_odd_names(folder, tmp_path):
    before = bytes_of(folder)
    pictures = index.scan(folder)
    assert [p.path for p in pictures] == images.find(folder) and len(pictures) == len(NAMES)
    assert index.scan(folder) == pictures
    report = health.check(folder, trigger="moss", resolution=64)
    assert report.ready and all("\n" not in str(f) and "\u202e" not in str(f) for f in report.findings)
    assert len(items.select(folder, "tag:hat AND tokens:>1 AND width:70")) == len(NAMES)
    texts = formats.read(folder, images.find(folder))
    edit.apply(folder, edit.plan(texts, "replace", ["hat", "crown"]))
    assert items.select(folder, "tag:hat") == [] and len(items.select(folder, "tag:crown")) == len(NAMES)
    aside.set_aside(folder, [p.path for p in pictures[::2]], "remove")
    assert len(images.find(folder)) == len(NAMES) // 2
    while aside.undo(folder)[0]:
        pass
    assert bytes_of(folder) == before
    assert duplicates.groups(images.find(folder)) == []
    sheet.contact_sheet(pictures, tmp_path / "sheet.png", side=64)
    made = prepare.prepare(folder, tmp_path / "new", prepare.Recipe())
    assert len({one.file.casefold() for one in made}) == len(NAMES)
    assert sorted(map(captions.caption_of, images.find(tmp_path / "new"))) == sorted(texts.values())
    kept, held = splitting.split(pictures, 0.3)
    splitting.copy(folder, tmp_path / "two", {"train": [p.path for p in kept], "heldout": [p.path for p in held]})
    assert len(images.find(tmp_path / "two")) == len(NAMES)
    assert bytes_of(folder) == before


def test_one_file_formats_hold_every_name_that_is_unicode(folder):
    odd = folder / NAMES[-2]
    with pytest.raises(UserError, match="half a character"):
        formats.write(folder, formats.convert(folder, "txt", "metadata"), "convert", "metadata")
    odd.unlink()
    texts = formats.read(folder, images.find(folder))
    for target in ("metadata", "kohya"):
        formats.write(folder, formats.convert(folder, "txt", target), "convert", target)
        assert formats.read(folder, images.find(folder), target) == texts


def test_spoiled_files_are_named_set_aside_and_brought_back(folder):
    spoiled = spoil(folder)
    report = health.check(folder)
    broken = {finding.file.name for finding in report.findings if finding.kind == "broken"}
    assert spoiled <= broken <= spoiled | {"text bomb.png"}
    assert not report.ready
    fixes.apply(folder, fixes.plan("broken", report.findings))
    assert health.check(folder).ready
    assert not (folder.parent / "escape.txt").exists()
    aside.undo(folder)
    assert {b.path.name for b in index.survey(folder)[1]} == broken


def test_captions_that_are_out_to_hurt(folder):
    path = folder / "plain.txt"
    path.write_text("(" * 20_000 + "\\(" * 20_000 + ", " * 20_000)
    texts = formats.read(folder, images.find(folder))
    for which, arguments in [("dedupe", []), ("prune", []), ("add", ["x"]), ("remove", ["*a*b*c*"])]:
        edit.plan(texts, which, arguments)
    assert health.check(folder).findings


# ── a process that dies at each step of an edit ─────────────────────────────────────────────────────────


def _edit_and_die(folder, format, times):
    count = 0

    def watch(event, arguments):
        nonlocal count
        if event in ("os.rename", "open", "os.remove") and "set" in str(arguments[0]):
            count += 1
            if count == times:
                os.kill(os.getpid(), signal.SIGKILL)

    texts = formats.read(folder, images.find(folder), format)
    plan = edit.plan(texts, "replace", ["hat", "crown"])
    sys.addaudithook(watch)
    edit.apply(folder, plan, format)


@pytest.mark.parametrize("format", ["txt", "metadata"])
@pytest.mark.parametrize("times", [1, 3, 4, 5, 6, 7, 8, 10, 12, 14, 99])
def test_a_kill_at_any_step_loses_the_edit_in_flight_at_most(tmp_path, format, times):
    folder = tmp_path / "set"
    folder.mkdir()
    old = {folder / f"{number}.png": f"moss, hat, {number}" for number in range(4)}
    for path in old:
        path.write_bytes(b"")
    formats.write(folder, old, "start", format)
    before = bytes_of(folder)
    process = multiprocessing.get_context("fork").Process(target=_edit_and_die, args=(folder, format, times))
    process.start()
    process.join(60)
    assert process.exitcode in ((-signal.SIGKILL,) if times <= 8 else (0, -signal.SIGKILL))
    now = formats.read(folder, list(old), format)
    assert all(now[path] in (text, text.replace("hat", "crown")) for path, text in old.items())
    if captions.history(folder)[-1].name != "start":
        captions.undo(folder)
    assert {name: data for name, data in bytes_of(folder).items() if not name.endswith(b".part")} == before
