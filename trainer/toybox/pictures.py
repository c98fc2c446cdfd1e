"""The shipped folders of what no base has seen: twelve drawn pictures each, for the demo and the tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trainer.toybox import PICTURES
from trainer.toybox.heldback import HELD_BACK
from trainer.toybox.scene import CHOICES, HAT_COLORS, Scene

COUNT, PIXELS, SEED = 12, 256, 20


def scenes_of(name: str) -> list[Scene]:
    """The scenes behind a folder's pictures, in order: what a picture's caption could say.

    A good training set shows every pose and expression more than once: each attribute takes its values as evenly as
    twelve pictures allow, in an order of its own.
    """
    rng = np.random.default_rng((SEED, list(HELD_BACK).index(name)))
    columns = {attribute: rng.permutation(np.resize(values, COUNT)).tolist() for attribute, values in CHOICES.items()}
    scenes = [Scene(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    return [_hat_stands_out(scene) for scene in scenes]


def _hat_stands_out(scene: Scene) -> Scene:
    if scene.hat_color != scene.body_color:
        return scene
    return replace(scene, hat_color=next(color for color in HAT_COLORS if color != scene.body_color))


def draw_pictures() -> None:
    """Draw every folder anew; the same bytes each time."""
    for name, folder in PICTURES.items():
        folder.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(scenes_of(name), start=1):
            drawn = HELD_BACK[name].draw(scene, PIXELS, np.random.default_rng((SEED, number)))
            # 64 colours suffice for flat drawings, halve the file and make it the same on every machine.
            drawn.quantize(64).save(folder / f"{number:02d}.png", optimize=True)
