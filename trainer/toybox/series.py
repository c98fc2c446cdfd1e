"""The endless series of training pictures: picture `index` of seed `seed` is always the same drawing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.toybox.heldback import HELD_BACK
from trainer.toybox.scene import Scene, random_scene
from trainer.toybox.training import cached_pictures
from trainer.toybox.world import draw

BASE_SEED, COUNT = 2, 16000
HELD_SEED, HELD_COUNT = 3, 1800


def scene_number(index: int, seed: int = BASE_SEED) -> tuple[Scene, np.random.Generator]:
    """Scene `index` of the series, and the generator that goes on to draw it."""
    rng = np.random.default_rng((seed, index))
    return random_scene(rng), rng


def scene_picture(index: int, seed: int = BASE_SEED) -> np.ndarray:
    """The drawing of scene `index`, uint8 [128, 128, 3]."""
    scene, rng = scene_number(index, seed)
    return np.asarray(draw(scene, 128, rng), dtype=np.uint8)


def scene_pictures(work: Path, count: int = COUNT) -> np.ndarray:
    """What the bases learn from, uint8 [count, 128, 128, 3]: nothing that is held back."""
    return cached_pictures(work / f"scenes-{count}.npy", scene_picture, count)


def held_back_number(index: int) -> tuple[str, Scene, np.random.Generator]:
    """Which held-back character or style, and the scene it is drawn in; for the tagger and CLIP only."""
    scene, rng = scene_number(index, HELD_SEED)
    return list(HELD_BACK)[index % len(HELD_BACK)], scene, rng


def held_back_picture(index: int) -> np.ndarray:
    name, scene, rng = held_back_number(index)
    return np.asarray(HELD_BACK[name].draw(scene, 128, rng), dtype=np.uint8)


def held_back_pictures(work: Path, count: int = HELD_COUNT) -> np.ndarray:
    return cached_pictures(work / f"held-back-{count}.npy", held_back_picture, count)
