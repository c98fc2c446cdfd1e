"""The world's own measures: what a picture shows, told by drawing what it might show and comparing.

No learned model takes part. `read_tags` asks which of an attribute's values would have been drawn most like
the picture; `fidelity` asks how much a picture is a held-back character or style. Both look at half size
(64 px) and allow for small differences in place, size and colour, because renders come through an
autoencoder and are never exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product

import numpy as np
from PIL import Image

from trainer.toybox.canvas import INK, Jitter
from trainer.toybox.heldback import HELD_BACK, HeldBack
from trainer.toybox.scene import BACKGROUNDS, CHOICES, COLORS, FACES, FACINGS, SETTINGS, Scene, tag_of
from trainer.toybox.world import draw

PIXELS = 64
MISPLACED = 40.0  # mean RGB difference that half a pixel's misplacement of a face can cause
SCALES = (0.945, 0.975, 1.005, 1.035)
REACH = 3  # how far a creature may stand from its place, in pixels of the half-size picture
COARSE = tuple(product(range(-REACH, REACH + 1, 2), repeat=2))
AROUND = tuple(product((-1, 0, 1), repeat=2))
SURROUNDINGS = ("background", "setting")


def small(image: Image.Image) -> np.ndarray:
    """The picture at half size, float32 [64, 64, 3] in 0-255."""
    return np.asarray(image.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BOX), dtype=np.float32)


@lru_cache(maxsize=8192)
def _drawing(scene: Scene, scale: float) -> np.ndarray:
    return small(draw(scene, PIXELS * 2, Jitter(scale=scale)))


# --- tags ---


def read_tags(image: Image.Image, scene: Scene) -> dict[str, bool]:
    """For every attribute that the scene's caption states: is the stated value the one that is seen?

    Analysis by synthesis: the scene is drawn with each value of the attribute, the other attributes as
    stated, and only the pixels in which these drawings differ are compared. A value is found when its drawing
    lies nearest to the picture, and nearer than the values' drawings lie to each other.
    """
    picture = small(image)
    scale, shift = _place(picture, scene)
    return {name: _value_is_seen(picture, scene, name, scale, shift) for name in stated(scene)}


def stated(scene: Scene) -> tuple[str, ...]:
    """The attributes of which the scene's caption says something."""
    return tuple(name for name in CHOICES if tag_of(scene, name))


def tags_found(images: Iterable[Image.Image], scenes: Iterable[Scene]) -> dict[str, float]:
    """Share of pictures in which the stated value was found, by attribute, and over all under "all"."""
    hits: dict[str, list[bool]] = {}
    for image, scene in zip(images, scenes, strict=True):
        for name, seen in read_tags(image, scene).items():
            hits.setdefault(name, []).append(seen)
    rates = {name: float(np.mean(hits[name])) for name in CHOICES if name in hits}
    return rates | {"all": float(np.mean([seen for found in hits.values() for seen in found]))}


def _place(picture: np.ndarray, scene: Scene) -> tuple[float, tuple[int, int]]:
    """Scale and shift (dy, dx) at which the scene's drawing lies nearest to the picture."""
    return _best_place({scale: _drawing(scene, scale) for scale in SCALES}, partial(_distance, picture))


def _best_place(scaled: dict[float, np.ndarray], error: Callable) -> tuple[float, tuple[int, int]]:
    """The scale and shift (dy, dx) of least error: every second pixel first, then around the best."""
    scale, (dy, dx) = min(product(scaled, COARSE), key=lambda at: error(_moved(scaled[at[0]], at[1])))
    finer = [(dy + y, dx + x) for y, x in AROUND]
    return scale, min(finer, key=lambda shift: error(_moved(scaled[scale], shift)))


def _value_is_seen(
    picture: np.ndarray, scene: Scene, name: str, scale: float, shift: tuple[int, int]
) -> bool:
    values = [value for value in CHOICES[name] if not (name == "hat_color" and value == scene.body_color)]
    near = [(shift[0] + dy, shift[1] + dx) for dy, dx in AROUND]
    # The background does not move with the creature.
    near = [(0, 0)] if name in SURROUNDINGS else near
    drawings = {value: _drawing(replace(scene, **{name: value}), scale) for value in values}
    differs = (
        np.ptp(
            np.stack([_moved(drawing, near[len(near) // 2]) for drawing in drawings.values()]), axis=0
        ).max(-1)
        > 24
    )
    errors = {
        value: min(_distance(picture[differs], _moved(drawing, to)[differs]) for to in near)
        for value, drawing in drawings.items()
    }
    true = drawings[getattr(scene, name)]
    wanted = errors.pop(getattr(scene, name))
    apart = np.mean(
        [_distance(true[differs], other[differs]) for other in drawings.values() if other is not true]
    )
    return bool(wanted < min(*errors.values(), max(apart, MISPLACED)))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def _moved(drawing: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """The drawing shifted by (dy, dx) pixels, edges repeated."""
    dy, dx = shift
    padded = np.pad(drawing, ((max(dy, 0), max(-dy, 0)), (max(dx, 0), max(-dx, 0)), (0, 0)), "edge")
    return padded[max(-dy, 0) :, max(-dx, 0) :][:PIXELS, :PIXELS]


# --- held-back characters and styles ---


def fidelity(image: Image.Image, name: str, scene: Scene | Mapping[str, str] | None = None) -> float:
    """How much a picture is the held-back character or style `name`, 0 (nothing of it) to 1 (as drawn).

    `scene` is what the prompt asked for: a whole scene, or the attributes that it states (see
    `world.attributes_of`). Surroundings or a pose other than asked for cost up to 40 %; what was not asked
    for may be anything that the world has. Takes about 10 ms after the first call for a name.
    """
    held, picture = HELD_BACK[name], small(image)
    if held.kind == "character":
        likeness = _character(picture, held, _asked(scene))
    else:
        likeness = _style(picture, held, scene if isinstance(scene, Scene) else None)
    return likeness * _cleanness(picture)


def _cleanness(picture: np.ndarray) -> float:
    """1 for flat areas that are flat, less for grain and shimmer, which an overcooked LoRA leaves."""
    mean = np.mean([_moved(picture, shift) for shift in AROUND], axis=0)
    grain = np.median(np.abs(picture - mean).mean(-1))
    return float(np.clip(1.12 - grain / 40, 0.2, 1))


def _asked(scene: Scene | Mapping[str, str] | None) -> dict[str, str]:
    if isinstance(scene, Scene):
        return {name: getattr(scene, name) for name in CHOICES}
    return dict(scene or {})


# A true drawing that went through the autoencoder keeps most of every trait; an ordinary creature in the same
# place has some of the colours by chance. Between these two lies the scale.
NOTHING, ALL = 0.5, 0.87


def _character(picture: np.ndarray, held: HeldBack, asked: dict[str, str]) -> float:
    scale, shift = _place_character(picture, held)
    poses = {pose: _moved(_template(held.name, pose, scale), shift) for pose in POSES}
    nearest = min(poses, key=lambda pose: _pose_error(picture, poses[pose]))
    identity = np.clip((_traits(picture, poses[nearest], held) - NOTHING) / (ALL - NOTHING), 0, 1)
    absent = poses[nearest][..., 3] < 0.5
    return float(
        identity * (0.6 + 0.25 * _surroundings(picture, absent, asked) + 0.15 * _posed(nearest, asked))
    )


POSES = tuple(product(FACES, FACINGS, ("down", "up")))


@lru_cache(maxsize=1024)
def _template(name: str, pose: tuple[str, str, str], scale: float) -> np.ndarray:
    """A character cut out, [64, 64, 4]: RGB and, as fourth, 1 where the creature is and 0 where it is not."""
    face, facing, arms = pose
    scenes = [
        Scene(face=face, facing=facing, arms=arms, background=background) for background in ("white", "blue")
    ]
    on_white, on_blue = (
        small(HELD_BACK[name].draw(scene, PIXELS * 2, Jitter(scale=scale))) for scene in scenes
    )
    here = np.abs(on_white - on_blue).max(-1, keepdims=True) < 4
    return np.concatenate([on_white, here.astype(np.float32)], -1)


def _place_character(picture: np.ndarray, held: HeldBack) -> tuple[float, tuple[int, int]]:
    """Scale and shift at which the character's usual drawing lies nearest to the picture."""
    scaled = {scale: _template(held.name, ("smile", "front", "down"), scale) for scale in SCALES}
    return _best_place(scaled, partial(_pose_error, picture))


def _pose_error(picture: np.ndarray, template: np.ndarray) -> float:
    """Mean distance over the pixels that the creature covers."""
    here = template[..., 3] > 0.5
    return _distance(picture[here], template[here, :3])


def _closeness(distance: np.ndarray) -> np.ndarray:
    """1 for the same colour, give or take a blur's worth, 0 from a mean RGB difference of 70 up."""
    return np.clip(1.3 - distance / 54, 0, 1)


def _nearby_distance(picture: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean RGB difference per pixel to the most alike of the picture's 3 x 3 nearest pixels, [64, 64]."""
    return np.min([np.abs(_moved(picture, shift) - wanted).mean(-1) for shift in AROUND], axis=0)


def _traits(picture: np.ndarray, template: np.ndarray, held: HeldBack) -> float:
    """How well the character's own colours are found where they belong: the mean, and the worst of them.

    In the mean a colour weighs as the square root of its area, so that antlers count beside the body. The
    worst counts too, because one colour alone is easily there by chance.
    """
    close = _closeness(_nearby_distance(picture, template[..., :3]))
    colors = np.array(held.colors, dtype=np.float32)
    distances = np.abs(template[..., None, :3] - colors).mean(-1)
    labels = np.where((distances.min(-1) < 12) & (template[..., 3] > 0.5), distances.argmin(-1), -1)
    areas = np.array([(labels == index).sum() for index in range(len(colors))])
    found = [close[labels == index].mean() if area else 0.0 for index, area in enumerate(areas)]
    return float(0.6 * np.average(found, weights=np.sqrt(areas)) + 0.4 * min(found))


def _surroundings(picture: np.ndarray, absent: np.ndarray, asked: dict[str, str]) -> float:
    """How cleanly the pixels around the creature show the setting asked for, or the world's most alike."""
    backgrounds = [asked["background"]] if "background" in asked else list(BACKGROUNDS)
    settings = [asked["setting"]] if "setting" in asked else list(SETTINGS)
    errors = [
        np.abs(picture - _backdrop(background, setting)).mean(-1)[absent]
        for background, setting in product(backgrounds, settings)
    ]
    return float(_closeness(min(errors, key=np.mean) * 1.5).mean())


@lru_cache(maxsize=64)
def _backdrop(background: str, setting: str) -> np.ndarray:
    return small(
        draw(Scene(background=background, setting=setting), PIXELS * 2, creature=lambda canvas, scene: None)
    )


def _posed(pose: tuple[str, str, str], asked: dict[str, str]) -> float:
    """Share of the asked-for expression, facing and arms that the picture has."""
    wanted = [
        asked.get(name, seen) == seen for name, seen in zip(("face", "facing", "arms"), pose, strict=True)
    ]
    return float(np.mean(wanted))


def _style(picture: np.ndarray, held: HeldBack, scene: Scene | None) -> float:
    """How much nearer the picture is to the style's drawing (or palette) than to the usual one."""
    if scene is None:
        styled, usual = (_palette_distance(picture, colors) for colors in _palettes(held.name))
    else:
        scaled = {scale: _styled(held.name, scene, scale) for scale in SCALES}
        scale, shift = _best_place(scaled, partial(_distance, picture))
        styled = _nearby_distance(picture, _moved(_styled(held.name, scene, scale), shift))
        usual = _nearby_distance(picture, _moved(_drawing(scene, scale), shift))
    telling = np.abs(styled - usual) > 10
    if telling.mean() < 0.02:
        return 0.0
    share = (usual / (usual + styled + 1e-3))[telling].mean()
    # Nearer than the usual drawing is not yet near: a blank picture can be that.
    near = min(1.0, float(_closeness(styled).mean()) / 0.75)
    return float(np.clip((share - 0.25) / (0.8 - 0.25), 0, 1)) * near**2


@lru_cache(maxsize=512)
def _styled(name: str, scene: Scene, scale: float) -> np.ndarray:
    return small(HELD_BACK[name].draw(scene, PIXELS * 2, Jitter(scale=scale)))


@lru_cache(maxsize=16)
def _palettes(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The colours of the style and those of the usual drawing, [n, 3] each."""
    pen, usual = HELD_BACK[name].pen, [*COLORS.values(), *BACKGROUNDS.values(), (255, 255, 255)]
    lines = [pen.line(INK)] if pen.width else []
    return np.array([*map(pen.fill, usual), *lines], np.float32), np.array([*usual, INK], np.float32)


def _palette_distance(picture: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Mean RGB difference of every pixel to the nearest of the colours, [64, 64]."""
    return np.abs(picture[:, :, None] - colors).mean(-1).min(-1)
