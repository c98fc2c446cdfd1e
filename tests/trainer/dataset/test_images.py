"""Real files, most of them hostile, through the scanner and the opener."""

import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from trainer.dataset import buckets, images
from trainer.errors import UserError


def noise(width=48, height=32, seed=0) -> Image.Image:
    """Does not compress, so that a cut file is really cut."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width=60_000, height=60_000) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 99))


def close(image: Image.Image, expected, tolerance=2) -> bool:
    return bool(np.abs(np.asarray(image, int) - np.asarray(expected, int)).max() <= tolerance)


def test_natural_order_any_case_subfolders_and_nothing_hidden(tmp_path):
    hidden, others = [".hidden.png", ".masks/1.png"], ["note.txt", "b/x.caption"]
    for name in ["10.png", "2.PNG", "b/1.JpEg", "a.webp", *hidden, *others]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for path in images.find(tmp_path)]
    assert found == ["2.PNG", "10.png", "a.webp", "b/1.JpEg"]


def test_a_link_back_to_the_parent_ends(tmp_path):
    noise().save(tmp_path / "a.png")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [path.name for path in images.find(tmp_path)] == ["a.png"]


def test_missing_folder_file_and_empty_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        images.scan(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        images.scan(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"\.avif count, and it holds 1 \.txt"):
        images.scan(tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match="no files at all"):
        images.scan(tmp_path)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "tif", "bmp"])
def test_a_truncated_picture_is_found(tmp_path, ending):
    whole = tmp_path / f"whole.{ending}"
    noise(200, 200).save(whole)
    (tmp_path / f"cut.{ending}").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=f"cut.{ending} ") as caught:
        images.scan(tmp_path)
    assert "whole" not in str(caught.value) and "\n" not in str(caught.value)


def test_every_broken_file_is_counted_and_the_first_five_named(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(b"")
    noise().save(tmp_path / "good.png")
    with pytest.raises(UserError) as caught:
        images.scan(tmp_path)
    sentence = str(caught.value)
    assert "7 pictures" in sentence and "0.png is empty (0 bytes)" in sentence and "and 2 more" in sentence
    pictures, broken = images.survey(tmp_path)
    assert [p.path.name for p in pictures] == ["good.png"] and len(broken) == 7


def test_text_and_other_formats_under_a_picture_ending(tmp_path):
    (tmp_path / "page.png").write_text("<html>not found</html>")
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")
    _, broken = images.survey(tmp_path)
    assert [b.reason for b in broken] == ["is not a picture, whatever its ending says"] * 2


def test_a_picture_under_a_wrong_ending_is_used(tmp_path):
    noise().save(tmp_path / "a.png", format="JPEG")
    assert images.scan(tmp_path)[0].width == 48


@pytest.mark.parametrize("size", [(60_000, 60_000), (14_000, 13_000)])
def test_a_bomb_is_refused_from_its_header(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(bomb(*size))
    with pytest.raises(UserError, match="bomb.png claims .*179 million"):
        images.scan(tmp_path)
    with pytest.raises(UserError, match="bomb.png"):
        images.open_rgb(tmp_path / "bomb.png")


def test_random_damage_never_escapes_as_another_error(tmp_path):
    rng = random.Random(0)
    for ending in ["png", "jpg", "gif", "webp", "tif", "bmp", "avif"]:
        path = tmp_path / f"a.{ending}"
        noise().save(path)
        whole = path.read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 20)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(data)
            pictures, broken = images.survey(tmp_path)
            assert len(pictures) + len(broken) == 1
            if pictures:  # what the scan accepts, the opener opens, at the size that the scan said
                assert images.open_rgb(path).size == (pictures[0].width, pictures[0].height)
        path.unlink()


@pytest.mark.parametrize(
    "name", ["two words.png", "🐈‍⬛.png", "קטן.png", "line\nbreak.png", "\u202egnp.png", "é,;'\".png"]
)
def test_odd_names(tmp_path, name):
    noise().save(tmp_path / name, format="PNG")
    assert images.scan(tmp_path)[0].path.name == name
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        images.scan(tmp_path)
    assert "\n" not in str(caught.value) and "\u202e" not in str(caught.value)


def test_a_name_that_is_no_unicode(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    noise().save(path, format="PNG")
    assert images.scan(tmp_path)[0].path == path
    path.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        images.scan(tmp_path)
    str(caught.value).encode()  # can be printed


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_exif_rotation(tmp_path, orientation, ending):
    # One red corner tells all eight orientations apart together with the swapped sides and a green edge.
    stored = Image.new("RGB", (40, 24), "black")
    stored.paste("red", (0, 0, 8, 8))
    stored.paste("lime", (32, 0, 40, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(ending, {})
    stored.save(tmp_path / f"a.{ending}", exif=exif, **options)
    picture = images.scan(tmp_path)[0]
    shown = images.open_rgb(picture.path)
    assert shown.size == (picture.width, picture.height) == ((24, 40) if orientation >= 5 else (40, 24))
    # EXIF 2.32: where the stored row 0 and column 0 are on the screen.
    right, bottom = shown.width - 4, shown.height - 4
    red = {1: (4, 4), 2: (right, 4), 3: (right, bottom), 4: (4, bottom)}
    red |= {5: (4, 4), 6: (right, 4), 7: (right, bottom), 8: (4, bottom)}
    green = {1: (right, 4), 2: (4, 4), 3: (4, bottom), 4: (right, bottom)}
    green |= {5: (4, bottom), 6: (right, bottom), 7: (right, 4), 8: (4, 4)}
    assert close(shown.getpixel(red[orientation]), (255, 0, 0), 12)
    assert close(shown.getpixel(green[orientation]), (0, 255, 0), 12)
    assert not shown.info and not shown.getexif()


def test_alpha_goes_on_white(tmp_path):
    picture = Image.new("RGBA", (4, 1), (200, 0, 0, 255))
    picture.putpixel((1, 0), (200, 0, 0, 0))
    picture.putpixel((2, 0), (200, 0, 0, 128))
    for ending in ["png", "webp", "tif"]:
        options = {"lossless": True, "exact": True} if ending == "webp" else {}
        picture.save(tmp_path / f"a.{ending}", **options)
        shown = images.open_rgb(tmp_path / f"a.{ending}")
        expected = [[(200, 0, 0), (255, 255, 255), (227, 127, 127), (200, 0, 0)]]
        assert close(shown, expected), ending
    assert all(p.has_alpha for p in images.scan(tmp_path))


def test_an_alpha_channel_that_hides_nothing_is_no_alpha(tmp_path):
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(tmp_path / "a.png")
    assert not images.scan(tmp_path)[0].has_alpha


@pytest.mark.parametrize("mode", ["LA", "1", "L"])
def test_grey_modes(tmp_path, mode):
    picture = Image.new(mode, (2, 1), {"LA": (60, 255), "1": 1, "L": 60}[mode])
    if mode == "LA":
        picture.putpixel((1, 0), (60, 0))
    picture.save(tmp_path / "a.png")
    first, second = {"LA": (60, 255), "1": (255, 255), "L": (60, 60)}[mode]
    assert close(images.open_rgb(tmp_path / "a.png"), [[[first] * 3, [second] * 3]], 0)


def test_palette_with_transparency(tmp_path):
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png", transparency=0)
    picture.save(tmp_path / "b.png", transparency=bytes([255, 0]))
    assert close(images.open_rgb(tmp_path / "a.png"), [[(255, 255, 255), (200, 100, 50)]], 0)
    assert close(images.open_rgb(tmp_path / "b.png"), [[(10, 20, 30), (255, 255, 255)]], 0)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ["a.png", "a.tif"]:
        assert close(images.open_rgb(tmp_path / name), [[[v] * 3 for v in (0, 1, 128, 255)]], 0)


def png16(pixels: np.ndarray, colour_type: int, extra: bytes = b"") -> bytes:
    """16-bit PNG by hand: Pillow cannot write 16-bit colour."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    end = extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + end


def test_16_bit_colour_and_alpha(tmp_path):
    (tmp_path / "rgb.png").write_bytes(png16(np.array([[[0, 32768, 65535]]]), 2))
    (tmp_path / "rgba.png").write_bytes(png16(np.array([[[0, 32768, 65535, 65535], [0, 0, 0, 0]]]), 6))
    (tmp_path / "la.png").write_bytes(png16(np.array([[[32768, 65535], [0, 0]]]), 4))
    (tmp_path / "trns.png").write_bytes(
        png16(np.array([[[32768], [500]]]), 0, png_chunk(b"tRNS", struct.pack(">H", 500)))
    )
    white = (255, 255, 255)
    assert close(images.open_rgb(tmp_path / "rgb.png"), [[(0, 128, 255)]], 1)
    assert close(images.open_rgb(tmp_path / "rgba.png"), [[(0, 128, 255), white]], 1)
    assert close(images.open_rgb(tmp_path / "la.png"), [[(128,) * 3, white]], 1)
    assert close(images.open_rgb(tmp_path / "trns.png"), [[(128,) * 3, white]], 1)


def test_32_bit_values_are_refused_by_scan_and_opener(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="32-bit"):
        images.scan(tmp_path)
    with pytest.raises(UserError, match="32-bit"):
        images.open_rgb(tmp_path / "a.tif")


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert images.scan(tmp_path)
    assert close(images.open_rgb(tmp_path / "a.jpg").getpixel((8, 8)), (255, 0, 0), 4)


def test_a_profile_is_applied_and_a_broken_one_named(tmp_path):
    lab = Image.new("RGB", (2, 2), (50, 120, 200))
    swapped = _profile_with_red_and_blue_swapped()
    lab.save(tmp_path / "a.png", icc_profile=swapped)
    assert close(images.open_rgb(tmp_path / "a.png").getpixel((0, 0)), (200, 120, 50), 3)
    lab.save(tmp_path / "b.png", icc_profile=b"nonsense")
    notes = []
    assert images.open_rgb(tmp_path / "b.png", notes=notes).getpixel((0, 0)) == (50, 120, 200)
    assert len(notes) == 1 and "profile not used" in notes[0]
    Image.new("L", (2, 2), 9).save(tmp_path / "c.png", icc_profile=swapped)
    assert images.open_rgb(tmp_path / "c.png", notes=notes).getpixel((0, 0)) == (9, 9, 9)
    assert "RGB pictures and this one is L" in notes[1]


def _profile_with_red_and_blue_swapped() -> bytes:
    """sRGB with its rXYZ and bXYZ tags exchanged: easy to tell from a profile that was ignored."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    end = 132 + 12 * struct.unpack_from(">I", data, 128)[0]
    tags = {bytes(data[at : at + 4]): at for at in range(132, end, 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data).replace("sRGB".encode("utf-16-be"), "Swap".encode("utf-16-be"))


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_the_first_frame_of_an_animation(tmp_path, ending):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    picture = images.scan(tmp_path)[0]
    assert picture.frames == 3
    assert close(images.open_rgb(picture.path).getpixel((8, 8)), (255, 0, 0), 4)


def test_known_pictures_are_not_read_again(tmp_path):
    noise().save(tmp_path / "a.png")
    noise(seed=1).save(tmp_path / "b.png")
    known = {picture.path: picture for picture in images.scan(tmp_path)}
    noise(seed=2).resize((50, 50)).save(tmp_path / "b.png")
    again = images.scan(tmp_path, known=known)
    assert again[0] is known[tmp_path / "a.png"]
    assert again[1].width == 50 and again[1].digest != known[tmp_path / "b.png"].digest


def test_pipes_and_dangling_links_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="dangling.png cannot be opened .*pipe.png is no ordinary file"):
        images.scan(tmp_path)


def test_fit_cuts_the_window_that_the_placement_names(tmp_path):
    picture = Image.new("RGB", (200, 100), "black")
    picture.paste("red", (50, 0, 150, 100))
    placement = buckets.place(200, 100, [(64, 64)])
    fitted = images.fit(picture, placement)
    assert fitted.size == (64, 64) and close(fitted.crop((2, 2, 62, 62)), [[(255, 0, 0)] * 60] * 60)
    with pytest.raises(ValueError):
        images.fit(picture.rotate(90, expand=True), placement)


def test_foreign_pictures_can_be_pointed_out(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"x")
    assert [path.name for path in images.foreign(tmp_path)] == ["IMG_1.HEIC"]


def test_real_pictures(pytestconfig):
    data = pytestconfig.rootpath.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the real picture folders are not beside this checkout")
    pictures = images.scan(data)
    assert len(pictures) >= 19
    for picture in pictures:
        assert images.open_rgb(picture.path).size == (picture.width, picture.height)
