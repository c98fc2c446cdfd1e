"""The check finds what is wrong, says what to do, and its score moves the right way."""

import random

import pytest
from PIL import Image, ImageDraw, ImageFilter

from trainer.dataset import health, images
from trainer.errors import UserError


def draw(path, size=(512, 512), colour=0):
    Image.new("RGB", size, (colour, 0, 0)).save(path)
    return path


@pytest.fixture
def good(tmp_path):
    for number in range(8):
        draw(tmp_path / f"{number}.png", colour=number)
        (tmp_path / f"{number}.txt").write_text("moss, hat")
    return tmp_path


def kinds(report, name):
    return {finding.kind for finding in report.findings if finding.file and finding.file.name == name}


def test_a_good_folder_has_nothing_to_say(good):
    report = health.check(good, trigger="moss")
    assert (report.score, report.reasons, report.findings, report.ready) == (100, [], [], True)


def test_each_kind_is_found(good):
    (good / "0.txt").unlink()
    (good / "1.txt").write_text(" ")
    (good / "2.txt").write_text("a hat")
    (good / "3.txt").write_bytes(b"caf\xe9")
    (good / "4.txt").write_bytes("moss".encode("utf-16"))
    draw(good / "4.jpg", colour=44)
    draw(good / "copy.png", colour=5)
    draw(good / "tiny.png", (200, 200))
    draw(good / "long.png", (3000, 300), colour=9)
    (good / "broken.png").write_bytes(b"")
    (good / "phone.HEIC").write_bytes(b"x")
    (good / "lost.txt").write_text("x")
    frames = [Image.new("RGB", (512, 512), colour) for colour in ("red", "blue")]
    frames[0].save(good / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (512, 512)).save(good / "clear.png")
    report = health.check(good, trigger="moss")
    expected = {
        "0.png": {"no caption"},
        "1.png": {"empty caption"},
        "2.png": {"trigger missing"},
        "3.png": {"caption unreadable"},
        "4.png": {"caption shared", "encodings"},
        "copy.png": {"no caption", "duplicate"},
        "tiny.png": {"no caption", "small"},
        "long.png": {"no caption", "extreme"},
        "broken.png": {"broken"},
        "phone.HEIC": {"foreign"},
        "lost.txt": {"orphan"},
        "moving.gif": {"no caption", "animated", "odd colours"},
        "clear.png": {"no caption", "alpha", "odd colours"},
    }
    for name, wanted in expected.items():
        assert kinds(report, name) == wanted, name
    assert not report.ready and report.score < 60
    assert [finding.severity for finding in report.findings] == sorted(
        (finding.severity for finding in report.findings), key=["error", "warning", "hint"].index
    )
    assert all(finding.kind in health.KINDS for finding in report.findings)
    assert "−16: no caption (6 of 15 pictures)" in report.reasons
    assert all("\n" not in str(finding) and ".." not in str(finding) for finding in report.findings)


@pytest.mark.parametrize("text", ["Moss, hat", "a photo of moss.", "hat, moss", "moss"])
def test_the_trigger_may_stand_in_a_sentence(good, text):
    (good / "0.txt").write_text(text)
    assert health.check(good, trigger="moss").score == 100


@pytest.mark.parametrize("text", ["mossy ground", "a hat"])
def test_part_of_a_word_is_no_trigger(good, text):
    (good / "0.txt").write_text(text)
    assert kinds(health.check(good, trigger="moss"), "0.png") == {"trigger missing"}


def test_more_trouble_never_scores_better(good):
    scores = [health.check(good).score]
    for number in range(8):
        (good / f"{number}.txt").unlink()
        scores.append(health.check(good).score)
    assert scores == sorted(scores, reverse=True) and scores[-1] == 60


def test_few_pictures_are_a_hint(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")
    report = health.check(tmp_path)
    assert [finding.kind for finding in report.findings] == ["few pictures"] and report.ready
    assert report.reasons == ["−10: few pictures (1 of 1 picture)"]


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        health.check(tmp_path / "nowhere")


def scene(path, size=(512, 512), seed=0, blur=0, **options):
    rng = random.Random(seed)
    picture = Image.new("RGB", size, (120 + seed, 120, 120))
    for _ in range(30):
        box = sorted(rng.choices(range(size[0]), k=2)), sorted(rng.choices(range(size[1]), k=2))
        corners = (box[0][0], box[1][0], box[0][1] + 1, box[1][1] + 1)
        ImageDraw.Draw(picture).rectangle(corners, fill=tuple(rng.choices(range(256), k=3)))
    picture.filter(ImageFilter.GaussianBlur(blur)).save(path, **options)
    return picture


def test_what_pictures_show_is_looked_at(tmp_path):
    for seed in range(12):
        scene(tmp_path / f"{seed}.png", seed=seed)
    scene(tmp_path / "again.jpg", seed=3, quality=60)
    scene(tmp_path / "soft.png", seed=20, blur=6)
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(tmp_path / "lying.jpg", seed=30, exif=exif)
    Image.effect_noise((512, 512), 20).point(lambda v: v // 9).save(tmp_path / "night.png")
    report = health.check(tmp_path)
    bare = {"no caption"}
    assert kinds(report, "again.jpg") | kinds(report, "3.png") == bare | {"near duplicate"}
    assert kinds(report, "soft.png") == bare | {"blurry"}
    assert kinds(report, "lying.jpg") == bare | {"turned"}
    assert "odd colours" in kinds(report, "night.png")
    assert all(kinds(report, f"{seed}.png") == bare for seed in range(12) if seed != 3)


def test_what_captions_say_is_looked_at(good):
    for number in range(8, 11):
        draw(good / f"{number}.png", colour=number)
    for number in range(11):
        (good / f"{number}.txt").write_text(f"moss, blue hair, red hat, pose {number}")
    (good / "1.txt").write_text("moss, blue hair, red hat, pose 0")
    (good / "2.txt").write_text("moss, " + ", ".join(f"thing {n}" for n in range(30)))
    report = health.check(good, trigger="moss")
    assert kinds(report, "1.png") == {"repeated caption"} and kinds(report, "2.png") == {"long caption"}
    folder = [finding.what for finding in report.findings if finding.kind == "unbalanced"]
    assert folder == ["'red hat' is in 10 of 11 captions, so it is learned along with the subject"]


def test_the_index_spares_the_second_check_all_reading(good, monkeypatch):
    first = health.check(good)
    monkeypatch.setattr(images, "_decode", None)
    assert health.check(good) == first
