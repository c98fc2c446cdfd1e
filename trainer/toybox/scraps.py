"""Pictures for the autoencoder alone: far outside the world, because users bring pictures of their own.

A base model can never draw what its autoencoder cannot reproduce. Half of the autoencoder's pictures are
therefore scenes of the world in any colours and line widths, and half are scraps: polygons, blobs, strokes,
gradients and textures in any colour, with the pure colours and the white paper that cartoons have.
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trainer.toybox.canvas import Pen, ellipse
from trainer.toybox.scene import random_scene
from trainer.toybox.world import draw

PIXELS = 256  # drawn at twice the size and scaled down


def picture(index: int, size: int = 128, seed: int = 0) -> np.ndarray:
    """Picture number `index` of the endless series: uint8 [size, size, 3]."""
    rng = np.random.default_rng((seed, index))
    drawn = (
        _recoloured_scene(rng, size) if index % 2 else _scrap(rng).resize((size, size), Image.Resampling.BOX)
    )
    return np.asarray(drawn, dtype=np.uint8)


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    """Pure colours, paper white, ink and greys far more often than chance would have them."""
    kind = rng.random()
    if kind < 0.15:
        return (int(rng.integers(235, 256)),) * 3
    if kind < 0.27:
        return tuple(int(c) for c in rng.integers(0, 50, 3))
    if kind < 0.37:
        return (int(rng.integers(0, 256)),) * 3
    if kind < 0.75:
        return tuple(
            int(255 * c) for c in colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.6, 1), rng.uniform(0.5, 1))
        )
    return tuple(int(c) for c in rng.integers(0, 256, 3))


def _recoloured_scene(rng: np.random.Generator, size: int) -> Image.Image:
    """A scene as it is (one in three), or in random colours and line widths, perhaps with shapes on top."""
    scene = random_scene(rng)
    if rng.random() < 0.35:
        return draw(scene, size, rng)
    mixed: dict[tuple, tuple] = {}
    keep = rng.random() < 0.4
    line = _color(rng)
    pen = Pen(
        fill=lambda color: mixed.setdefault(
            tuple(color), tuple(color) if keep and rng.random() < 0.5 else _color(rng)
        ),
        line=lambda color: color if keep else line,
        width=float(rng.choice([0.0, 0.008, 0.014, 0.02, 0.03])),
    )
    drawn = draw(scene, PIXELS, rng, pen)
    for _ in range(rng.integers(0, 4)):
        _shape(rng, drawn, reach=0.12)
    return drawn.resize((size, size), Image.Resampling.BOX)


def _scrap(rng: np.random.Generator) -> Image.Image:
    """A ground, shapes and strokes on it, sometimes softened: from flat cartoon to almost a photograph."""
    kind = rng.random()
    ground = (
        _texture(rng)
        if kind < 0.35
        else _gradient(rng)
        if kind < 0.5
        else Image.new("RGB", (PIXELS,) * 2, _color(rng))
    )
    textured = kind < 0.35
    for _ in range(rng.integers(4, 24)):
        if rng.random() < 0.7:
            _shape(rng, ground, float(rng.choice([0.1, 0.25, 0.45])), textured and rng.random() < 0.7)
        else:
            _stroke(rng, ground)
        if textured and rng.random() < 0.15:
            ground = ground.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
    return ground


def _gradient(rng: np.random.Generator) -> Image.Image:
    """A straight gradient between two colours."""
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:PIXELS, 0:PIXELS] / PIXELS - 0.5
    t = np.clip(0.5 + (x * np.cos(turn) + y * np.sin(turn)) * rng.uniform(0.7, 2), 0, 1)[..., None]
    return Image.fromarray((np.array(_color(rng)) * t + np.array(_color(rng)) * (1 - t)).astype(np.uint8))


def _texture(rng: np.random.Generator) -> Image.Image:
    """Coloured noise whose spectrum falls like that of photographs, amplitude ~ 1 / frequency."""
    n = PIXELS // 2
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None, :])
    frequency[0, 0] = 1.0
    spectrum = frequency ** -rng.uniform(0.9, 1.8)
    spectrum[0, 0] = 0.0
    waves = [np.fft.irfft2(spectrum * np.fft.rfft2(rng.standard_normal((n, n)))) for _ in range(2)]
    waves = [np.tanh(wave / wave.std()) for wave in waves]
    a, b, c = (np.array(_color(rng), dtype=float) for _ in range(3))
    mixed = a + (b - a) * (waves[0][..., None] * 0.5 + 0.5) * rng.uniform(0.3, 1)
    mixed = mixed + (c - mixed) * np.clip(waves[1][..., None], 0, 1) * rng.uniform(0, 0.8)
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)).resize(
        (PIXELS,) * 2, Image.Resampling.BILINEAR
    )


def _outline(rng: np.random.Generator, reach: float) -> np.ndarray:
    """A closed blob, polygon or ellipse in unit coordinates."""
    centre, size = rng.uniform(-0.05, 1.05, 2), rng.uniform(0.02, reach)
    kind = rng.random()
    if kind < 0.35:
        points = ellipse(0, 0, size, size * rng.uniform(0.3, 1))
    elif kind < 0.65:
        corners = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        points = (
            np.stack([np.cos(corners), np.sin(corners)], 1) * size * rng.uniform(0.5, 1.2, (len(corners), 1))
        )
    else:
        turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        radius = sum(rng.normal(0, 0.35 / k) * np.cos(k * turn + rng.uniform(0, 6.3)) for k in range(1, 7))
        points = np.stack([np.cos(turn), np.sin(turn)], 1) * (size * (1 + radius))[:, None]
    turn = rng.uniform(0, 2 * np.pi)
    return points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) + centre


def _shape(rng: np.random.Generator, picture: Image.Image, reach: float, textured: bool = False) -> None:
    """One filled shape, flat or textured, with or without an outline."""
    points = [tuple(point) for point in _outline(rng, reach) * PIXELS]
    if textured:
        mask = Image.new("L", picture.size)
        ImageDraw.Draw(mask).polygon(points, fill=255)
        if rng.random() < 0.5:
            mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))
        picture.paste(_texture(rng) if rng.random() < 0.6 else _gradient(rng), (0, 0), mask)
        return
    painter = ImageDraw.Draw(picture)
    painter.polygon(points, fill=_color(rng))
    if rng.random() < 0.6:
        ink = _color(rng) if rng.random() < 0.5 else tuple(int(c) for c in rng.integers(0, 45, 3))
        painter.line([*points, *points[:2]], fill=ink, width=int(rng.integers(1, 9)), joint="curve")


def _stroke(rng: np.random.Generator, picture: Image.Image) -> None:
    """A wandering line, from hair to brush."""
    steps = rng.integers(2, 30)
    turn = np.cumsum(rng.normal(0, rng.uniform(0.05, 0.7), steps)) + rng.uniform(0, 6.3)
    path = rng.uniform(0, 1, 2) + np.cumsum(np.stack([np.cos(turn), np.sin(turn)], 1), 0) * rng.uniform(
        0.01, 0.06
    )
    points = [tuple(point) for point in path * PIXELS]
    ImageDraw.Draw(picture).line(
        points, fill=_color(rng), width=int(rng.choice([1, 2, 3, 5, 8, 14])), joint="curve"
    )
