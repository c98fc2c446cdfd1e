"""What a picture of the drawn world shows: scenes, the tags that say so, and what its colours are called."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

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


assert set(CHOICES) == {field.name for field in fields(Scene)}
