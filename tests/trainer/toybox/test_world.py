"""The drawn world: the same scene gives the same pixels, and what is held back stays held back."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from trainer.toybox import CHARACTERS, PICTURES, STYLES
from trainer.toybox.canvas import Jitter
from trainer.toybox.heldback import HELD_BACK
from trainer.toybox.pictures import COUNT, PIXELS, SEED, scenes_of
from trainer.toybox.scene import CHOICES, Scene, all_tags, attributes_of, random_scene
from trainer.toybox.world import draw


def test_the_package_is_cheap_to_import():
    code = "import sys, trainer.toybox; print(sorted({'torch', 'PIL', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_scene_and_its_jitter_decide_every_pixel():
    scene, jitter = random_scene(np.random.default_rng(3)), Jitter.random(np.random.default_rng(4))
    assert draw(scene, 128, jitter).tobytes() == draw(scene, 128, jitter).tobytes()
    assert draw(scene, 128, jitter).tobytes() == draw(scene, 128, np.random.default_rng(4)).tobytes()
    assert draw(scene, 128, jitter).tobytes() != draw(scene, 128).tobytes()
    assert draw(scene, 64).size == (64, 64)


def test_tags_come_in_a_fixed_order_and_say_nothing_of_what_is_absent():
    scene = Scene("star", "red", "crown", "blue", "angry", "left", "up", "scarf", "moon", "pink")
    assert scene.caption() == (
        "1creature, star body, red body, crown, blue hat, angry, facing left, arms up, scarf, moon, pink background"
    )
    assert Scene().caption() == ("1creature, round body, blue body, smile, facing front, arms down, white background")
    assert set(scene.tags()) <= set(all_tags())


def test_a_caption_says_again_what_the_scene_was():
    rng = np.random.default_rng(8)
    for scene in (random_scene(rng) for _ in range(50)):
        told = attributes_of("moss, " + scene.caption() + ", best quality")
        assert all(getattr(scene, name) == value for name, value in told.items())
        assert {"body", "body_color", "face", "facing", "arms", "background"} <= set(told)


def test_random_scenes_hold_every_value_and_nothing_else():
    rng = np.random.default_rng(9)
    scenes = [random_scene(rng) for _ in range(400)]
    for name, values in CHOICES.items():
        assert {getattr(scene, name) for scene in scenes} == set(values)
    assert all(scene.hat_color != scene.body_color for scene in scenes)


def test_no_trigger_word_is_a_tag_and_no_held_back_colour_is_a_color_of_the_world():
    words = {word for tag in all_tags() for word in tag.split()}
    assert not words & {held.trigger for held in HELD_BACK.values()}
    rng = np.random.default_rng(10)
    usual = np.stack([np.asarray(draw(random_scene(rng))) for _ in range(60)]).reshape(-1, 3).astype(int)
    for held in HELD_BACK.values():
        shares = [(np.abs(usual - np.array(color)).max(-1) < 8).mean() for color in held.colors]
        assert sum(share < 0.002 for share in shares) >= min(3, len(shares) - 1)


@pytest.mark.parametrize("name", [*CHARACTERS, *STYLES])
def test_the_shipped_pictures_are_what_the_script_draws(name):
    files = sorted(PICTURES[name].glob("*.png"))
    assert len(files) == COUNT
    for number, (file, scene) in enumerate(zip(files, scenes_of(name), strict=True), start=1):
        drawn = HELD_BACK[name].draw(scene, PIXELS, np.random.default_rng((SEED, number)))
        shipped = np.asarray(Image.open(file).convert("RGB"), dtype=float)
        assert shipped.shape == (PIXELS, PIXELS, 3)
        assert np.abs(shipped - np.asarray(drawn, dtype=float)).mean() < 4
