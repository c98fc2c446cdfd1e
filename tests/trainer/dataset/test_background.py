"""Background removal with rembg's layouts, on a miniature model whose answer is the red channel it is given."""

import json

import detectors
import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from trainer.dataset import background, images, prepare
from trainer.dataset.background import MEAN, MODELS, Background
from trainer.errors import UserError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "u2net"))
    return tmp_path / "u2net"


def halves(size=(80, 40)):
    """Left half red, right half black."""
    picture = Image.new("RGB", size)
    picture.paste((250, 20, 20), (0, 0, size[0] // 2, size[1]))
    return picture


@pytest.mark.parametrize("name", MODELS)
def test_the_mask_is_the_subject_in_the_pictures_size(home, name):
    detectors.matting(home / f"{name}.onnx")
    mask = Background(name).mask(halves())
    assert mask.mode == "L" and mask.size == (80, 40)
    assert mask.getpixel((5, 20)) > 245 and mask.getpixel((75, 20)) < 10


@pytest.mark.parametrize("name", ["u2net", "isnet-anime", "birefnet-general"])
def test_each_model_is_fed_and_read_in_its_own_way(home, name):
    """Grey levels between black and white come out where that model's mean, deviation and sigmoid put them."""
    detectors.matting(home / f"{name}.onnx", side=4)
    picture = Image.new("RGB", (4, 4))
    picture.putpixel((0, 0), (200, 200, 200))  # the brightest counts as 1
    picture.putpixel((1, 0), (50, 50, 50))
    layout = MODELS[name]

    def seen(value):
        value = (value - MEAN[0]) / layout.deviation[0]
        return 1 / (1 + np.exp(-value)) if layout.logits else value

    expected = 255 * (seen(0.25) - seen(0.0)) / (seen(1.0) - seen(0.0))
    assert abs(Background(name).mask(picture).getpixel((1, 0)) - expected) <= 1
    assert expected == pytest.approx(50 if layout.logits else 64, abs=1)


def test_the_usual_size_is_taken_where_the_file_leaves_it_open(home):
    detectors.matting(home / "u2net.onnx", open_sides=True)
    found = Background("u2net")
    assert (found._see.width, found._see.height) == (320, 320)
    assert found.mask(Image.new("RGB", (9, 9))).getextrema() == (255, 255)  # nothing to tell apart


def test_half_precision_is_fed_with_half_precision(home):
    detectors.matting(home / "u2net.onnx", kind=TensorProto.FLOAT16)
    mask = Background("u2net").mask(halves())
    assert mask.getpixel((5, 20)) > 240 and mask.getpixel((75, 20)) < 15


def test_what_is_missing_or_wrong_is_one_sentence(home, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="put isnet-anime.onnx from github.com/danielgatis/rembg/.* at .*u2net/isnet"):
        Background("isnet-anime")
    with pytest.raises(UserError, match="did you mean 'isnet-anime'"):
        Background("isnet-anme")
    with pytest.raises(UserError, match="name the file as rembg does"):
        Background(str(tmp_path / "mine.onnx"))
    monkeypatch.delenv("U2NET_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert background.home() == tmp_path / "data/.u2net"
    (tmp_path / "u2net.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be loaded as an ONNX model"):
        Background(str(tmp_path / "u2net.onnx"))
    with pytest.raises(UserError, match="u2netp.onnx failed .*: take another export"):
        Background(str(detectors.matting(tmp_path / "u2netp.onnx", open_sides=True, wrong=True))).mask(halves())
    with pytest.raises(UserError, match=r"gives values of shape \[1, 5, 2\]"):
        Background(str(detectors.yolo(tmp_path / "u2netp.onnx"))).mask(halves())


# ── prepared with it ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path, home):
    detectors.matting(home / "isnet-anime.onnx")
    folder = tmp_path / "set"
    folder.mkdir()
    halves().save(folder / "a.png")
    clear = halves()
    clear.putalpha(Image.new("L", clear.size, 255))
    clear.paste((250, 20, 20, 0), (0, 0, 80, 20))
    clear.save(folder / "b.png")
    return folder


def test_masks_are_what_masked_training_reads(folder, tmp_path):
    made = prepare.prepare(folder, tmp_path / "new", prepare.Recipe(background="isnet-anime", longest=40))
    assert [one.mask for one in made] == [True, True] and made[0].scaled == (40, 20)
    mask = Image.open(tmp_path / "new/.masks/a.png")
    assert mask.mode == "L" and mask.size == (40, 20) and mask.getpixel((2, 10)) > 240 and mask.getpixel((38, 10)) < 10
    both = Image.open(tmp_path / "new/.masks/b.png")
    assert both.getpixel((2, 2)) == 0 and both.getpixel((2, 18)) > 240  # transparent parts are no subject
    assert Image.open(tmp_path / "new/a.png").mode == "RGB"
    lines = [json.loads(line) for line in (tmp_path / "new/provenance.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in lines] == [["background by isnet-anime"]] * 2


def test_cut_out_is_transparency_in_the_picture(folder, tmp_path):
    recipe = prepare.Recipe(background="isnet-anime", cut_out=True)
    assert not any(one.mask for one in prepare.prepare(folder, tmp_path / "new", recipe))
    assert not (tmp_path / "new/.masks").exists()
    picture = Image.open(tmp_path / "new/a.png")
    assert picture.mode == "RGBA" and picture.getpixel((5, 20))[:3] == (250, 20, 20)
    assert images.open_rgb(tmp_path / "new/a.png").getpixel((75, 20)) > (245, 245, 245)


def test_a_missing_model_is_said_before_anything_is_written(folder, tmp_path):
    with pytest.raises(UserError, match="put u2net.onnx"):
        prepare.prepare(folder, tmp_path / "new", prepare.Recipe(background="u2net"))
    assert not (tmp_path / "new").exists()
