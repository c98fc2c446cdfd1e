"""The world's own measures: right about true drawings, unmoved by a blur, not fooled by anything else."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trainer.toybox import CHARACTERS, STYLES
from trainer.toybox.heldback import HELD_BACK
from trainer.toybox.measure import fidelity, read_tags, tags_found
from trainer.toybox.scene import Scene, random_scene
from trainer.toybox.world import draw

NAMES = [*CHARACTERS, *STYLES]


def some(name, count=6, seed=1):
    """Scenes, and the held-back drawing and the ordinary one of each."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    return scenes, [HELD_BACK[name].draw(s, 128, rng) for s in scenes], [draw(s, 128, rng) for s in scenes]


def mean(images, name, scenes):
    return np.mean([fidelity(image, name, scene) for image, scene in zip(images, scenes, strict=True)])


def noisy(image, strength):
    noise = np.random.default_rng(0).normal(0, strength, (128, 128, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def test_tags_are_read_from_true_and_from_blurred_drawings():
    rng = np.random.default_rng(5)
    scenes = [random_scene(rng) for _ in range(6)]
    drawn = [draw(scene, 128, rng) for scene in scenes]
    assert tags_found(drawn, scenes)["all"] >= 0.97
    assert tags_found([image.filter(ImageFilter.GaussianBlur(1.5)) for image in drawn], scenes)["all"] >= 0.95


def test_tags_of_another_scene_are_not_found():
    shown = Scene("round", "blue", "crown", "red", "smile", "left", "up", "scarf", "moon", "pink")
    asked = Scene("star", "green", "bow", "purple", "frown", "right", "down", "none", "grass", "grey")
    assert not any(read_tags(draw(shown), asked).values())
    assert all(read_tags(draw(asked), asked).values())


@pytest.mark.parametrize("name", NAMES)
def test_true_drawings_are_faithful_and_ordinary_ones_are_not(name):
    scenes, true, usual = some(name)
    assert min(fidelity(image, name, scene) for image, scene in zip(true, scenes, strict=True)) >= 0.9
    assert mean(usual, name, scenes) <= 0.15
    assert mean(true, name, [None] * 6) >= 0.75
    assert mean(usual, name, [None] * 6) <= 0.2


@pytest.mark.parametrize("name", NAMES)
def test_other_held_back_creatures_and_styles_are_not_taken_for_it(name):
    others = [HELD_BACK[other].draw(Scene()) for other in NAMES if other != name]
    assert max(fidelity(image, name) for image in others) <= 0.4


@pytest.mark.parametrize("name", NAMES)
def test_fidelity_grows_with_what_was_learned(name):
    scenes, true, usual = some(name, 4)
    shares = [
        mean([Image.blend(b, a, share) for a, b in zip(true, usual, strict=True)], name, scenes)
        for share in (0.0, 0.35, 0.7, 1.0)
    ]
    assert shares == sorted(shares) and shares[-1] - shares[0] > 0.75


@pytest.mark.parametrize("name", NAMES)
def test_an_overcooked_picture_scores_less(name):
    scenes, true, _ = some(name, 4)
    whole = mean(true, name, scenes)
    assert mean([noisy(image, 60) for image in true], name, scenes) < whole - 0.1
    crushed = [image.point(lambda value: 0 if value < 128 else 255) for image in true]
    assert mean(crushed, name, scenes) < whole - 0.1
    blank = [Image.new("RGB", (128, 128), (128, 128, 128))] * 4
    assert mean(blank, name, scenes) <= 0.2


@pytest.mark.parametrize("name", CHARACTERS)
def test_a_pose_or_background_other_than_asked_for_costs(name):
    drawn = HELD_BACK[name].draw(Scene(face="smile", arms="down", background="white"))
    assert fidelity(drawn, name, {"face": "smile", "background": "white"}) >= 0.9
    assert fidelity(drawn, name, {"face": "smile", "background": "blue"}) <= 0.85
    assert fidelity(drawn, name, {"face": "angry", "arms": "up"}) <= 0.93
