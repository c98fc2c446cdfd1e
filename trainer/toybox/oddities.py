"""Odd creatures: what the bases see beside the world's own, so that they can learn what they have never seen.

A real base model has seen horns, spots, wings and single eyes of every colour before it meets a character. A base
that knows only the world's eight plain bodies cannot be taught another by the few weights of a LoRA. Here every
creature is put together at random, from parts that no held-back character is drawn with in the same shapes, colours
and places, and its caption says "odd" and what it is made of.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from trainer.toybox.canvas import INK, Canvas, arc, ellipse
from trainer.toybox.scene import Scene, random_scene, tag_of
from trainer.toybox.world import CENTRE, draw, draw_mouth, side

SEED = 5
POSE = ("face", "facing", "arms", "setting", "background")
HUES = ("red", "orange", "yellow", "lime", "green", "teal", "cyan", "blue", "indigo", "purple", "magenta", "rose")


@dataclass(frozen=True)
class Paint:
    rgb: tuple[int, int, int]
    name: str

    @staticmethod
    def random(rng: np.random.Generator) -> Paint:
        """Any colour; names are coarse, as people's are."""
        hue, saturation, value = rng.random(), rng.uniform(0.05, 1), rng.uniform(0.15, 1)
        rgb = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
        if value < 0.3:
            return Paint(rgb, "black")
        if saturation < 0.2:
            return Paint(rgb, "white" if value > 0.85 else "grey")
        shade = "dark " if value < 0.55 else "pale " if saturation < 0.5 else ""
        return Paint(rgb, shade + HUES[round(hue * 12) % 12])


class Odd:
    """One odd creature: chosen once from a generator, then drawn in any scene's pose."""

    def __init__(self, rng: np.random.Generator):
        self.rng_seed = int(rng.integers(2**31))
        self.body, self.limb, self.mark, self.iris, self.extra = (Paint.random(rng) for _ in range(5))
        self.edge = str(rng.choice(["smooth", "spiky", "wavy", "boxy"]))
        self.eyes = int(rng.choice([1, 2, 2, 3]))
        self.marking = str(rng.choice(["plain", "belly", "spots", "bands", "plate", "mask"]))
        self.top = str(rng.choice(["bald", "horns", "ears", "feelers", "tuft"]))
        self.sides = str(rng.choice(["arms", "arms", "wings"]))
        self.size = rng.uniform((0.2, 0.22), (0.31, 0.33))

    def tags(self) -> list[str]:
        """What the caption says of it."""
        own = [f"{self.body.name} skin", f"{self.limb.name} feet", f"{self.eyes} eyes" if self.eyes > 1 else "one eye"]
        own += [self.edge] if self.edge != "smooth" else []
        own += [f"{self.mark.name} {self.marking}"] if self.marking != "plain" else []
        own += [f"{self.extra.name} {self.top}"] if self.top != "bald" else []
        return own + (["wings"] if self.sides == "wings" else [])

    def outline(self) -> np.ndarray:
        rng = np.random.default_rng(self.rng_seed)
        turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        cos, sin = np.cos(turn), np.sin(turn)
        radius = np.ones(72)
        if self.edge == "spiky":
            radius += np.where(np.arange(72) // int(rng.integers(1, 4)) % 2, -1, 1) * rng.uniform(0.05, 0.13)
        elif self.edge == "wavy":
            radius += rng.uniform(0.05, 0.16) * np.cos(int(rng.integers(3, 9)) * turn)
        power = rng.uniform(0.15, 0.4) if self.edge == "boxy" else rng.uniform(0.75, 1)
        shape = np.stack([np.sign(cos) * np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power], 1)
        shape[:, 0] *= 1 + rng.uniform(-0.3, 0.3) * sin
        return shape * radius[:, None] * self.size + CENTRE

    def __call__(self, canvas: Canvas, scene: Scene) -> None:
        rng = np.random.default_rng(self.rng_seed + 1)
        outline = self.outline()
        (cx, cy), (wide, high) = CENTRE, self.size
        self._top(canvas, rng, cx, cy - high)
        rise = -0.17 if scene.arms == "up" else 0.15
        for hand in (-1, 1):
            canvas.shape(ellipse(cx + hand * 0.1 + side(scene) * 0.03, 0.885, 0.085, 0.05), self.limb.rgb)
            root = (cx + hand * (wide - 0.04), cy + 0.03)
            if self.sides == "wings":
                canvas.shape(
                    ellipse(cx + hand * (wide + 0.07), cy + rise / 3, 0.13, rng.uniform(0.07, 0.12)), self.extra.rgb
                )
            canvas.limb(root, (cx + hand * (wide + 0.1), cy + 0.03 + rise), self.body.rgb, rng.uniform(0.05, 0.09))
        canvas.shape(outline, self.body.rgb)
        self._marking(canvas, rng)
        x, y = cx + side(scene) * 0.065, cy + rng.uniform(-0.11, -0.05)
        self._eyes(canvas, rng, scene, x, y)
        draw_mouth(canvas, scene.face, x, y + rng.uniform(0.12, 0.19))

    def _top(self, canvas: Canvas, rng: np.random.Generator, cx: float, top: float) -> None:
        out, up = rng.uniform(0.06, 0.16), rng.uniform(0.08, 0.17)
        for hand in (-1, 1):
            x, y = cx + hand * out, top + 0.07
            if self.top == "horns":
                canvas.shape([(x - 0.05, y), (x + hand * 0.05, y - up), (x + 0.05, y)], self.extra.rgb)
            elif self.top == "ears":
                canvas.shape(ellipse(x, y - up / 2, 0.05, up), self.extra.rgb)
            elif self.top == "feelers":
                canvas.limb(
                    (x, y), (x + hand * rng.uniform(0, 0.1), y - up - 0.04), self.extra.rgb, rng.uniform(0.03, 0.07)
                )
        if self.top == "tuft":
            canvas.shape(
                [
                    (cx - 0.1, top + 0.06),
                    (cx - 0.06, top - 0.1),
                    (cx, top),
                    (cx + 0.07, top - 0.09),
                    (cx + 0.1, top + 0.06),
                ],
                self.extra.rgb,
            )

    def _marking(self, canvas: Canvas, rng: np.random.Generator) -> None:
        (cx, cy), (wide, high) = CENTRE, self.size
        outlined = bool(rng.random() < 0.5)
        if self.marking == "belly":
            canvas.shape(
                ellipse(cx, cy + high * 0.45, wide * rng.uniform(0.4, 0.75), high * rng.uniform(0.3, 0.45)),
                self.mark.rgb,
            )
        elif self.marking == "spots":
            for _ in range(int(rng.integers(3, 8))):
                turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.8)
                canvas.shape(
                    ellipse(cx + far * wide * np.cos(turn), cy + far * high * np.sin(turn), rng.uniform(0.025, 0.05)),
                    self.mark.rgb,
                    outline=outlined,
                )
        elif self.marking == "bands":
            for at in np.arange(0.25, 0.85, 0.3):
                half = wide * np.sqrt(1 - (at + 0.12) ** 2) * 0.9
                y = cy + high * at
                canvas.shape(
                    [(cx - half, y), (cx + half, y), (cx + half, y + 0.04), (cx - half, y + 0.04)],
                    self.mark.rgb,
                    outline=outlined,
                )
        elif self.marking == "plate":
            w, h = wide * rng.uniform(0.3, 0.7), high * rng.uniform(0.15, 0.3)
            y = cy + high * 0.5
            canvas.shape([(cx - w, y - h), (cx + w, y - h), (cx + w, y + h), (cx - w, y + h)], self.mark.rgb)
        elif self.marking == "mask":
            canvas.shape(
                ellipse(cx, cy - 0.07, wide * rng.uniform(0.6, 0.85), high * rng.uniform(0.35, 0.5)), self.mark.rgb
            )

    def _eyes(self, canvas: Canvas, rng: np.random.Generator, scene: Scene, x: float, y: float) -> None:
        radius = {1: rng.uniform(0.08, 0.13), 2: rng.uniform(0.045, 0.07), 3: 0.045}[self.eyes]
        plain, tinted = rng.random() < 0.3, rng.random() < 0.6
        for at in np.linspace(-1, 1, self.eyes) if self.eyes > 1 else (0.0,):
            ex = x + at * (0.09 if self.eyes == 2 else 0.12)
            if scene.face == "closed eyes":
                canvas.line(arc(ex, y, radius, radius * 0.8, 0, 180), width=0.028)
                continue
            if plain:
                canvas.shape(ellipse(ex, y, radius * 0.8, radius), self.iris.rgb)
            else:
                canvas.shape(ellipse(ex, y, radius), (255, 255, 255))
                canvas.shape(
                    ellipse(ex + side(scene) * radius * 0.35, y + 0.01, radius * rng.uniform(0.4, 0.55)),
                    self.iris.rgb if tinted else INK,
                )
            if scene.face == "angry":
                canvas.line([(ex - radius, y - radius - 0.01), (ex + radius, y - radius - 0.01)], width=0.036)


def numbered(index: int) -> tuple[Odd, Scene, np.random.Generator]:
    """Odd creature `index` of the endless series, the scene it stands in, and the generator that goes on to draw it."""
    rng = np.random.default_rng((SEED, index))
    return Odd(rng), random_scene(rng), rng


def picture(index: int) -> np.ndarray:
    """The drawing of odd creature `index`, uint8 [128, 128, 3]."""
    odd, scene, rng = numbered(index)
    return np.asarray(draw(scene, 128, rng, creature=odd), dtype=np.uint8)


def caption(index: int, rng: np.random.Generator, empty: float = 0.1) -> str:
    """Its tags, shuffled, some of them missing; `rng` is that of the training step."""
    if rng.random() < empty:
        return ""
    odd, scene, _ = numbered(index)
    told = [tag for tag in (tag_of(scene, name) for name in POSE) if tag and rng.random() > 0.15]
    told += [tag for tag in odd.tags() if rng.random() > 0.3]
    rng.shuffle(told)
    return ", ".join(["1creature", "odd", *told])
