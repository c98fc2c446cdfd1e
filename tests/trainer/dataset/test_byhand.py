"""Crops and masks drawn by hand: which pixels stay, where the mask lies, and what training makes of it."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from trainer import checks, presets
from trainer.config import DataConfig
from trainer.dataset import aside, byhand, captions, fixes, images, masks
from trainer.dataset.findings import Finding
from trainer.errors import UserError
from trainer.examples import load_examples

LYING = "横になった 猫.jpg"


@pytest.fixture
def folder(tmp_path):
    """A picture that EXIF turns upright, one with transparency in a sub-folder, and a plain one."""
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    stored = Image.new("RGB", (200, 100), (0, 0, 255))
    stored.paste((255, 0, 0), (0, 0, 40, 100))  # upright (turned by 90° clockwise) the red is on top
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(folder / LYING, exif=exif, quality=95)
    (folder / LYING).with_suffix(".txt").write_bytes("hat\r\n".encode("utf-16"))
    cut = Image.new("RGBA", (120, 80), (0, 200, 0, 255))
    cut.paste((0, 0, 0, 0), (0, 0, 60, 80))
    cut.save(folder / "sub/cut.png")
    (folder / "sub/cut.txt").write_text("moss, cut")
    Image.new("RGB", (96, 96), (9, 9, 9)).save(folder / "plain.png")
    return folder


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".pictures")}


def test_the_box_is_of_the_upright_picture_and_the_others_come_along_whole(folder, tmp_path):
    before = contents(folder)
    made = byhand.crop(folder, tmp_path / "new", {LYING: (0, 0, 100, 40), "sub/cut.png": (50, 0, 120, 80)})
    assert contents(folder) == before
    red = Image.open(tmp_path / "new" / LYING.replace(".jpg", ".png"))
    assert red.size == (100, 40) and np.asarray(red).reshape(-1, 3).min(axis=0)[0] > 200
    cut = Image.open(tmp_path / "new/sub/cut.png")
    assert (cut.size, cut.getpixel((5, 5)), cut.getpixel((15, 5))) == ((70, 80), (255, 255, 255), (0, 200, 0))
    assert Image.open(tmp_path / "new/plain.png").size == (96, 96)
    assert captions.caption_of(tmp_path / "new" / LYING.replace(".jpg", ".png")) == "hat"
    assert captions.caption_of(tmp_path / "new/sub/cut.png") == "moss, cut"
    lines = {one["source"]: one for one in map(json.loads, (tmp_path / "new/provenance.jsonl").open())}
    assert len(lines) == len(made) == 3
    assert (lines[LYING]["crop"], lines[LYING]["size"]) == ([0, 0, 100, 40], [100, 200])
    assert lines[LYING]["sha256"] == hashlib.sha256((folder / LYING).read_bytes()).hexdigest()


def test_only_those_with_a_box(folder, tmp_path):
    byhand.crop(folder, tmp_path / "new", {"plain.png": (0, 0, 50, 96)}, others=False)
    assert [path.name for path in images.find(tmp_path / "new")] == ["plain.png"]


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ({}, "no box"),
        ({"plan.png": (0, 0, 50, 50)}, "Did you mean.*plain.png|plain.png"),
        ({"../secret.png": (0, 0, 50, 50)}, "no picture"),
        ({LYING: (0, 0, 200, 100)}, "does not lie in the 100×200 pixels"),
        ({"plain.png": (-1, 0, 50, 50)}, "does not lie"),
        ({"plain.png": (50, 0, 50, 50)}, "does not lie"),
        ({"plain.png": (0, 0, 50, 7)}, "below 8 px"),
    ],
)
def test_a_box_that_cannot_be_is_said_before_anything_is_written(folder, tmp_path, boxes, said):
    with pytest.raises(UserError, match=said):
        byhand.crop(folder, tmp_path / "new", boxes)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="is there already"):
        byhand.crop(folder, folder, {"plain.png": (0, 0, 50, 50)})


def test_a_mask_lies_where_training_reads_it_and_can_be_taken_back(folder):
    before = contents(folder)
    data = DataConfig(folder=str(folder), mask_folder=str(folder / ".masks"), resolution=64, bucket_step=32)
    half = Image.new("1", (50, 100))  # smaller than the picture, of its shape
    half.paste(1, (0, 0, 50, 20))
    path = byhand.paint_mask(folder, LYING, half)
    assert path == folder / ".masks" / LYING.replace(".jpg", ".png")
    mask = byhand.mask_of(folder, LYING)
    assert (mask.mode, mask.size) == ("L", (100, 200))
    assert (mask.getpixel((50, 10)), mask.getpixel((50, 100))) == (255, 0)
    assert {path: content for path, content in contents(folder).items() if path in before} == before
    found = {example.path.name: example for example in load_examples(data)}
    assert found[LYING].mask == path and found["plain.png"].mask is None
    assert {p.name for p in images.find(folder)} == {LYING, "plain.png", "cut.png"}

    digest = found[LYING].mask_digest
    byhand.paint_mask(folder, LYING, Image.new("L", (100, 200), 99))
    assert next(e for e in load_examples(data) if e.path.name == LYING).mask_digest != digest
    aside.undo(folder)
    assert byhand.mask_of(folder, LYING).tobytes() == mask.tobytes()
    assert byhand.remove_mask(folder, LYING) and byhand.mask_of(folder, LYING) is None
    assert not byhand.remove_mask(folder, LYING)
    aside.undo(folder)
    assert path.exists()
    captions.undo(folder)
    assert not path.exists()


def test_what_is_transparent_in_a_mask_is_not_learned(folder):
    mask = Image.new("RGBA", (96, 96), (255, 255, 255, 255))
    mask.paste((255, 255, 255, 0), (0, 0, 48, 96))
    byhand.paint_mask(folder, "plain.png", mask)
    grey = byhand.mask_of(folder, "plain.png")
    assert (grey.getpixel((5, 5)), grey.getpixel((90, 5))) == (0, 255)


@pytest.mark.parametrize(
    ("name", "size", "colour", "said"),
    [
        ("nothing.png", (96, 96), 255, "no picture 'nothing.png'"),
        ("../plain.png", (96, 96), 255, "no picture"),
        (LYING, (200, 100), 255, "must have the same shape"),
        ("plain.png", (96, 96), 0, "all black"),
    ],
)
def test_a_mask_that_cannot_be_is_not_written(folder, name, size, colour, said):
    with pytest.raises(UserError, match=said):
        byhand.paint_mask(folder, name, Image.new("L", size, colour))
    assert not (folder / ".masks").exists()


def test_masks_are_taken_over_one_look_at_the_folder(folder, tmp_path, monkeypatch):
    for number in range(20):
        Image.new("RGB", (40, 40)).save(folder / f"{number}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("L", (40, 40), 255).save(tmp_path / "masks" / f"{number}.png")
    looks, find = [], images.find
    monkeypatch.setattr(images, "find", lambda where: looks.append(where) or find(where))
    assert len(byhand.take_masks(folder, tmp_path / "masks")) == 20
    assert len(looks) < 5


def test_two_pictures_of_one_name_would_share_a_mask(folder):
    Image.new("RGB", (40, 40)).save(folder / "plain.jpg")
    with pytest.raises(UserError, match="share the mask plain.png"):
        byhand.paint_mask(folder, "plain.png", Image.new("L", (96, 96), 255))


def test_the_mask_goes_where_its_picture_goes(folder, tmp_path):
    mask = Image.new("L", (120, 80))
    mask.paste(255, (90, 0, 120, 80))
    byhand.paint_mask(folder, "sub/cut.png", mask)
    made = {one.source: one for one in byhand.crop(folder, tmp_path / "new", {"sub/cut.png": (80, 10, 120, 70)})}
    assert made["sub/cut.png"].mask and not made["plain.png"].mask
    cropped = byhand.mask_of(tmp_path / "new", "sub/cut.png")
    assert (cropped.size, cropped.getpixel((5, 5)), cropped.getpixel((15, 5))) == ((40, 60), 0, 255)

    aside.set_aside(folder, [folder / "sub/cut.png", *aside.companions(folder / "sub/cut.png")], "test")
    assert not list((folder / ".masks").rglob("*.png")) and not (folder / "sub/cut.txt").exists()
    aside.undo(folder)
    assert byhand.mask_of(folder, "sub/cut.png").tobytes() == mask.tobytes()


def test_a_fix_that_crops_the_picture_crops_its_mask(folder):
    wide = Image.new("RGB", (600, 100), (200, 200, 200))
    wide.paste(Image.effect_noise((60, 60), 120).convert("RGB"), (330, 20))
    wide.save(folder / "wide.png")
    mask = Image.new("L", (600, 100))
    mask.paste(255, (330, 20, 390, 80))
    byhand.paint_mask(folder, "wide.png", mask)
    finding = Finding("cropped", "hint", folder / "wide.png", "", "")
    fixes.apply(folder, fixes.plan("cropped", [finding], fixes.Settings(resolution=128)))
    picture, cropped = images.open_rgb(folder / "wide.png"), byhand.mask_of(folder, "wide.png")
    assert cropped.size == picture.size and picture.width == 400
    ground = np.abs(np.asarray(picture, int) - 200).max(axis=2) == 0
    assert np.asarray(cropped)[~ground].min() == 255
    aside.undo(folder)
    assert masks.of(folder, folder / "wide.png").exists() and byhand.mask_of(folder, "wide.png").size == (600, 100)


def test_masks_that_would_not_be_looked_at_are_said(folder):
    config = presets.layer({"data.folder": str(folder)})
    assert not list(checks.pictures.masks_without_effect(config, []))
    byhand.paint_mask(folder, "plain.png", Image.new("L", (96, 96), 255))
    (problem,) = checks.pictures.masks_without_effect(config, [])
    assert problem.setting == "data.mask_folder" and "would not be looked at" in problem.reason
    mended = presets.layer({"data.folder": str(folder), problem.setting: problem.suggestion})
    assert not list(checks.pictures.masks_without_effect(mended, []))
