"""`lora-studio dataset …`: every verb, its JSON and its dry run, on a real folder."""

import json
import random

import detectors
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from trainer.cli import app
from trainer.dataset import captions
from trainer.errors import UserError
from trainer.upscalers import RRDBNet


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(9):
        rng = random.Random(number)
        picture = Image.new("RGB", (300, 200 + 20 * number), tuple(rng.choices(range(256), k=3)))
        for _ in range(10):
            x, y = rng.randrange(250), rng.randrange(150)
            ImageDraw.Draw(picture).rectangle((x, y, x + 60, y + 40), fill=tuple(rng.choices(range(256), k=3)))
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"moss, blue hair, hair, pose {number}")
    picture.resize((150, 180)).save(folder / "copy.png")
    return folder


def run(*words, json_too=True):
    result = CliRunner().invoke(app, ["dataset", *map(str, words), *(["--json"] if json_too else [])])
    if result.exception:
        raise result.exception
    assert result.exit_code == 0
    return json.loads(result.stdout) if json_too else result.stdout


def bytes_of(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.suffix in (".txt", ".png", ".json")
    }


def test_tags(folder):
    found = run("tags", folder, "--where", "tag:pose 1 OR tag:pose 2")
    assert [entry["file"] for entry in found["pictures"]] == ["1.png", "2.png"]
    assert found["tags"]["blue hair"] == 2
    pairs = run("tags", folder, "--pairs", "--dry-run")
    assert pairs[0]["captions"] == 9 and "blue hair" in run("tags", folder, json_too=False)
    assert len(run("tags", folder, "--where", "height:>=340 AND NOT missing:caption")["pictures"]) == 2
    assert [entry["file"] for entry in run("tags", folder, "--where", "issue:near duplicate")["pictures"]] == [
        "copy.png"
    ]


def test_edit_and_undo(folder):
    before = bytes_of(folder)
    dry = run("edit", folder, "prune", "--dry-run")
    assert len(dry["changes"]) == 9 and dry["notes"] == ["hair: said by blue hair"] and bytes_of(folder) == before
    assert run("edit", folder, "prune", "--where", "tag:pose 3")["changes"] == [
        {"file": "3.png", "before": "moss, blue hair, hair, pose 3", "after": "moss, blue hair, pose 3"}
    ]
    assert "the trigger word learns it" in " ".join(run("edit", folder, "absorb", json_too=False).split())
    assert captions.read(folder / "3.txt") == "moss, pose 3"
    assert run("undo", folder, "--dry-run")["operation"] == "absorb"
    assert run("undo", folder)["operation"] == "absorb" and run("undo", folder)["files"] == ["3.txt"]
    assert bytes_of(folder) == before and run("undo", folder)["operation"] == ""
    assert run("redo", folder, "--dry-run")["files"] == ["3.txt"] and bytes_of(folder) == before
    assert run("redo", folder)["files"] == ["3.txt"] and bytes_of(folder) != before
    while run("redo", folder)["operation"]:
        pass
    while run("undo", folder)["operation"]:
        pass
    assert bytes_of(folder) == before


def test_convert(folder):
    before = bytes_of(folder)
    assert len(run("convert", folder, "--to", "kohya", "--dry-run")["files"]) == 9 and bytes_of(folder) == before
    assert run("convert", folder, "--to", "kohya")["from"] == "txt"
    assert len(json.loads((folder / "meta_cap.json").read_text())) == 9
    with pytest.raises(UserError, match="holds txt and kohya; say which"):
        run("convert", folder, "--to", "metadata")
    assert run("edit", folder, "trigger", "cat", "--format", "kohya")["changes"][0]["after"].startswith("cat, moss")
    run("undo", folder), run("undo", folder)
    assert bytes_of(folder) == before


def test_check_and_fix(folder):
    found = run("check", folder, "--trigger", "moss", "--resolution", 256)
    assert {f["kind"] for f in found["findings"]} >= {"near duplicate", "no caption"} and found["score"] < 100
    before = bytes_of(folder)
    assert run("check", folder, "--fix", "near duplicate", "--dry-run")["fixes"][0]["aside"] == ["copy.png"]
    assert bytes_of(folder) == before
    better = run("check", folder, "--trigger", "moss", "--resolution", 256, "--fix", "near duplicate")
    assert better["score"] > found["score"] and not (folder / "copy.png").exists()
    assert "/100" in run("check", folder, json_too=False)
    run("undo", folder)
    assert bytes_of(folder) == before


@pytest.mark.parametrize("format", ["metadata", "kohya", "caption"])
def test_check_and_fix_captions_of_any_format(folder, format):
    run("convert", folder, "--to", format)
    for path in folder.glob("*.txt"):
        path.unlink()
    before = bytes_of(folder)
    words = ["check", folder, "--format", format, "--trigger", "cat"]
    found = run(*words)
    kinds = [(f["kind"], f["file"]) for f in found["findings"] if "caption" in f["kind"] or "trigger" in f["kind"]]
    assert ("no caption", "copy.png") in kinds and ("trigger missing", "0.png") in kinds and ("orphan" not in kinds)
    assert [kind for kind, _ in kinds].count("no caption") == 1
    mended = run(*words, "--fix", "trigger missing", "--fix", "no caption")
    assert mended["fixes"][1]["captions"] == ["copy.png"]
    assert run("tags", folder, "--format", format)["tags"]["cat"] == 10
    assert run("tags", folder, "--format", format, "--where", "issue:no caption")["pictures"] == []
    run("undo", folder), run("undo", folder)
    assert bytes_of(folder) == before


def test_check_looks_for_faces_where_a_detector_is(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    detectors.scene((1280, 1280), (960, 192)).save(folder / "far.png")
    assert run("check", folder)["faces"] is None
    assert "put one there" in " ".join(run("check", folder, json_too=False).split())
    with pytest.raises(UserError, match="none at no.onnx"):
        run("check", folder, "--detector", "no.onnx")
    detectors.yolo(tmp_path / "models/faces/mine.onnx")
    found = run("check", folder, "--resolution", 256)
    assert found["faces"] == "mine.onnx"
    assert "far.png" in {f["file"] for f in found["findings"] if f["kind"] == "small face"}
    mended = run("check", folder, "--resolution", 256, "--fix", "small face")
    assert "far.png" in mended["fixes"][0]["made"]
    assert "far.png" not in {f["file"] for f in mended["findings"] if f["kind"] == "small face"}
    found = run("prepare", folder, "--to", tmp_path / "new", "--crop", "face", "--ratio", "1:1")
    assert any("by mine.onnx" in step for one in found for step in one["steps"])


def test_prepare_cuts_out_and_enlarges(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    detectors.matting(tmp_path / "isnet-anime.onnx")
    torch.save(RRDBNet(8, 4, 1, shuffle=2).state_dict(), tmp_path / "x2.pth")
    words = ["prepare", folder, "--to", tmp_path / "new", "--background", "isnet-anime"]
    with pytest.raises(UserError, match="put u2net.onnx"):
        run(*words[:-1], "u2net", "--dry-run")
    assert "data.mask_folder=" in run(*words, json_too=False).replace("\n", "")
    assert len(list((tmp_path / "new/.masks").iterdir())) == 10
    words[3], size = tmp_path / "other", ["--resolution", 192]
    made = {one["file"]: one for one in run(*words, "--cut-out", "--upscaler", tmp_path / "x2.pth", *size)}
    small = made["copy.png"]
    assert small["size"] == [150, 180] and small["scaled"] == [192, 230] and "by x2.pth" in small["steps"][-1]
    assert Image.open(tmp_path / "other/copy.png").mode == "RGBA"


def test_frames(folder, tmp_path):
    pictures = [Image.new("RGB", (40, 40), colour) for colour in ("red", "#fe0000", "blue")]
    film = tmp_path / "film.gif"
    pictures[0].save(film, save_all=True, append_images=pictures[1:])
    assert len(run("frames", film, "--to", tmp_path / "new", "--dry-run")["frames"]) == 2
    assert not (tmp_path / "new").exists()
    assert "3 frames" in run("frames", film, "--to", tmp_path / "new", "--all", json_too=False)
    assert len(list((tmp_path / "new").glob("*.png"))) == 3


def test_crop(folder, tmp_path):
    words = ["crop", folder, "--to", tmp_path / "new", "--box", "0.png=10,20,100,50"]
    assert run(*words, "--dry-run")["would_make"] == 10 and not (tmp_path / "new").exists()
    (tmp_path / "boxes.json").write_text('{"1.png": [0, 0, 40, 60]}')
    made = {one["file"]: one for one in run(*words, "--boxes", tmp_path / "boxes.json", "--only")}
    assert {name: one["crop"] for name, one in made.items()} == {"0.png": [10, 20, 110, 70], "1.png": [0, 0, 40, 60]}
    assert Image.open(tmp_path / "new/0.png").size == (100, 50) and (tmp_path / "new/0.txt").exists()
    (tmp_path / "boxes.csv").write_text("2.png,0,0,30,40\n\n3.png,5,5,30,40\n")
    words = ["crop", folder, "--to", tmp_path / "other", "--boxes", tmp_path / "boxes.csv"]
    assert "10 pictures" in run(*words, json_too=False) and Image.open(tmp_path / "other/3.png").size == (30, 40)
    for box, said in [
        ("0.png=1,2,3", "write NAME=X,Y,W,H"),
        ("1,2,3,4", "write NAME="),
        ("0.png=0,0,999,9", "not lie"),
    ]:
        with pytest.raises(UserError, match=said):
            run("crop", folder, "--to", tmp_path / "third", "--box", box)
    (tmp_path / "boxes.json").write_text('{"1.png": "all"}')
    with pytest.raises(UserError, match="'1.png': write"):
        run("crop", folder, "--to", tmp_path / "third", "--boxes", tmp_path / "boxes.json")


def test_mask(folder, tmp_path):
    before = bytes_of(folder)
    painted = tmp_path / "painted"
    painted.mkdir()
    half = Image.new("L", (300, 200))
    half.paste(255, (0, 0, 150, 200))
    half.save(painted / "0.png")
    clear = Image.new("RGBA", (300, 220), (255, 255, 255, 0))  # what is transparent was not painted
    clear.paste((255, 255, 255, 255), (0, 0, 150, 220))
    clear.save(painted / "1-masklabel.png")
    assert run("mask", folder, "--from", painted, "--dry-run")["masks"] == [".masks/0.png", ".masks/1.png"]
    assert bytes_of(folder) == before
    assert "data.mask_folder=" in run("mask", folder, "--from", painted, json_too=False)
    mask = Image.open(folder / ".masks/1.png")
    assert (mask.getpixel((10, 10)), mask.getpixel((290, 10))) == (255, 0)
    run("undo", folder)
    assert bytes_of(folder) == before
    half.resize((100, 200)).save(painted / "2.png")
    with pytest.raises(UserError, match="must have the same shape"):
        run("mask", folder, "--from", painted)
    half.save(painted / "lost.png")
    (painted / "2.png").unlink()
    with pytest.raises(UserError, match="is for no picture"):
        run("mask", folder, "--from", painted)
    assert bytes_of(folder) == before


def test_dedupe(folder):
    assert run("dedupe", folder, "--exact")["groups"] == []
    assert run("dedupe", folder, "--dry-run")["aside"] == ["copy.png"] and (folder / "copy.png").exists()
    run("dedupe", folder)
    assert not (folder / "copy.png").exists()
    run("undo", folder)
    assert (folder / "copy.png").exists()


def test_split(folder, tmp_path):
    listed = run("split", folder, "--share", 0.3)
    assert len(listed["heldout"]) == 3 and ("8.png" in listed["heldout"]) == ("copy.png" in listed["heldout"])
    (folder / ".masks").mkdir()
    Image.new("L", (300, 200), 255).save(folder / ".masks/0.png")
    run("split", folder, "--share", 0.3, "--to", tmp_path / "two", "--dry-run")
    assert not (tmp_path / "two").exists()
    run("split", folder, "--share", 0.3, "--to", tmp_path / "two")
    assert sorted(p.name for p in (tmp_path / "two/heldout").glob("*.png")) == sorted(listed["heldout"])
    assert len(list((tmp_path / "two").rglob("*.txt"))) == 9
    side = "heldout" if "0.png" in listed["heldout"] else "train"
    assert (tmp_path / "two" / side / ".masks/0.png").read_bytes() == (folder / ".masks/0.png").read_bytes()
    assert json.loads((tmp_path / "two/split.json").read_text())["heldout"] == listed["heldout"]


def test_sheet_buckets_prepare(folder, tmp_path):
    assert len(run("sheet", folder, "--dry-run")["pictures"]) == 10 and not (tmp_path / "set-sheet.png").exists()
    run("sheet", folder, "--where", "tag:moss", "--resolution", 256)
    assert (tmp_path / "set-sheet.png").exists()
    with pytest.raises(UserError, match="No picture in .* fits 'tag:nothing'"):
        run("sheet", folder, "--where", "tag:nothing")
    laid = run("buckets", folder, "--resolution", 256, "--batch-size", 2)
    assert len(laid["pictures"]) == 10 and laid["steps"] == sum(line["batches"] for line in laid["buckets"])
    assert {(p["repeats"], p["scale"] > 0.8) for p in laid["pictures"]} == {(1, True)}
    (folder / "3_moss").mkdir()
    (folder / "0.png").rename(folder / "3_moss/0.png")
    laid = run("buckets", folder, "--repeats", 2, "--dry-run")
    assert {p["file"]: p["repeats"] for p in laid["pictures"]}["3_moss/0.png"] == 3
    assert sum(line["examples"] for line in laid["buckets"]) == 3 + 9 * 2
    (folder / "3_moss/0.png").rename(folder / "0.png")
    assert run("buckets", folder, "--suggest")[0]["lost"] <= 0.2
    assert "steps an epoch" in run("buckets", folder, json_too=False)
    assert run("prepare", folder, "--to", tmp_path / "new", "--dry-run")["would_make"] == 10
    made = run("prepare", folder, "--to", tmp_path / "new", "--crop", "salient", "--ratio", "1:1")
    assert len(made) == 10 and all(one["scaled"][0] == one["scaled"][1] for one in made)
