"""What shows the same picture, and what only looks like it."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from trainer.dataset import duplicates, images
from trainer.dataset.images import Picture
from trainer.dataset.measure import Looks, measure


def scene(seed: int, size=(160, 120), colour=None) -> Image.Image:
    rng = random.Random(seed)
    picture = Image.new("RGB", size, tuple(rng.choices(range(256), k=3)))
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = rng.uniform(0, 0.8) * size[0], rng.uniform(0, 0.8) * size[1]
        fill = tuple(rng.choices(range(256), k=3))
        draw.ellipse((x, y, x + size[0] / 4, y + size[1] / 3), fill=colour or fill)
    return picture


def test_copies_scaled_compressed_and_trimmed_are_one_group(tmp_path):
    scene(1, (640, 480)).save(tmp_path / "a.png")
    scene(1, (640, 480)).resize((200, 150)).save(tmp_path / "b.jpg", quality=40)
    scene(1, (640, 480)).crop((4, 4, 636, 476)).save(tmp_path / "c.webp")
    for seed in range(2, 12):
        scene(seed).save(tmp_path / f"other {seed}.png")
    (tmp_path / "d.png").write_bytes((tmp_path / "other 5.png").read_bytes())
    (tmp_path / "e.png").write_bytes(b"")
    found = duplicates.groups(images.find(tmp_path))
    assert [[path.name for path in group] for group in found] == [
        ["a.png", "b.jpg", "c.webp"],
        ["d.png", "other 5.png"],
    ]
    pictures, _ = images.survey(tmp_path)
    assert [[p.path.name for p in group] for group in duplicates.exact(pictures)] == [["d.png", "other 5.png"]]
    assert duplicates.best(duplicates.grouped(pictures)[0]).path.name == "a.png"


def test_another_colour_is_another_picture_and_plain_ones_are_compared_by_bytes(tmp_path):
    scene(1, colour=(200, 30, 30)).save(tmp_path / "red.png")
    scene(1, colour=(30, 200, 30)).save(tmp_path / "green.png")
    for level in (0, 2):
        Image.new("RGB", (64, 64), (level, 0, 0)).save(tmp_path / f"plain {level}.png")
    assert duplicates.groups(images.find(tmp_path)) == []


def picture(name: int, fingerprint: int, colours=b"\0" * 48) -> Picture:
    looks = Looks(fingerprint.to_bytes(16, "big"), colours, 1.0)
    return Picture(str(name), 8, 8, f"{name}", looks=looks)


@settings(max_examples=40, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=4),
    flips=st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 127), max_size=12)), max_size=15),
    distance=st.integers(0, 12),
)
def test_bands_find_what_comparing_all_pairs_finds(seeds, flips, distance):
    values = list(seeds)
    for which, bits in flips:
        value = values[which % len(values)]
        for bit in bits:
            value ^= 1 << bit
        values.append(value)
    pictures = [picture(index, value) for index, value in enumerate(values)]
    found = {tuple(p.path for p in group) for group in duplicates.grouped(pictures, distance=distance)}
    linked = {i: {i} for i in range(len(values))}
    for i in range(len(values)):
        for j in range(i):
            if (values[i] ^ values[j]).bit_count() <= distance and linked[i] is not linked[j]:
                merged = linked[i] | linked[j]
                for member in merged:
                    linked[member] = merged
    expected = {tuple(str(i) for i in sorted(group)) for group in linked.values() if len(group) > 1}
    assert found == expected


def test_chunks_lose_no_pair(monkeypatch):
    monkeypatch.setattr(duplicates, "CHUNK", 3)
    pictures = [picture(i, 7 << (i % 2)) for i in range(11)]
    [group] = duplicates.grouped(pictures, distance=4)
    assert len(group) == 11


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(700, 1000), (1, 1), (3, 900)])
def test_every_kind_of_picture_can_be_measured(tmp_path, mode, size):
    picture = scene(3, size) if mode != "I;16" else Image.fromarray(np.full(size, 300, np.uint16))
    (picture if mode == "I;16" else picture.convert(mode)).save(path := tmp_path / "a.tif")
    looks = images.scan(tmp_path)[0].looks
    assert len(looks.colours) == 48 and len(looks.fingerprint) in (0, 16)
    assert np.allclose(list(looks.colours), list(measure(images.open_rgb(path)).colours), atol=4)


def test_sharpness_falls_with_blur_and_not_with_the_number_of_edges():
    from PIL import ImageFilter

    few = Image.new("RGB", (400, 400), "white")
    ImageDraw.Draw(few).ellipse((180, 180, 220, 220), fill="black")
    for picture in (few, scene(1, (400, 400)), scene(1, (2000, 2000))):
        sharp = measure(picture).sharpness
        blurred = measure(picture.filter(ImageFilter.GaussianBlur(picture.width / 150))).sharpness
        assert sharp > 0.5 and blurred < 0.12
    assert measure(Image.new("RGB", (99, 99), "red")).sharpness == 0
