"""The shipped folders of what no base has seen: twelve drawn pictures each, for the demo and the tests."""

from __future__ import annotations

import numpy as np

from trainer.toybox import PICTURES
from trainer.toybox.heldback import HELD_BACK
from trainer.toybox.world import Scene, random_scene

COUNT, PIXELS, SEED = 12, 256, 20


def scenes_of(name: str) -> list[Scene]:
    """The scenes behind a folder's pictures, in order: what a picture's caption could say."""
    rng = np.random.default_rng((SEED, list(HELD_BACK).index(name)))
    return [random_scene(rng) for _ in range(COUNT)]


def draw_pictures() -> None:
    """Draw every folder anew; the same bytes each time."""
    for name, folder in PICTURES.items():
        folder.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(scenes_of(name), start=1):
            drawn = HELD_BACK[name].draw(scene, PIXELS, np.random.default_rng((SEED, number)))
            # 64 colours suffice for flat drawings, halve the file and make it the same on every machine.
            drawn.quantize(64).save(folder / f"{number:02d}.png", optimize=True)
