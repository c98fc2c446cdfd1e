"""What the world is drawn with: polygons in unit coordinates (x to the right, y down, the picture is 1 x 1).

They are drawn three times too large and scaled down, so that edges are smooth at any size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

INK = (34, 28, 40)


@dataclass(frozen=True)
class Jitter:
    """Small differences between drawings of one scene: place and size (fractions of the picture), colour."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @staticmethod
    def random(rng: np.random.Generator) -> Jitter:
        dx, dy = rng.uniform(-0.025, 0.025, 2)
        tint = rng.uniform(-6, 6, 3)
        return Jitter(float(dx), float(dy), float(rng.uniform(0.94, 1.04)), tuple(float(t) for t in tint))


STILL = Jitter()


@dataclass(frozen=True)
class Pen:
    """How shapes reach the paper. The styles of the world are pens: see `heldback.py`."""

    fill: Callable[[tuple], tuple] = lambda color: color
    line: Callable[[tuple], tuple] = lambda color: color
    width: float = 0.02


class Canvas:
    """A picture in the making. Points are [n, 2] arrays in unit coordinates; colours are RGB 0-255."""

    SUPERSAMPLING = 3

    def __init__(self, size: int, jitter: Jitter = STILL, pen: Pen | None = None):
        self.size, self.jitter, self.pen = size, jitter, pen or Pen()
        self.pixels = size * self.SUPERSAMPLING
        self.image = Image.new("RGB", (self.pixels, self.pixels))
        self.painter = ImageDraw.Draw(self.image)

    def _to_pixels(self, points: np.ndarray, fixed: bool) -> list[tuple[float, float]]:
        points = np.asarray(points, dtype=float)
        if not fixed:
            centre = np.array([0.5, 0.55])
            points = (points - centre) * self.jitter.scale + centre + (self.jitter.dx, self.jitter.dy)
        return [tuple(point) for point in points * self.pixels]

    def _tinted(self, color: tuple) -> tuple[int, ...]:
        return tuple(int(np.clip(c + t, 0, 255)) for c, t in zip(color, self.jitter.tint, strict=True))

    def shape(self, points, color, outline: bool = True, fixed: bool = False) -> None:
        """A filled polygon with an ink outline. `fixed` shapes do not move with the jitter (the setting)."""
        pixels = self._to_pixels(points, fixed)
        self.painter.polygon(pixels, fill=self._tinted(self.pen.fill(color)))
        if outline and self.pen.width:
            self._stroke([*pixels, *pixels[:2]], self.pen.line(INK), self.pen.width)

    def line(self, points, color=INK, width: float | None = None) -> None:
        """An open line; thin parts of a face use it, so it is drawn in every style."""
        self._stroke(self._to_pixels(points, False), self.pen.line(color), width or max(self.pen.width, 0.02))

    def limb(self, start, end, color, width: float) -> None:
        """A thick line with round ends and an outline: arms, tails, twigs."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        angle = np.arctan2(*(end - start)[::-1])
        arc = np.linspace(-np.pi / 2, np.pi / 2, 9)[:, None]
        cap = [np.hstack([np.cos(angle + arc), np.sin(angle + arc)]) * width / 2]
        cap.append(np.hstack([np.cos(angle + np.pi + arc), np.sin(angle + np.pi + arc)]) * width / 2)
        self.shape(np.vstack([end + cap[0], start + cap[1]]), color)

    def _stroke(self, pixels, color, width: float) -> None:
        thick = max(1, round(width * self.pixels * (self.jitter.scale if width else 1)))
        self.painter.line(pixels, fill=tuple(int(c) for c in color), width=thick, joint="curve")

    def backdrop(self, color) -> None:
        self.image.paste(self._tinted(self.pen.fill(color)), (0, 0, self.pixels, self.pixels))

    def finish(self) -> Image.Image:
        return self.image.resize((self.size, self.size), Image.Resampling.BOX)


def ellipse(cx: float, cy: float, rx: float, ry: float | None = None, n: int = 40) -> np.ndarray:
    """Points around an ellipse, [n, 2]."""
    turn = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([cx + rx * np.cos(turn), cy + (ry or rx) * np.sin(turn)], 1)


def arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float, n: int = 14) -> np.ndarray:
    """Points of an open arc; angles in degrees, 0 to the right, 90 down."""
    turn = np.radians(np.linspace(start, end, n))
    return np.stack([cx + rx * np.cos(turn), cy + ry * np.sin(turn)], 1)
