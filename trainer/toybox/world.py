"""The drawn world: one cartoon creature per picture.

What is drawn follows from a `Scene` and a `Jitter` alone: the same two give the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from trainer.toybox.canvas import INK, STILL, Canvas, Jitter, Pen, arc, ellipse
from trainer.toybox.scene import BACKGROUNDS, COLORS, Scene

CENTRE = np.array([0.5, 0.57])


def body_outline(body: str) -> np.ndarray:
    """The closed outline of a body around `CENTRE`, [n, 2]."""
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    cos, sin = np.cos(turn), np.sin(turn)
    rounded = np.stack([np.sign(cos) * np.abs(cos) ** 0.4, np.sign(sin) * np.abs(sin) ** 0.4], 1)
    circle = np.stack([cos, sin], 1)
    outlines = {
        "round": circle * 0.29,
        "square": rounded * (0.27, 0.26),
        "tall": np.stack([np.sign(cos) * np.abs(cos) ** 0.7 * 0.19, sin * 0.33], 1),
        "star": circle * (0.27 + 0.085 * np.cos(5 * (turn + np.pi / 2)))[:, None],
        "pear": np.stack([cos * (0.235 + 0.095 * sin), sin * 0.3], 1),
        "cloud": circle * (0.235 + 0.07 * np.abs(np.cos(3.5 * (turn + np.pi / 2))))[:, None],
    }
    return outlines[body] + CENTRE


def half_width(outline: np.ndarray, y: float) -> float:
    """Half the width of a body at height y."""
    near = np.abs(outline[:, 1] - y) < 0.04
    return float(np.abs(outline[near, 0] - CENTRE[0]).max())


def draw(
    scene: Scene,
    size: int = 128,
    jitter: Jitter | np.random.Generator = STILL,
    pen: Pen | None = None,
    creature: Callable[[Canvas, Scene], None] | None = None,
) -> Image.Image:
    """Draw a scene in RGB. A generator as `jitter` draws one; `creature` replaces the usual creature."""
    if isinstance(jitter, np.random.Generator):
        jitter = Jitter.random(jitter)
    canvas = Canvas(size, jitter, pen)
    draw_setting(canvas, scene)
    (creature or draw_creature)(canvas, scene)
    return canvas.finish()


def draw_setting(canvas: Canvas, scene: Scene) -> None:
    """The background colour and what stands on it. It does not move with the creature."""
    color = BACKGROUNDS[scene.background]
    canvas.backdrop(color)
    if scene.setting == "stripes":
        darker = tuple(c * 0.84 for c in color)
        for x in np.arange(0.0, 1.0, 0.25):
            canvas.shape([(x, 0), (x + 0.125, 0), (x + 0.125, 1), (x, 1)], darker, outline=False, fixed=True)
    elif scene.setting == "grass":
        top = [(x, 0.84 if i % 2 else 0.78) for i, x in enumerate(np.linspace(0, 1, 15))]
        canvas.shape([*top, (1.1, 1.1), (-0.1, 1.1)], (58, 150, 62), fixed=True)
    elif scene.setting == "moon":
        outer, inner = arc(0.84, 0.17, 0.11, 0.11, -120, 120), arc(0.8, 0.17, 0.085, 0.095, 110, -110)
        canvas.shape(np.vstack([outer, inner]), (255, 224, 90), fixed=True)


def draw_creature(canvas: Canvas, scene: Scene) -> None:
    """The creature of a scene, from back to front."""
    outline, color = body_outline(scene.body), COLORS[scene.body_color]
    draw_limbs(canvas, scene, outline, color)
    canvas.shape(outline, color)
    if scene.clothes == "scarf":
        draw_scarf(canvas, outline)
    draw_face(canvas, scene)
    if scene.hat != "none":
        draw_hat(canvas, scene.hat, COLORS[scene.hat_color], float(outline[:, 1].min()))


def side(scene: Scene) -> float:
    """-1 when the creature faces left, 0 to the front, 1 right."""
    return {"left": -1.0, "front": 0.0, "right": 1.0}[scene.facing]


def draw_limbs(canvas: Canvas, scene: Scene, outline: np.ndarray, color: tuple) -> None:
    """Tail (on the side it turns away from), feet, arms: all behind the body."""
    cx, cy = CENTRE
    lower = half_width(outline, cy + 0.12)
    if scene.facing != "front":
        away = -side(scene)
        canvas.limb((cx + away * (lower - 0.06), cy + 0.14), (cx + away * (lower + 0.1), cy + 0.1), color, 0.09)
    for foot in (-1, 1):
        canvas.shape(ellipse(cx + foot * 0.1 + side(scene) * 0.03, 0.885, 0.085, 0.05), color)
    wide = half_width(outline, cy)
    rise = -0.17 if scene.arms == "up" else 0.15
    for hand in (-1, 1):
        shoulder = (cx + hand * (wide - 0.05), cy + 0.02)
        canvas.limb(shoulder, (cx + hand * (wide + 0.085), cy + 0.02 + rise), color, 0.08)


def draw_scarf(canvas: Canvas, outline: np.ndarray) -> None:
    cx, cy = CENTRE
    wide = half_width(outline, cy + 0.17) + 0.015
    band = [(cx - wide, cy + 0.14), (cx, cy + 0.165), (cx + wide, cy + 0.14)]
    band += [(cx + wide, cy + 0.21), (cx, cy + 0.24), (cx - wide, cy + 0.21)]
    canvas.shape(
        [(cx + 0.07, cy + 0.2), (cx + 0.16, cy + 0.2), (cx + 0.17, cy + 0.34), (cx + 0.08, cy + 0.34)],
        (226, 60, 60),
    )
    canvas.shape(band, (226, 60, 60))


def draw_face(canvas: Canvas, scene: Scene) -> None:
    """Two eyes and a mouth, shifted to the side the creature faces."""
    x, y = CENTRE + (side(scene) * 0.075, -0.075)
    for eye in (-0.088, 0.088):
        if scene.face == "closed eyes":
            canvas.line(arc(x + eye, y, 0.055, 0.045, 0, 180), width=0.026)
            continue
        canvas.shape(ellipse(x + eye, y, 0.06, 0.068), (255, 255, 255))
        canvas.shape(ellipse(x + eye + side(scene) * 0.022, y + 0.01, 0.026, 0.032), INK)
        if scene.face == "angry":
            tilt = np.sign(eye) * 0.03
            canvas.line([(x + eye - 0.065, y - 0.078 + tilt), (x + eye + 0.065, y - 0.078 - tilt)], width=0.036)
    draw_mouth(canvas, scene.face, x, y + 0.135)


def draw_mouth(canvas: Canvas, face: str, x: float, y: float) -> None:
    if face == "open mouth":
        canvas.shape(ellipse(x, y + 0.008, 0.058, 0.045), (150, 24, 48))
    elif face == "frown":
        canvas.line(arc(x, y + 0.035, 0.075, 0.055, 200, 340), width=0.026)
    elif face == "angry":
        canvas.line([(x - 0.065, y + 0.01), (x + 0.065, y + 0.01)], width=0.026)
    else:
        canvas.line(arc(x, y - 0.03, 0.075, 0.055, 20, 160), width=0.026)


def draw_hat(canvas: Canvas, hat: str, color: tuple, top: float) -> None:
    """A hat on a body whose highest point is at height `top`."""
    x, y = CENTRE[0], top + 0.035
    if hat == "top hat":
        canvas.shape([(x - 0.1, y), (x - 0.11, y - 0.19), (x + 0.11, y - 0.19), (x + 0.1, y)], color)
        canvas.shape([(x - 0.17, y - 0.025), (x + 0.17, y - 0.025), (x + 0.17, y + 0.03), (x - 0.17, y + 0.03)], color)
    elif hat == "party hat":
        canvas.shape([(x - 0.12, y + 0.02), (x, y - 0.22), (x + 0.12, y + 0.02)], color)
        canvas.shape(ellipse(x, y - 0.21, 0.04), (255, 255, 255))
    elif hat == "crown":
        spikes = [
            (-0.15, 0.02),
            (-0.16, -0.15),
            (-0.08, -0.07),
            (0, -0.18),
            (0.08, -0.07),
            (0.16, -0.15),
            (0.15, 0.02),
        ]
        canvas.shape([(x + dx, y + dy) for dx, dy in spikes], color)
    elif hat == "beanie":
        canvas.shape(np.vstack([arc(x, y, 0.16, 0.15, 180, 360), [(x + 0.16, y + 0.02), (x - 0.16, y + 0.02)]]), color)
        canvas.shape(ellipse(x, y + 0.01, 0.18, 0.035), (255, 255, 255))
    elif hat == "bow":
        for wing in (-1, 1):
            canvas.shape([(x, y - 0.03), (x + wing * 0.17, y - 0.12), (x + wing * 0.17, y + 0.06)], color)
        canvas.shape(ellipse(x, y - 0.03, 0.045), color)
