"""The pictures of an evaluation as numbers: vectors to compare, and what colours and contrast they have."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from trainer.cells import BASE_EPOCH, SECOND_BASE, Evaluation, Rendered, is_base
from trainer.metrics.models import Aesthetic, Clip, Dino

# More training pictures than this change a mean similarity by less than renders differ from seed to seed.
MOST_TRAINING_PICTURES = 200

# (epoch, strength) -> {"training": mean denoising loss, "held_out": …}; the base is (0, 1.0), that of a second run
# (SECOND_BASE, 1.0): measured on its pictures, even where both runs have one base.
Losses = Mapping[tuple[int, float], Mapping[str, float]]


class Pictures:
    """The pictures of an evaluation and its training pictures, each opened once and kept as numbers."""

    def __init__(
        self,
        evaluation: Evaluation,
        folder: Path,
        training: Sequence[Path],
        clip: Clip | None,
        trigger: str,
        dino: Dino | None = None,
        losses: Losses = MappingProxyType({}),
        aesthetic: Aesthetic | None = None,
    ) -> None:
        self.clip = clip
        self.aesthetic = aesthetic
        self.folder, self.training_files = Path(folder), _sample(training, MOST_TRAINING_PICTURES)
        self.losses = losses
        self.trigger = trigger
        self.prompts = {prompt.name: prompt for prompt in evaluation.prompts}
        self.evaluation = evaluation
        self._bases = {(cell.epoch, cell.column, cell.seed): cell for cell in evaluation.cells if is_base(cell.epoch)}
        # Every picture of one prompt, seed and epoch by strength; at strength 0 it is the base's.
        self.ladder: dict[tuple[str, int, int], dict[float, Rendered]] = {}
        for cell in evaluation.cells:
            if not is_base(cell.epoch):
                self.ladder.setdefault((cell.column, cell.seed, cell.epoch), {})[cell.strength] = cell
        self._texts: dict[str, np.ndarray] = {}
        self.features: dict[str, np.ndarray] = {}  # cell.file: unit vector
        self.tones: dict[str, np.ndarray] = {}  # cell.file: see `tone`
        self.dino: dict[str, np.ndarray] = {}  # cell.file: unit vector
        side = 256
        for cell in evaluation.cells:
            image = None if cell.file in self.features else open_picture(folder / cell.file)
            if image is not None:
                side = min(side, max(image.size))
                self.features[cell.file] = self._encode(image)
                self.tones[cell.file] = tone(image, 256)
                if dino:
                    self.dino[cell.file] = dino.picture(image)
        images = map(open_picture, self.training_files)
        found = [
            (self._encode(image), tone(image, side), dino.picture(image) if dino else None)
            for image in images
            if image is not None
        ]
        self.training = np.array([feature for feature, _, _ in found])  # [n, d], empty without training pictures
        self.training_tones = np.array([tones for _, tones, _ in found])  # [n, 4]
        self.training_dino = np.array([vector for _, _, vector in found])  # [n, e]

    def image(self, cell: Rendered) -> Image.Image | None:
        """A cell's picture itself, for a metric that looks at it anew; None where it cannot be read."""
        return open_picture(self.folder / cell.file)

    def training_images(self) -> Iterator[Image.Image]:
        """The training pictures that are compared with, as far as they can be read."""
        return filter(None, map(open_picture, self.training_files))

    def _encode(self, image: Image.Image) -> np.ndarray:
        return self.clip.picture(image) if self.clip else describe(image)

    def text(self, prompt: str) -> np.ndarray:
        """The CLIP vector of a prompt without trigger word, weights and network tags."""
        if prompt not in self._texts:
            self._texts[prompt] = self.clip.text(plain_words(prompt, self.trigger))
        return self._texts[prompt]

    def base(self, cell: Rendered) -> Rendered | None:
        """The base's picture of the same prompt and seed, where there is one that can be read."""
        base = self._bases.get((self.evaluation.base_of(cell.epoch), cell.column, cell.seed))
        return base if base is not None and base.file in self.features else None

    def base_losses(self, epoch: int) -> Mapping[str, float]:
        """What the base of an epoch's run loses on that run's pictures."""
        return self.losses.get((SECOND_BASE if epoch in self.evaluation.labels else BASE_EPOCH, 1.0), {})

    def leak(self, cell: Rendered) -> bool:
        return cell.column in self.prompts and self.prompts[cell.column].leak


def open_picture(path: Path) -> Image.Image | None:
    """The picture as RGB, transparency on white; None when it is not there or cannot be read."""
    try:
        with Image.open(path) as image:
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _sample(paths: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of the paths, evenly spread."""
    paths = list(paths)
    if len(paths) <= most:
        return paths
    return [paths[round(index)] for index in np.linspace(0, len(paths) - 1, most)]


def plain_words(prompt: str, trigger: str = "") -> str:
    """A prompt as CLIP should read it: no trigger word, no (weights:1.2), no <lora:…> tags.

    >>> plain_words("moss, (sitting:1.2), <lora:moss:0.8> [hat]", "moss")
    'sitting, hat'
    """
    words = re.sub(r"<[^<>]*>", " ", prompt)
    words = re.sub(r":\s*[\d.]+\s*(?=[)\]])", "", words)
    words = re.sub(r"(?<!\\)[()\[\]]", " ", words).replace("\\", "")
    if trigger:
        words = re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", " ", words, flags=re.IGNORECASE)
    return ", ".join(" ".join(part.split()) for part in words.split(",") if part.strip())


# Pictures as vectors

LEVELS = (1, 2, 4)
ORIENTATIONS = 9
COLOUR_STEPS = 5


def describe(image: Image.Image) -> np.ndarray:
    """A unit vector of a picture's outlines and colours, [d]; the dot product of two is in [0, 1].

    Histograms of gradient orientations (Dalal & Triggs 2005) and of RGB colours over a spatial pyramid of
    1, 2×2 and 4×4 parts (Lazebnik et al. 2006). Each histogram enters as its square root, so that a dot
    product is the mean Bhattacharyya coefficient of the six.
    """
    pixels = _shrink(image, 128)
    finest = LEVELS[-1]
    outlines = _pool(_orientations(pixels.mean(2)), finest)
    # Every fourth pixel says the same of the colours, and is where the time goes.
    colours = _pool(_colours(pixels[::2, ::2]), finest)
    blocks = []
    for level in LEVELS:
        for histogram in (outlines, colours):
            parts = histogram.reshape(level, finest // level, level, finest // level, -1).sum((1, 3)).ravel()
            blocks.append(np.sqrt(parts / max(parts.sum(), 1e-9)))
    vector = np.concatenate(blocks)
    return vector / max(np.linalg.norm(vector), 1e-9)


def _shrink(image: Image.Image, side: int) -> np.ndarray:
    """The picture at an area of side², aspect kept, [h, w, 3] in [0, 1]."""
    scale = side / math.sqrt(image.width * image.height)
    size = [max(8, round(length * scale)) for length in image.size]
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32) / 255


def _orientations(grey: np.ndarray) -> np.ndarray:
    """Gradient magnitude by unsigned orientation, each shared between the two nearest bins, [h, w, ORIENTATIONS]."""
    dy, dx = np.gradient(grey)
    magnitude = np.hypot(dx, dy)
    return _soft_bins(np.arctan2(dy, dx) % np.pi / np.pi * ORIENTATIONS, ORIENTATIONS, wrap=True) * magnitude[..., None]


def _colours(pixels: np.ndarray) -> np.ndarray:
    """Each pixel's share in the bins of an RGB cube, [h, w, COLOUR_STEPS³]."""
    bins = _soft_bins(pixels * (COLOUR_STEPS - 1), COLOUR_STEPS, wrap=False)
    red, green, blue = bins[..., 0, :, None, None], bins[..., 1, None, :, None], bins[..., 2, None, None, :]
    return (red * green * blue).reshape(*pixels.shape[:2], -1)


def _soft_bins(position: np.ndarray, bins: int, wrap: bool) -> np.ndarray:
    """One-hot by linear interpolation: the two nearest bins share each value, [..., bins]."""
    distance = np.abs(position[..., None] - np.arange(bins))
    if wrap:
        distance = np.minimum(distance, bins - distance)
    return np.maximum(0, 1 - distance)


def _pool(values: np.ndarray, parts: int) -> np.ndarray:
    """Sums over parts × parts equal areas, [parts, parts, bins]."""
    rows, columns = (np.linspace(0, length, parts + 1).astype(int)[:-1] for length in values.shape[:2])
    return np.add.reduceat(np.add.reduceat(values, rows, 0), columns, 1)


# Few training pictures can agree by accident: no deviation counts as smaller than this.
LEAST_DEVIATION = np.array([0.03, 0.03, 0.02, 0.01])


def tone(image: Image.Image, side: int) -> np.ndarray:
    """Clipped colours, colourfulness, contrast and fine detail [4], each in [0, 1].

    Share of colourful pixels with a channel at its limit (white and black are fine), chroma that a tenth of the
    pixels exceeds (so that a plain ground does not hide neon colours), RMS contrast, mean |Laplacian|. The
    picture is first made no larger than `side`, since fine detail depends on the scale.
    """
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, np.float32) / 255
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    chroma = pixels.max(2) - pixels.min(2)
    clipped = (((pixels <= 0.01) | (pixels >= 0.99)).any(2) & (chroma > 0.1)).mean()
    inner = grey[1:-1, 1:-1]
    around = (grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]) / 4
    detail = np.abs(inner - around).mean() if inner.size else 0.0
    return np.array([clipped, np.quantile(chroma, 0.9), grey.std(), detail], np.float64)
