"""The drawn world: one cartoon creature per picture, and the tags that say what was drawn.

Everything is a polygon in unit coordinates (x to the right, y down, the picture is 1 x 1), drawn three times
too large and scaled down, so that edges are smooth at any size. What is drawn follows from a `Scene` and a
`Jitter` alone: the same two give the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from PIL import Image, ImageDraw

INK = (34, 28, 40)
COLORS = {
    "red": (220, 38, 38),
    "orange": (248, 140, 30),
    "yellow": (250, 218, 50),
    "green": (62, 176, 70),
    "blue": (50, 108, 226),
    "purple": (142, 68, 190),
    "pink": (246, 132, 186),
    "white": (244, 244, 240),
    "black": (52, 48, 58),
}
BACKGROUNDS = {
    "white": (252, 252, 252),
    "grey": (168, 170, 176),
    "blue": (168, 212, 248),
    "green": (176, 228, 168),
    "yellow": (252, 238, 160),
    "pink": (250, 200, 214),
    "purple": (204, 184, 240),
}

BODIES = ("round", "square", "tall", "star", "pear", "cloud")
BODY_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
HATS = ("none", "top hat", "party hat", "crown", "beanie", "bow")
HAT_COLORS = ("red", "yellow", "green", "blue", "purple", "black")
FACES = ("smile", "open mouth", "frown", "closed eyes", "angry")
FACINGS = ("front", "left", "right")
ARMS = ("down", "up")
CLOTHES = ("none", "scarf")
SETTINGS = ("none", "grass", "moon", "stripes")


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Every field has its choices in `CHOICES`; `tags()` words them for a caption."""

    body: str = "round"
    body_color: str = "blue"
    hat: str = "none"
    hat_color: str = "red"
    face: str = "smile"
    facing: str = "front"
    arms: str = "down"
    clothes: str = "none"
    setting: str = "none"
    background: str = "white"

    def tags(self) -> tuple[str, ...]:
        """Booru-style tags, always in this order; what is absent has no tag, as on the boorus."""
        return tuple(tag for tag in (tag_of(self, attribute) for attribute in TAGGED) if tag)

    def caption(self) -> str:
        return ", ".join(self.tags())


CHOICES: dict[str, tuple[str, ...]] = {
    "body": BODIES,
    "body_color": BODY_COLORS,
    "hat": HATS,
    "hat_color": HAT_COLORS,
    "face": FACES,
    "facing": FACINGS,
    "arms": ARMS,
    "clothes": CLOTHES,
    "setting": SETTINGS,
    "background": tuple(BACKGROUNDS),
}
TAGGED = ("creature", *CHOICES)


def tag_of(scene: Scene, attribute: str) -> str | None:
    """The tag with which a caption states one attribute of the scene, or None where nothing is said of it."""
    if attribute == "creature":
        return "1creature"
    value = getattr(scene, attribute)
    if value == "none" or (attribute == "hat_color" and scene.hat == "none"):
        return None
    return _WORDING[attribute].format(value)


_WORDING = {
    "body": "{} body",
    "body_color": "{} body",
    "hat": "{}",
    "hat_color": "{} hat",
    "face": "{}",
    "facing": "facing {}",
    "arms": "arms {}",
    "clothes": "{}",
    "setting": "{}",
    "background": "{} background",
}


def all_tags() -> tuple[str, ...]:
    """Every tag the world knows, in caption order."""
    tags = ["1creature"]
    for attribute, values in CHOICES.items():
        tags += [_WORDING[attribute].format(value) for value in values if value != "none"]
    return tuple(dict.fromkeys(tags))


def attributes_of(caption: str) -> dict[str, str]:
    """What a caption or prompt states of a scene: attribute to value. Words unknown here are passed over."""
    known = {
        _WORDING[name].format(value): (name, value)
        for name, values in CHOICES.items()
        for value in values
        if value != "none"
    }
    return dict(known[tag] for tag in map(str.strip, caption.lower().split(",")) if tag in known)


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene with every attribute drawn evenly; a hat never has the colour of the body under it."""
    scene = Scene(**{name: values[rng.integers(len(values))] for name, values in CHOICES.items()})
    while scene.hat_color == scene.body_color:
        scene = replace(scene, hat_color=HAT_COLORS[rng.integers(len(HAT_COLORS))])
    return scene


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
    """How shapes reach the paper. The styles of the world are pens: see `styles.py`."""

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
        canvas.limb(
            (cx + away * (lower - 0.06), cy + 0.14), (cx + away * (lower + 0.1), cy + 0.1), color, 0.09
        )
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
            canvas.line(
                [(x + eye - 0.065, y - 0.078 + tilt), (x + eye + 0.065, y - 0.078 - tilt)], width=0.036
            )
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
        canvas.shape(
            [(x - 0.17, y - 0.025), (x + 0.17, y - 0.025), (x + 0.17, y + 0.03), (x - 0.17, y + 0.03)], color
        )
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
        canvas.shape(
            np.vstack([arc(x, y, 0.16, 0.15, 180, 360), [(x + 0.16, y + 0.02), (x - 0.16, y + 0.02)]]), color
        )
        canvas.shape(ellipse(x, y + 0.01, 0.18, 0.035), (255, 255, 255))
    elif hat == "bow":
        for wing in (-1, 1):
            canvas.shape([(x, y - 0.03), (x + wing * 0.17, y - 0.12), (x + wing * 0.17, y + 0.06)], color)
        canvas.shape(ellipse(x, y - 0.03, 0.045), color)


assert set(CHOICES) == {field.name for field in fields(Scene)}
