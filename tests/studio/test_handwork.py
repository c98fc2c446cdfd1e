"""Crop and mask by hand: what the browser sends is checked, kept and written, and the page around it."""

import base64
import io
import json

import pytest
from PIL import Image
from trainees import draw_pictures

from studio import cutting, handwork, jobs
from trainer.dataset import byhand, captions, images
from trainer.errors import UserError


@pytest.fixture
def folder(here):
    return draw_pictures(here / "datasets" / "moss")


def sent(picture: Image.Image, kind: str = "PNG") -> str:
    content = io.BytesIO()
    picture.save(content, format=kind)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def test_box_and_mask_are_kept(folder):
    mask = Image.new("L", (96, 96), 255)
    mask.paste(0, (0, 0, 48, 96))
    said = handwork.save(folder, {"id": "00.png", "box": [0, 0, 48, 96], "mask": sent(mask)})
    assert said == "Saved the mask of 00.png. Noted the crop of 00.png."
    assert handwork.boxes(folder) == {"00.png": (0, 0, 48, 96)}
    assert byhand.mask_of(folder, "00.png").tobytes() == mask.tobytes()
    assert handwork.save(folder, {"id": "00.png", "box": [0, 0, 48, 96]}) == ""
    # White all over is no mask, the whole picture no crop.
    white = {"id": "00.png", "box": None, "mask": sent(Image.new("RGB", (96, 96), "white"))}
    with pytest.raises(UserError, match="changed elsewhere"):  # painted over none, in another tab
        handwork.save(folder, white)
    handwork.save(folder, white | {"version": handwork.version(folder, "00.png")})
    assert handwork.boxes(folder) == {} and byhand.mask_of(folder, "00.png") is None


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../moss/00.png", "box": [0, 0, 48, 96]},
        {"id": "../../secret.png", "mask": sent(Image.new("L", (96, 96)))},
        {"id": "00.png", "box": [0, 0, 97, 96]},
        {"id": "00.png", "box": "all of it"},
        {"id": "00.png", "box": [0, 0]},
        {"id": "00.png", "mask": "data:image/png;base64,AAAA"},
        {"id": "00.png", "mask": "data:image/svg+xml;base64,AAAA"},
        {"id": "00.png", "mask": sent(Image.new("L", (96, 96), 9), "JPEG")},
        {"id": "00.png", "mask": sent(Image.new("L", (1601, 1601), 9))},
        {"id": "00.png", "mask": 7},
    ],
)
def test_what_is_no_box_or_mask_is_refused(folder, change):
    with pytest.raises(UserError):
        handwork.save(folder, change)
    assert handwork.boxes(folder) == {} and not (folder / ".masks").exists()


def test_a_damaged_file_of_boxes_counts_as_none(folder, here):
    (here / ".studio/boxes").mkdir(parents=True)
    for text in ("[1]", "{", '{"00.png": [1, "x", 2, 3]}'):
        (here / ".studio/boxes/moss.json").write_text(text)
        assert handwork.boxes(folder) == {}


def test_the_worker_writes_the_new_folder_and_forgets_the_boxes(folder, here, monkeypatch, capsys):
    for name in ("00.png", "gone.png"):
        Image.new("RGB", (96, 96)).save(folder / name)
        handwork.set_box(folder, name, [0, 0, 40, 96])
    (folder / "gone.png").unlink()
    monkeypatch.setenv("LORA_STUDIO_PROGRESS", str(here / "progress.json"))
    relative = folder.relative_to(here)
    assert cutting.main(relative, relative.with_name("new"), others=True) == 0
    assert {path.name: Image.open(path).size for path in images.find(here / "datasets/new")}["00.png"] == (40, 96)
    assert len(images.find(here / "datasets/new")) == 5 and handwork.boxes(folder) == {}
    assert json.loads((here / "progress.json").read_text()) == {"done": 5, "total": 5}
    assert captions.caption_of(here / "datasets/new/00.png") == captions.caption_of(folder / "00.png")
    handwork.set_box(folder, "00.png", [0, 0, 40, 96])
    assert cutting.main(relative, relative.with_name("new"), others=True) == 1
    assert "is there already" in capsys.readouterr().out and handwork.boxes(folder)


def test_the_page_offers_the_crops_that_wait(open_page, words, folder, monkeypatch):
    commands = []
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda command, **_: commands.append(command))
    handwork.set_box(folder, "01.png", [0, 0, 40, 96])
    page = open_page("dataset", dataset="moss")
    assert page.text_input(key="crop to moss").value == "moss-cropped"
    page.text_input(key="crop to moss").set_value("../outside").run()
    page.button(key="crop").click().run()
    assert commands == [] and "plain name" in page.toast[0].value
    assert not page.toast[0].proto.duration  # no time at which it goes by itself
    page.text_input(key="crop to moss").set_value("moss close").run()
    page.checkbox(key="crop others moss").uncheck().run()
    page.button(key="crop").click().run()
    assert not page.exception and commands[0][4:] == ["crop", "datasets/moss", "datasets/moss close", "--only"]


def test_crops_are_forgotten_when_asked(open_page, folder):
    handwork.set_box(folder, "01.png", [0, 0, 40, 96])
    page = open_page("dataset", dataset="moss")
    page.button(key="forget crops").click().run()
    assert not page.exception and handwork.boxes(folder) == {}
    assert not [button for button in page.button if button.key == "crop"]


def test_one_picture_alone_and_one_that_is_gone(open_page, words, folder):
    page = open_page("dataset", dataset="moss", picture="02.png")
    assert "moss / 02.png" in words(page) and not page.title
    page = open_page("dataset", dataset="moss", picture="../../secret.png")
    assert not page.exception and page.title[0].value == "Dataset"
