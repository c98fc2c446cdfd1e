"""Frames of films that the test writes itself: which ones, how they look, and what is said of those that are none."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from trainer.dataset import frames, images
from trainer.dataset.frames import Choice
from trainer.errors import UserError


def scene(number, size=(64, 48)):
    """One of three pictures that nobody takes for one another."""
    picture = Image.new("RGB", size, [(200, 40, 40), (40, 200, 40), (40, 40, 200)][number])
    draw = ImageDraw.Draw(picture)
    for at in range(3):
        draw.rectangle((number * 9 + at * 13, at * 15, number * 9 + at * 13 + 8, at * 15 + 9), fill=(255, 255, 255))
    return picture


CUTS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]  # four frames a second, a cut every second


def animation(path, cuts=CUTS):
    first, *others = [scene(number) for number in cuts]
    # One pixel changes all the while, or Pillow would join frames that are the same.
    for at, frame in enumerate(others):
        frame.putpixel((at % 64, 47), (at, at, at))
    first.save(path, save_all=True, append_images=others, duration=250, lossless=True)
    return path


def video(path, cuts=CUTS, codec="ffv1", format="bgr0", aspect=None, size=(64, 48)):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=4)
        stream.width, stream.height = size
        stream.pix_fmt = format
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for number in cuts:
            container.mux(stream.encode(av.VideoFrame.from_image(scene(number, size))))
        container.mux(stream.encode())
    return path


@pytest.fixture(params=["webp", "mkv"])
def film(request, tmp_path):
    write = animation if request.param == "webp" else video
    return write(tmp_path / f"film.{request.param}")


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (Choice(), list(range(12))),
        (Choice(every=5), [0, 5, 10]),
        (Choice(per_second=1), [0, 4, 8]),
        (Choice(per_second=2), [0, 2, 4, 6, 8, 10]),
        (Choice(changed=True), [0, 4, 8]),
        (Choice(every=3, changed=True), [0, 6, 9]),
        (Choice(most=2), [0, 1]),
    ],
)
def test_the_frames_asked_for_are_taken(film, tmp_path, choice, wanted):
    taken = frames.split(film, tmp_path / "new", choice)
    assert [one.frame for one in taken] == wanted
    assert [one.seconds for one in taken] == pytest.approx([number / 4 for number in wanted], abs=0.01)
    for one in taken:
        picture = Image.open(tmp_path / "new" / one.file)
        assert picture.size == (64, 48) and picture.mode == "RGB"
        assert picture.getpixel((63, 0)) == scene(CUTS[one.frame]).getpixel((63, 0))
    lines = [json.loads(line) for line in (tmp_path / "new/provenance.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [path.name for path in images.find(tmp_path / "new")]
    assert {line["source"] for line in lines} == {film.name}


def test_every_film_of_a_folder_and_nothing_on_a_dry_run(tmp_path):
    folder = tmp_path / "films"
    (folder / "sub").mkdir(parents=True)
    animation(folder / "a.webp", [0, 1])
    animation(folder / "a.png", [0, 1])
    animation(folder / "sub/a.gif", [2, 0])
    scene(0).save(folder / "still.png")
    told = []
    taken = frames.split(folder, tmp_path / "new", Choice(), dry_run=True, progress=lambda *done: told.append(done))
    assert [one.file for one in taken] == [
        f"{name}-00000{number}.png" for name in ("a-png", "a-webp", "sub/a") for number in (0, 1)
    ]
    assert told[-1] == (2, 2) and not (tmp_path / "new").exists()
    assert [(one.source, one.seconds) for one in taken][-1] == ("sub/a.gif", 0.25)
    animation(folder / "a-png.webp", [0, 1])
    with pytest.raises(UserError, match="Two films would give a-png-000000.png"):
        frames.split(folder, tmp_path / "new", Choice())
    assert not (tmp_path / "new").exists()


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    film = video(tmp_path / "film.mp4", [0], "mpeg4", "yuv420p", Fraction(4, 3), (96, 96))
    [one] = frames.split(film, tmp_path / "new", Choice())
    assert one.size == (128, 96)


def test_high_definition_has_its_own_colours(tmp_path):
    """A film that does not say its colours: below 720 lines they are those of television, from there on of HDTV."""
    pytest.importorskip("av", reason="PyAV is not installed")
    import av

    def seen(height):
        frame = av.VideoFrame(64, height, "yuv420p")
        for plane, value in zip(frame.planes, (81, 90, 240)):  # red, by BT.601
            plane.update(bytes([value]) * plane.buffer_size)
        return frames._picture(frame, None).getpixel((10, 10))

    assert seen(576) == pytest.approx((255, 0, 0), abs=3) and seen(720)[1] > 15


def test_what_is_no_film_is_one_sentence(tmp_path, monkeypatch):
    scene(0).save(tmp_path / "still.png")
    with pytest.raises(UserError, match="still.png is a picture that does not move"):
        frames.split(tmp_path / "still.png", tmp_path / "new", Choice())
    with pytest.raises(UserError, match="There is no film"):
        frames.split(tmp_path / "none.mp4", tmp_path / "new", Choice())
    with pytest.raises(UserError, match="holds no video and no animated picture"):
        frames.split(tmp_path, tmp_path.with_name("new"), Choice())
    (tmp_path / "torn.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
    with monkeypatch.context() as patched:
        patched.setattr(frames, "find_spec", lambda name: None)
        with pytest.raises(UserError, match="needs PyAV, which is not installed: run pip install av"):
            frames.split(tmp_path / "torn.mp4", tmp_path / "new", Choice())
    animation(tmp_path / "film.webp")
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.txt").write_text("")
    with pytest.raises(UserError, match="is there already"):
        frames.split(tmp_path / "film.webp", tmp_path / "films", Choice())
    pytest.importorskip("av", reason="PyAV is not installed")
    with pytest.raises(UserError, match="torn.mp4 cannot be read after 0 frames"):
        frames.split(tmp_path / "torn.mp4", tmp_path / "new", Choice())
    assert not (tmp_path / "new").exists()


def test_a_name_that_is_a_protocol_is_a_name(tmp_path, monkeypatch):
    video(tmp_path / "inside.mkv", [0, 1])
    (tmp_path / "inside.mkv").rename(tmp_path / "concat:inside.mkv")
    monkeypatch.chdir(tmp_path)
    assert len(frames.split(Path("concat:inside.mkv"), tmp_path / "new", Choice())) == 2


def test_a_film_that_breaks_off_keeps_what_came_before(tmp_path):
    film = video(tmp_path / "film.mkv", [at % 3 for at in range(200)])
    content = film.read_bytes()
    film.write_bytes(content[: len(content) // 2])
    taken = frames.split(film, tmp_path / "new", Choice(every=10))
    assert 5 < len(taken) < 15 and len(images.find(tmp_path / "new")) == len(taken)
