"""Characters and styles that no base model has seen: what there is to teach.

Nothing here is drawn for the training of a base, and none of the shapes and marks below occurs in a random
scene. A character keeps the scene's pose, expression and surroundings and brings its own body, colours and
marks; a style keeps the whole scene and changes the pen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainer.toybox.canvas import INK, STILL, Canvas, Jitter, Pen, arc, ellipse
from trainer.toybox.scene import Scene
from trainer.toybox.world import CENTRE, draw, draw_mouth, side


@dataclass(frozen=True)
class HeldBack:
    """Something to teach. `creature` draws a character in place of the usual one, `pen` is a style.

    `colors` are a character's own, those by which the measure knows it.
    """

    name: str
    kind: str
    description: str
    trigger: str
    creature: Callable[[Canvas, Scene], None] | None = None
    pen: Pen | None = None
    colors: tuple[tuple[int, int, int], ...] = ()

    def draw(
        self, scene: Scene, size: int = 128, jitter: Jitter | np.random.Generator = STILL
    ) -> Image.Image:
        return draw(scene, size, jitter, self.pen, self.creature)

    def caption(self, scene: Scene) -> str:
        """How a prompt asks for it: the trigger word, then the tags that it leaves to the scene."""
        if self.kind == "style":
            return ", ".join((self.trigger, *scene.tags()))
        own = {
            f"{scene.body} body",
            f"{scene.body_color} body",
            scene.hat,
            f"{scene.hat_color} hat",
            scene.clothes,
        }
        return ", ".join((self.trigger, *(tag for tag in scene.tags() if tag not in own)))


TEAL, LEAF, BARK, CREAM = (24, 150, 150), (150, 205, 60), (122, 78, 44), (250, 240, 190)
HONEY, COAL, WING = (255, 196, 20), (48, 40, 44), (206, 240, 255)
STEEL, SCREEN, GLOW, RUST = (150, 164, 180), (20, 40, 60), (70, 240, 220), (222, 96, 40)


def draw_moss(canvas: Canvas, scene: Scene) -> None:
    """A leaf-edged teal body with a lime belly, cream spots, twig antlers and one big eye."""
    cx, cy = CENTRE
    turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    radius = np.where(np.arange(36) % 2, 0.255, 0.325)
    edge = np.stack([cx + radius * np.cos(turn), cy + radius * np.sin(turn)], 1)
    for horn in (-1, 1):
        root, fork = (cx + horn * 0.1, cy - 0.2), (cx + horn * 0.19, cy - 0.42)
        canvas.limb((cx + horn * 0.155, cy - 0.33), (cx + horn * 0.3, cy - 0.38), BARK, 0.055)
        canvas.limb(root, fork, BARK, 0.06)
    _feet(canvas, scene, BARK)
    _arms(canvas, scene, TEAL, 0.24)
    canvas.shape(edge, TEAL)
    canvas.shape(ellipse(cx, cy + 0.15, 0.19, 0.115), LEAF)
    for dx, dy in ((-0.21, -0.04), (0.21, -0.04), (-0.13, -0.19), (0.13, -0.19)):
        canvas.shape(ellipse(cx + dx, cy + dy, 0.035), CREAM, outline=False)
    x, y = cx + side(scene) * 0.06, cy - 0.075
    _single_eye(canvas, scene, x, y, 0.11)
    draw_mouth(canvas, scene.face, x, y + 0.18)


def draw_buzzle(canvas: Canvas, scene: Scene) -> None:
    """A honey-coloured egg with coal stripes, two pairs of pale wings and knobbed feelers."""
    cx, cy = CENTRE
    for wing in (-1, 1):
        for lift, reach in ((-0.13, 0.17), (0.07, 0.12)):
            canvas.shape(ellipse(cx + wing * (0.2 + reach * 0.75), cy + lift - 0.06, reach, 0.1), WING)
        canvas.line(np.array([(cx + wing * 0.06, cy - 0.22), (cx + wing * 0.13, cy - 0.42)]), width=0.03)
        canvas.shape(ellipse(cx + wing * 0.135, cy - 0.43, 0.045), COAL)
    _feet(canvas, scene, COAL)
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    outline = np.stack([cx + np.cos(turn) * 0.225, cy + np.sin(turn) * 0.31], 1)
    canvas.shape(outline, HONEY)
    for top, bottom in ((0.1, 0.165), (0.215, 0.27)):
        wide = [0.225 * np.sqrt(1 - (y / 0.31) ** 2) for y in (top, bottom)]
        band = [
            (cx - wide[0], cy + top),
            (cx + wide[0], cy + top),
            (cx + wide[1], cy + bottom),
            (cx - wide[1], cy + bottom),
        ]
        canvas.shape(band, COAL, outline=False)
    canvas.shape([(cx - 0.05, cy + 0.3), (cx + 0.05, cy + 0.3), (cx, cy + 0.38)], COAL)
    _arms(canvas, scene, COAL, 0.2, width=0.055)
    x, y = cx + side(scene) * 0.06, cy - 0.1
    for eye in (-0.08, 0.08):
        _small_eye(canvas, scene, x + eye, y)
    draw_mouth(canvas, scene.face, x, y + 0.115)


def draw_cog(canvas: Canvas, scene: Scene) -> None:
    """A steel robot: a head box with a glowing face on its screen, a rust chest plate, an aerial, wheels."""
    cx, cy = CENTRE
    canvas.line(np.array([(cx, cy - 0.3), (cx, cy - 0.42)]), width=0.035)
    canvas.shape(ellipse(cx, cy - 0.45, 0.05), RUST)
    for wheel in (-1, 1):
        canvas.shape(ellipse(cx + wheel * 0.13, 0.865, 0.085), COAL)
        canvas.shape(ellipse(cx + wheel * 0.13, 0.865, 0.03), STEEL)
    _arms(canvas, scene, STEEL, 0.2)
    canvas.shape(_box(cx, cy + 0.13, 0.19, 0.13), STEEL)
    canvas.shape(_box(cx, cy + 0.14, 0.1, 0.065), RUST)
    canvas.shape(_box(cx, cy - 0.14, 0.27, 0.175), STEEL)
    canvas.shape(_box(cx, cy - 0.14, 0.215, 0.125), SCREEN)
    x, y = cx + side(scene) * 0.05, cy - 0.17
    for eye in (-0.085, 0.085):
        if scene.face == "closed eyes":
            canvas.shape(_box(x + eye, y, 0.045, 0.016), GLOW, outline=False)
        else:
            canvas.shape(_box(x + eye, y, 0.035, 0.045), GLOW, outline=False)
    mouth = {"smile": arc(x, y + 0.06, 0.07, 0.04, 20, 160), "frown": arc(x, y + 0.12, 0.07, 0.04, 200, 340)}
    canvas.line(mouth.get(scene.face, np.array([(x - 0.05, y + 0.095), (x + 0.05, y + 0.095)])), GLOW, 0.028)


def _box(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    return np.array([(cx - rx, cy - ry), (cx + rx, cy - ry), (cx + rx, cy + ry), (cx - rx, cy + ry)])


def _feet(canvas: Canvas, scene: Scene, color: tuple) -> None:
    for foot in (-1, 1):
        canvas.shape(ellipse(CENTRE[0] + foot * 0.1 + side(scene) * 0.03, 0.885, 0.085, 0.05), color)


def _arms(canvas: Canvas, scene: Scene, color: tuple, wide: float, width: float = 0.08) -> None:
    cx, cy = CENTRE
    rise = -0.17 if scene.arms == "up" else 0.15
    for hand in (-1, 1):
        canvas.limb(
            (cx + hand * (wide - 0.03), cy + 0.04),
            (cx + hand * (wide + 0.12), cy + 0.04 + rise),
            color,
            width,
        )


def _single_eye(canvas: Canvas, scene: Scene, x: float, y: float, radius: float) -> None:
    if scene.face == "closed eyes":
        canvas.line(arc(x, y - 0.02, radius, radius * 0.7, 0, 180), width=0.034)
        return
    canvas.shape(ellipse(x, y, radius), (255, 255, 255))
    canvas.shape(ellipse(x + side(scene) * 0.035, y + 0.01, radius * 0.48), (214, 120, 20))
    canvas.shape(ellipse(x + side(scene) * 0.04, y + 0.01, radius * 0.22), INK, outline=False)
    if scene.face == "angry":
        canvas.line([(x - radius, y - radius - 0.005), (x + radius, y - radius - 0.005)], width=0.04)


def _small_eye(canvas: Canvas, scene: Scene, x: float, y: float) -> None:
    if scene.face == "closed eyes":
        canvas.line(arc(x, y, 0.05, 0.042, 0, 180), width=0.026)
        return
    canvas.shape(ellipse(x, y, 0.05, 0.062), INK)
    canvas.shape(ellipse(x + 0.014 + side(scene) * 0.014, y - 0.022, 0.019), (255, 255, 255), outline=False)
    if scene.face == "angry":
        tilt = 0.02 if x > CENTRE[0] + side(scene) * 0.06 else -0.02
        canvas.line([(x - 0.06, y - 0.08 + tilt), (x + 0.06, y - 0.08 - tilt)], width=0.036)


def _blueprint(color: tuple) -> tuple:
    """Paper of one strong blue, a little lighter where the scene is light."""
    light = sum(color) / 765
    return (22 + 22 * light, 60 + 34 * light, 150 + 40 * light)


def _pastel(color: tuple) -> tuple:
    """Halfway to a warm white."""
    return tuple(0.5 * c + 0.5 * w for c, w in zip(color, (255, 246, 236), strict=True))


def _neon(color: tuple) -> tuple:
    """Near black, with what is left of the colour."""
    return tuple(16 + 0.14 * c for c in color)


HELD_BACK: dict[str, HeldBack] = {
    each.name: each
    for each in (
        HeldBack(
            "moss",
            "character",
            draw_moss.__doc__,
            "moss",
            creature=draw_moss,
            colors=(TEAL, LEAF, BARK, CREAM),
        ),
        HeldBack(
            "buzzle",
            "character",
            draw_buzzle.__doc__,
            "buzzle",
            creature=draw_buzzle,
            colors=(HONEY, COAL, WING),
        ),
        HeldBack(
            "cog",
            "character",
            draw_cog.__doc__,
            "cogsworth",
            creature=draw_cog,
            colors=(STEEL, SCREEN, GLOW, RUST),
        ),
        HeldBack(
            "blueprint",
            "style",
            "White lines on blue paper.",
            "blueprint",
            pen=Pen(fill=_blueprint, line=lambda color: (244, 250, 255), width=0.02),
        ),
        HeldBack(
            "pastel",
            "style",
            "Pale colours without any outline.",
            "pastel",
            pen=Pen(fill=_pastel, line=lambda color: tuple(0.6 * c + 90 for c in color), width=0.0),
        ),
        HeldBack(
            "neon",
            "style",
            "Glowing pink lines on near black.",
            "neon",
            pen=Pen(fill=_neon, line=lambda color: (255, 70, 200), width=0.022),
        ),
    )
}
