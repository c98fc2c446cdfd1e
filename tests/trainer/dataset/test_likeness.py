"""Copies, other sizes, small crops and mirror images are one group; other pictures are not."""

import random

from PIL import Image, ImageDraw, ImageOps

from trainer.dataset import likeness


def drawn(seed: int) -> Image.Image:
    rng = random.Random(seed)
    picture = Image.new("RGB", (160, 120), tuple(rng.choices(range(256), k=3)))
    for _ in range(5):
        x, y = rng.randrange(120), rng.randrange(90)
        ImageDraw.Draw(picture).ellipse((x, y, x + 40, y + 30), fill=tuple(rng.choices(range(256), k=3)))
    return picture


def test_near_duplicates_are_found_and_others_are_not(tmp_path):
    one = drawn(0)
    pictures = {
        "one.png": one,
        "two.png": drawn(1),
        "small.png": one.resize((80, 60), Image.Resampling.LANCZOS),
        "three.png": drawn(2),
        "mirrored.png": ImageOps.mirror(one),
        "worse.jpg": one,
        "cropped.png": one.crop((2, 1, 160, 119)),
        **{f"other{seed}.png": drawn(seed) for seed in range(3, 12)},
    }
    blue, green, red = one.split()
    pictures["colours.png"] = Image.merge("RGB", (red, green, blue))
    for name, picture in pictures.items():
        picture.save(tmp_path / name, quality=60)
    found = likeness.groups([tmp_path / name for name in pictures])
    assert found == [[0, 2, 4, 5, 6], [1], [3], *([at] for at in range(7, 17))]
