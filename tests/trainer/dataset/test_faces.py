"""Faces in the layouts of YOLO and YuNet, on miniature models that take a red square for a face."""

import detectors
import numpy as np
import pytest
from PIL import Image

from trainer.dataset import crops, faces, fixes, health, prepare
from trainer.dataset.faces import Face, Faces
from trainer.errors import UserError


def near(box, wanted, by):
    return all(abs(one - other) <= by for one, other in zip(box, wanted))


def test_yolo_boxes_come_back_in_pixels_of_the_picture(tmp_path):
    found = Faces(str(detectors.yolo(tmp_path / "face.onnx")))
    # 1280×320 is seen at half its size.
    [face] = found.find(detectors.scene((1280, 320), (640, 128)))
    assert near(face.box, (640, 128, 704, 192), 1) and face.side == 64 and face.score > 0.9
    assert found.find(detectors.scene((1280, 320))) == []
    [tall] = found.find(detectors.scene((320, 1280), (0, 1216)))
    assert near(tall.box, (0, 1216, 64, 1280), 1)


def test_yunet_is_fed_blue_first_and_decoded(tmp_path):
    found = Faces(str(detectors.yunet(tmp_path / "yunet.onnx")))
    # Boxes of half a cell, their middle at (0.5, 0.25) of the cell that begins at (640, 128).
    [face] = found.find(detectors.scene((1280, 1280), (640, 128)))
    assert near(face.box, (656, 128, 688, 160), 1) and face.score == pytest.approx(1, abs=0.05)
    assert found.find(detectors.scene((1280, 1280), (640, 128), back=(0, 0, 255))) != []
    blue = detectors.scene((1280, 1280))
    blue.paste((0, 0, 255), (640, 128, 704, 192))
    assert found.find(blue) == []


def test_sizes_of_the_file_are_used(tmp_path):
    found = Faces(str(detectors.yolo(tmp_path / "face.onnx", 320, 192)))
    [face] = found.find(detectors.scene((640, 384), (64, 64)))
    assert near(face.box, (64, 64, 128, 128), 1)
    open_sides = Faces(str(detectors.yolo(tmp_path / "open.onnx", open_sides=True)))
    assert len(open_sides.find(detectors.scene((640, 640), (64, 64), 32))) == 1


def test_of_boxes_on_one_another_the_surest_stays():
    rows = np.array([[50, 50, 20, 20, 0.9], [52, 50, 20, 20, 0.8], [80, 50, 20, 20, 0.7]])
    assert [row[4] for row in faces._apart(rows, 0.5)] == [0.9, 0.7]
    assert len(faces._apart(rows, 0.9)) == 3


def test_other_models_and_missing_ones_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is none at models/faces/face_detect_v1.4_s.onnx: put one there"):
        Faces()
    with pytest.raises(UserError, match="none at nowhere.onnx"):
        Faces("nowhere.onnx")
    with pytest.raises(UserError, match="is no face detector that can be used"):
        Faces(str(detectors.matting(tmp_path / "mask.onnx")))
    with pytest.raises(UserError, match=r"gives values of shape \[1, 84, 2\], which is no face detector"):
        Faces(str(detectors.yolo(tmp_path / "things.onnx", rows=84))).find(detectors.scene((640, 640)))
    detectors.yolo(tmp_path / "models/faces/mine.onnx")
    assert Faces().name == "mine.onnx"


# ── what they are for ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def detector(tmp_path):
    return str(detectors.yolo(tmp_path / "face.onnx"))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    detectors.scene((1280, 1280), (960, 192)).save(folder / "far.png")  # 64 px, 26 of 512
    detectors.scene((640, 640), (320, 192), 128).save(folder / "near.png")
    detectors.scene((640, 640)).save(folder / "none.png")
    return folder


def test_faces_that_get_too_small_are_found_and_the_crop_closer_mends_it(folder, detector):
    def small(**more):
        return [f for f in health.check(folder, resolution=256, **more).findings if f.kind == "small face"]

    found = Faces(detector)
    assert small() == []
    told = []
    small_ones = small(faces=found, progress=lambda *done: told.append(done))
    assert [finding.file.name for finding in small_ones] == ["far.png", "near.png"] and told[-1] == (3, 3)
    assert "13 pixels" in small_ones[0].what and "51 pixels" in small_ones[1].what
    assert health.check(folder, resolution=256, faces=found).score < health.check(folder, resolution=256).score
    settings = fixes.Settings(resolution=256, faces=found)
    fixes.apply(folder, fixes.plan("small face", small_ones, settings))
    cut = Image.open(folder / "far.png")
    assert cut.size == (256, 256) and cut.getpixel((128, 128)) == detectors.RED
    assert small(faces=found) == []
    fixes.apply(folder, fixes.plan("small face", small_ones, settings))  # nothing is left to cut
    assert Image.open(folder / "far.png").size == (256, 256)
    with pytest.raises(UserError, match="--detector"):
        fixes.plan("small face", small_ones)


def test_long_pictures_are_mended_around_the_face(tmp_path, detector):
    picture = detectors.scene((2000, 320), (1800, 128))
    picture.paste(Image.effect_noise((300, 300), 120).convert("RGB"), (20, 10))
    for name, seen in (("face", Faces(detector)), ("salient", None)):
        folder = tmp_path / name
        folder.mkdir()
        picture.save(folder / "long.png")
        fixes.apply(folder, fixes.plan("extreme", health.check(folder).findings, fixes.Settings(faces=seen)))
        cut = Image.open(folder / "long.png")
        assert cut.width < 1400 and (detectors.RED in {color for _, color in cut.getcolors(10**6)}) == (name == "face")


def test_windows_keep_the_face_in_the_middle_as_far_as_edges_allow():
    face = Face((500, 20, 540, 60), 1.0)
    assert crops.around(face, (1000, 400), (400, 400)) == (320, 0, 720, 400)
    assert crops.around(Face((0, 0, 10, 10), 1.0), (1000, 400), (400, 400)) == (0, 0, 400, 400)
    assert crops.around(Face((990, 390, 1000, 400), 1.0), (1000, 400), (400, 400)) == (600, 0, 1000, 400)
    assert crops.close(face, (1000, 400), 256) == (392, 0, 648, 256)
    assert crops.close(Face((500, 20, 600, 60), 1.0), (1000, 400), 256) is None


def test_cropped_around_the_face_and_without_one_where_most_is_to_be_seen(tmp_path, detector):
    folder = tmp_path / "wide"
    folder.mkdir()
    detectors.scene((1280, 320), (896, 128)).save(folder / "face.png")
    plain = detectors.scene((1280, 320))
    plain.paste(Image.effect_noise((100, 100), 120).convert("RGB"), (20, 100))
    plain.save(folder / "plain.png")
    recipe = prepare.Recipe(crop="face", ratio="1:1", detector=detector)
    face, plain = prepare.prepare(folder, tmp_path / "new", recipe)
    assert near(face.crop, (768, 0, 1088, 320), 1) and "by face.onnx" in face.steps[0] and face.notes == ()
    assert plain.crop[0] <= 20 and plain.steps == () and "no face was found" in plain.notes[0]
