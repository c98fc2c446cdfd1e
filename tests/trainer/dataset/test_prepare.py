"""New folders of pictures: what is in them, from what, and that the old folder is only read."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainer.dataset import buckets, crops, images, prepare, sheet, splitting, suggest
from trainer.dataset.images import Picture
from trainer.dataset.measure import Looks
from trainer.errors import UserError


def spot(size, at):
    """A plain picture with one detailed place."""
    picture = Image.new("RGB", size, (200, 200, 200))
    picture.paste(Image.effect_noise((60, 60), 120).convert("RGB"), at)
    return picture


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    spot((400, 200), (330, 70)).save(folder / "right.png")
    (folder / "right.txt").write_bytes("hat\r\n".encode("utf-16"))
    exif = Image.Exif()
    exif[0x0112] = 6
    spot((400, 200), (10, 70)).save(folder / "lying.jpg", exif=exif, quality=95)
    alpha = Image.new("L", (100, 100), 255)
    alpha.paste(0, (0, 0, 50, 100))
    cut = spot((100, 100), (20, 20))
    cut.putalpha(alpha)
    cut.save(folder / "cut.webp", lossless=True)
    frames = [Image.new("RGB", (40, 40), (0, 0, 25 * number)) for number in range(10)]
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:])
    Image.new("RGB", (40, 40)).save(folder / "Right.jpg")
    return folder


def stamps(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir() if not p.name.startswith(".")}


def test_everything_is_upright_srgb_and_its_origin_known(folder, tmp_path):
    before = stamps(folder)
    made = prepare.prepare(folder, tmp_path / "new", prepare.Recipe(masks=True, frames=3))
    assert stamps(folder) == before
    names = {path.name for path in images.find(tmp_path / "new")}
    assert names == {"right-png.png", "Right-jpg.png", "lying.png", "cut.png"} | {
        f"moving-{n:03}.png" for n in (0, 3, 6)
    }
    lines = [json.loads(line) for line in (tmp_path / "new/provenance.jsonl").read_text().splitlines()]
    assert len(lines) == len(made) == 7
    by_file = {line["file"]: line for line in lines}
    assert by_file["lying.png"]["sha256"] == hashlib.sha256((folder / "lying.jpg").read_bytes()).hexdigest()
    assert Image.open(tmp_path / "new/lying.png").size == (200, 400)
    assert Image.open(tmp_path / "new/moving-006.png").getpixel((5, 5)) == (0, 0, 150)
    mask = Image.open(tmp_path / "new/.masks/cut.png")
    assert mask.mode == "L" and (mask.getpixel((10, 10)), mask.getpixel((90, 10))) == (0, 255)
    assert by_file["cut.png"]["mask"] and not (tmp_path / "new/.masks/lying.png").exists()
    assert (tmp_path / "new/right-png.txt").read_bytes() == (folder / "right.txt").read_bytes()


def test_crops(folder, tmp_path):
    picture = images.open_rgb(folder / "right.png")
    assert crops.centre(picture, 1.0) == (100, 0, 300, 200)
    left, top, right, bottom = crops.salient(picture, 1.0)
    assert (top, bottom, right - left) == (0, 200, 200) and left <= 330 and right >= 390
    assert crops.salient(picture.transpose(Image.Transpose.ROTATE_90), 1.0)[1] <= 10
    assert crops.salient(Image.new("RGB", (30, 10)), 1.0) == (10, 0, 20, 10)
    assert crops.salient(picture, 2.0) == (0, 0, 400, 200)
    made = prepare.prepare(folder, tmp_path / "new", prepare.Recipe(crop="salient", ratio="1:1", longest=50))
    assert {one.scaled for one in made} == {(50, 50), (40, 40)}
    bucketed = prepare.Recipe(crop="centre", resolution=128)
    assert prepare.shape(bucketed, 400, 200) == 128 / 64 or prepare.shape(bucketed, 400, 200) > 1


def test_what_cannot_be_prepared_is_said_before_anything_is_written(folder, tmp_path):
    for recipe, said in [
        (prepare.Recipe(crop="faces"), "did you mean 'face'"),
        (prepare.Recipe(crop="face", detector="none.onnx"), "none at none.onnx"),
        (prepare.Recipe(crop="centre", ratio="wide"), "no shape"),
        (prepare.Recipe(crop="centre", ratio="1:0"), "no shape"),
    ]:
        with pytest.raises(UserError, match=said):
            prepare.prepare(folder, tmp_path / "new", recipe)
    with pytest.raises(UserError, match="is there already"):
        prepare.prepare(folder, folder, prepare.Recipe())
    with pytest.raises(UserError, match="lies in the folder"):
        prepare.prepare(folder, folder / "new", prepare.Recipe())
    assert not (tmp_path / "new").exists()


def test_an_upscaler_fills_the_bucket_of_what_is_smaller_than_it(folder, tmp_path):
    asked = []

    def enlarge(picture, size):
        asked.append((picture.size, size))
        return picture.resize(size)

    upscaler = prepare.Upscaler("net.pth", enlarge)
    recipe = prepare.Recipe(masks=True, resolution=128)
    made = {one.source: one for one in prepare.prepare(folder, tmp_path / "new", recipe, upscaler=upscaler)}
    assert asked == [((100, 100), (128, 128)), ((40, 40), (128, 128)), ((40, 40), (128, 128))]
    assert made["cut.webp"].scaled == (128, 128) and made["cut.webp"].steps == ("enlarged 1.28 times by net.pth",)
    assert made["right.png"].scaled == (400, 200) and made["right.png"].steps == ()
    assert Image.open(tmp_path / "new/.masks/cut.png").size == (128, 128)


def test_the_new_folder_is_whole_or_not_there(folder, tmp_path):
    def interrupted(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(folder, tmp_path / "new", prepare.Recipe(), progress=interrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


# ── held-out split ──────────────────────────────────────────────────────────────────────────────────────


def pictures(groups):
    """Group sizes -> pictures; those of a group have one fingerprint."""
    rng = np.random.default_rng(0)
    found = []
    for group, number in enumerate(groups):
        looks = Looks(rng.bytes(16), b"\0" * 48, 1.0)
        found += [Picture(f"{group}-{n}", 8, 8, f"{group:02}-{n}", looks=looks) for n in range(number)]
    return found


@pytest.mark.parametrize("groups", [[1] * 20, [5, 1, 1, 1, 2, 10], [9, 1], [4, 4]])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_what_shows_the_same_stays_on_one_side(groups, share):
    everything = pictures(groups)
    for seed in range(5):
        kept, held = splitting.split(everything, share, seed=seed)
        assert kept and held and sorted(kept + held, key=str) == sorted(everything, key=str)
        assert not {p.path[:2] for p in kept} & {p.path[:2] for p in held}
        shuffled = splitting.split(everything[::-1], share, seed=seed)[1]
        assert {p.path for p in shuffled} == {p.path for p in held}


def test_the_share_is_met_and_the_seed_counts():
    everything = pictures([1] * 50)
    draws = {tuple(p.path for p in splitting.split(everything, 0.2, seed=seed)[1]) for seed in range(5)}
    assert len(draws) == 5 and {len(draw) for draw in draws} == {10}
    with pytest.raises(UserError, match="between 0 and 1"):
        splitting.split(everything, 1.0)
    with pytest.raises(UserError, match="something different"):
        splitting.split(pictures([3]), 0.5)


# ── sheet and suggestion ────────────────────────────────────────────────────────────────────────────────


def test_a_sheet_shows_every_picture_whole(folder, tmp_path):
    found = images.scan(folder)
    placements = {p.path: buckets.place(p.width, p.height, [(64, 64)]) for p in found}
    plain = Image.open(sheet.contact_sheet(found, tmp_path / "a.png", side=64, columns=2))
    veiled = Image.open(sheet.contact_sheet(found, tmp_path / "b.jpg", side=64, columns=2, placements=placements))
    assert plain.size == veiled.size == (8 + 2 * 72, 8 + 3 * 86)
    assert np.abs(np.asarray(plain, int) - np.asarray(veiled, int)).max() > 40
    with pytest.raises(UserError, match="written as .png"):
        sheet.contact_sheet(found, tmp_path / "a.txt")


def test_long_names_fit():
    draw = ImageDraw.Draw(Image.new("RGB", (8, 8)))
    font = sheet.ImageFont.load_default(11)
    label = sheet._label(draw, "a very long name of a picture.png", font, 60)
    assert draw.textlength(label, font=font) <= 60 and label.startswith("a") and label.endswith("g") and "…" in label


def test_suggestions_lose_least_first():
    found = suggest.suggest([(1024, 1024)] * 3)
    assert found[0].resolution == 1024 and found[0].lost == 0 and found[0].enlarged == 0
    assert suggest.suggest([(600, 600)])[0].resolution == 576
    panorama = suggest.suggest([(4000, 1000)] * 3, resolutions=[512])
    assert panorama[0].lost <= panorama[-1].lost
    assert [one.cost for one in found] == sorted(one.cost for one in found)
