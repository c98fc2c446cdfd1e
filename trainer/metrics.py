"""What can be measured on rendered pictures, without looking: one function per metric, listed in `METRICS`.

Pictures are compared as unit vectors, so that a dot product is a similarity. The vectors come from a local
CLIP model where there is one; without any weights they come from `describe`, a hand-made descriptor of
colours and outlines. It sees that a red round thing turned into a green square one, and knows nothing of
what either of them is: compare its values only within one evaluation, never between subjects.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.cells import BASE_EPOCH, Evaluation, Rendered, Row
from trainer.errors import UserError
from trainer.files import write_json

# More training pictures than this change a mean similarity by less than renders differ from seed to seed.
MOST_TRAINING_PICTURES = 200


@dataclass(frozen=True)
class Metric:
    """One number about a picture or a row. `of_picture` and `of_row` return None where it is not defined."""

    label: str
    meaning: str
    misleads: str  # when not to believe it
    better: str  # "higher" | "lower"
    of_picture: Callable[[Pictures, Rendered], float | None] | None = None
    of_row: Callable[[Pictures, list[Rendered]], float | None] | None = None  # None: the mean over its pictures
    needs: str = ""  # "clip": only with a CLIP model


def score(
    evaluation: Evaluation, folder: Path, training_pictures: Sequence[Path], clip: Path | None = None, trigger: str = ""
) -> None:
    """Fill `scores` of every cell and row of the evaluation and write scores.json into `folder`.

    `clip` is a folder with a transformers CLIPModel, its tokenizer and preprocessor_config.json; `trigger` is
    taken out of prompts before they are compared with pictures. Cells whose picture is not there yet and
    training pictures that cannot be read are left out. Values are rounded to four digits. Raises UserError
    when `clip` holds no CLIP model.
    """
    folder = Path(folder)
    pictures = Pictures(evaluation, folder, training_pictures, Clip(Path(clip)) if clip else None, trigger)
    evaluation.about["Scores from"] = f"CLIP ({Path(clip).name})" if clip else "colours and outlines, without CLIP"
    usable = {name: metric for name, metric in METRICS.items() if not metric.needs or clip}
    for row, cells in _rows(evaluation):
        there = [cell for cell in cells if cell.file in pictures.features]
        for name, metric in usable.items():
            _measure(name, metric, pictures, row, there)
    evaluation.rows.sort(key=lambda row: (evaluation.epochs.index(row.epoch), row.strength))
    _write(evaluation, usable, folder / "scores.json")


def _measure(name: str, metric: Metric, pictures: Pictures, row: Row, cells: list[Rendered]) -> None:
    values = []
    for cell in cells if metric.of_picture else []:
        value = metric.of_picture(pictures, cell)
        _keep(cell.scores, name, value)
        values += [cell.scores[name]] if name in cell.scores else []
    if metric.of_row:
        _keep(row.scores, name, metric.of_row(pictures, cells))
    else:
        _keep(row.scores, name, float(np.mean(values)) if values else None)


def _keep(scores: dict[str, float], name: str, value: float | None) -> None:
    """Write or remove: a value from an earlier scoring must not survive the picture that it was measured on."""
    scores.pop(name, None)
    if value is not None and math.isfinite(value):
        scores[name] = round(float(value), 4)


def _rows(evaluation: Evaluation) -> list[tuple[Row, list[Rendered]]]:
    """Every row with its cells; rows that the evaluation lacks are added. The base is one row at any strength."""
    cells: dict[tuple, dict[tuple, Rendered]] = {}
    for cell in evaluation.cells:
        key = (cell.epoch, None if cell.epoch == BASE_EPOCH else cell.strength)
        cells.setdefault(key, {}).setdefault((cell.column, cell.seed), cell)
    rows = {(row.epoch, None if row.epoch == BASE_EPOCH else row.strength): row for row in evaluation.rows}
    for key, members in cells.items():
        if key not in rows:
            rows[key] = Row(key[0], next(iter(members.values())).strength)
            evaluation.rows.append(rows[key])
    return [(rows[key], list(members.values())) for key, members in cells.items()]


def _write(evaluation: Evaluation, metrics: dict[str, Metric], path: Path) -> None:
    write_json(
        path,
        {
            "from": evaluation.about["Scores from"],
            "metrics": {
                name: {key: getattr(metric, key) for key in ("label", "meaning", "misleads", "better")}
                for name, metric in metrics.items()
            },
            "rows": [{"epoch": row.epoch, "strength": row.strength, "scores": row.scores} for row in evaluation.rows],
            "cells": [
                {"file": cell.file, "column": cell.column, "epoch": cell.epoch, "strength": cell.strength}
                | {"seed": cell.seed, "scores": cell.scores}
                for cell in evaluation.cells
            ],
        },
    )


# What metrics are computed from


class Pictures:
    """The pictures of an evaluation and its training pictures, each opened once and kept as numbers."""

    def __init__(
        self, evaluation: Evaluation, folder: Path, training: Sequence[Path], clip: Clip | None, trigger: str
    ) -> None:
        self.clip = clip
        self.trigger = trigger
        self.prompts = {prompt.name: prompt for prompt in evaluation.prompts}
        self.base = {(cell.column, cell.seed): cell for cell in evaluation.cells if cell.epoch == BASE_EPOCH}
        self._texts: dict[str, np.ndarray] = {}
        self.features: dict[str, np.ndarray] = {}  # cell.file: unit vector
        self.tones: dict[str, np.ndarray] = {}  # cell.file: see `tone`
        side = 256
        for cell in evaluation.cells:
            image = None if cell.file in self.features else open_picture(folder / cell.file)
            if image is not None:
                side = min(side, max(image.size))
                self.features[cell.file] = self._encode(image)
                self.tones[cell.file] = tone(image, 256)
        images = (open_picture(path) for path in _sample(training, MOST_TRAINING_PICTURES))
        found = [(self._encode(image), tone(image, side)) for image in images if image is not None]
        self.training = np.array([feature for feature, _ in found])  # [n, d], empty without training pictures
        self.training_tones = np.array([tones for _, tones in found])  # [n, 4]

    def _encode(self, image: Image.Image) -> np.ndarray:
        return self.clip.picture(image) if self.clip else describe(image)

    def text(self, prompt: str) -> np.ndarray:
        """The CLIP vector of a prompt without trigger word, weights and network tags."""
        if prompt not in self._texts:
            self._texts[prompt] = self.clip.text(plain_words(prompt, self.trigger))
        return self._texts[prompt]

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


TONES = ("clipped colours", "colourfulness", "contrast", "fine detail")
# Few training pictures can agree by accident: no deviation counts as smaller than this.
LEAST_DEVIATION = np.array([0.03, 0.03, 0.02, 0.01])


def tone(image: Image.Image, side: int) -> np.ndarray:
    """The four numbers that `TONES` names, each in [0, 1].

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


class Clip:
    """A local CLIPModel (Radford et al. 2021) as two functions that return unit vectors."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoTokenizer, CLIPModel

        try:
            self.model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{folder} holds no CLIP model that can be loaded ({first}): "
                "choose a folder with config.json, model.safetensors and the tokenizer's files."
            ) from error
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device)
        self.how = _preprocessing(folder, self.model.config.vision_config.image_size)

    def picture(self, image: Image.Image) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(self.how(image)).to(self.device)
        with torch.inference_mode():
            return _unit(self.model.get_image_features(pixel_values=pixels[None]))

    def text(self, text: str) -> np.ndarray:
        import torch

        most = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(text, truncation=True, max_length=most, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            features = self.model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
            return _unit(features)


def _unit(features) -> np.ndarray:
    """[1, d] tensor, or the output object that newer transformers wrap it in, to a unit vector [d]."""
    features = getattr(features, "pooler_output", features)
    vector = features[0].float().cpu().numpy()
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _preprocessing(folder: Path, image_size: int) -> Callable[[Image.Image], np.ndarray]:
    """Resize, centre crop and normalise as preprocessor_config.json says, with CLIP's own values as defaults.

    Done here because transformers' fast image processor needs torchvision.
    """
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    mean = np.array(config.get("image_mean", (0.48145466, 0.4578275, 0.40821073)), np.float32)
    std = np.array(config.get("image_std", (0.26862954, 0.26130258, 0.27577711)), np.float32)
    resample = Image.Resampling(config.get("resample", Image.Resampling.BICUBIC))

    def prepare(image: Image.Image) -> np.ndarray:
        """[3, image_size, image_size], float32."""
        scale = image_size / min(image.size)
        width, height = (max(image_size, round(length * scale)) for length in image.size)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        image = image.resize((width, height), resample).crop((left, top, left + image_size, top + image_size))
        return ((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1)

    return prepare


# The metrics


def likeness(pictures: Pictures, cell: Rendered) -> float | None:
    """Mean cosine to the training pictures (CLIP-I of DreamBooth, Ruiz et al. 2023), of prompts with the trigger."""
    if pictures.leak(cell) or not len(pictures.training):
        return None
    return float((pictures.training @ pictures.features[cell.file]).mean())


def bleed(pictures: Pictures, cell: Rendered) -> float | None:
    """1 - cosine to the base's picture of the same prompt and seed, of prompts without the trigger."""
    base = pictures.base.get((cell.column, cell.seed))
    if not pictures.leak(cell) or cell.epoch == BASE_EPOCH or base is None or base.file not in pictures.features:
        return None
    return max(0.0, 1 - float(pictures.features[cell.file] @ pictures.features[base.file]))


def diversity(pictures: Pictures, cells: list[Rendered]) -> float | None:
    """Mean 1 - cosine over all pairs of a row's pictures with the trigger."""
    features = [pictures.features[cell.file] for cell in cells if not pictures.leak(cell)]
    distances = [max(0.0, 1 - float(one @ other)) for one, other in combinations(features, 2)]
    return float(np.mean(distances)) if distances else None


def memorisation(pictures: Pictures, cell: Rendered) -> float | None:
    """Cosine to the nearest training picture minus the mean cosine to all of them."""
    if pictures.leak(cell) or len(pictures.training) < 2:
        return None
    similar = pictures.training @ pictures.features[cell.file]
    return float(similar.max() - similar.mean())


def burn(pictures: Pictures, cell: Rendered) -> float | None:
    """How far `tone` exceeds the training pictures' mean by more than one standard deviation, in deviations."""
    if not len(pictures.training_tones):
        return None
    usual = pictures.training_tones.mean(0)
    deviation = np.maximum(pictures.training_tones.std(0), LEAST_DEVIATION)
    return float(np.maximum(0, (pictures.tones[cell.file] - usual) / deviation - 1).mean())


def prompt(pictures: Pictures, cell: Rendered) -> float | None:
    """Cosine of the picture and its prompt's other words (CLIP-T of DreamBooth)."""
    wanted = pictures.prompts.get(cell.column)
    if wanted is None or not plain_words(wanted.prompt, pictures.trigger):
        return None
    return float(pictures.text(wanted.prompt) @ pictures.features[cell.file])


METRICS: dict[str, Metric] = {
    "likeness": Metric(
        "Likeness",
        "How similar pictures with the trigger word are to the training pictures, on average (1 = the same).",
        "Copies of training pictures score highest, so it keeps rising while the LoRA overcooks. Without CLIP it "
        "compares colours and outlines only, and a matching background counts as likeness.",
        "higher",
        likeness,
    ),
    "bleed": Metric(
        "Bleed",
        "How far pictures without the trigger word have moved away from the base model's (0 = identical).",
        "Any change counts, better or worse: a picture that merely composes itself differently has moved too.",
        "lower",
        bleed,
    ),
    "diversity": Metric(
        "Variety",
        "How different the pictures of a row are from one another, over prompts and seeds (0 = all the same).",
        "It falls a little in any good LoRA, because the same character is in every picture. Noise and "
        "broken pictures count as variety.",
        "higher",
        of_row=diversity,
    ),
    "memorisation": Metric(
        "Memorised",
        "How much nearer pictures are to one single training picture than to all of them on average.",
        "Training sets with near duplicates or of very different scenes raise it without anything being copied.",
        "lower",
        memorisation,
    ),
    "burn": Metric(
        "Burn",
        "Clipped colours, colourfulness, contrast and fine detail beyond what the training pictures have, "
        "in their standard deviations.",
        "Prompts may ask for something more colourful than any training picture. Compare with the base's value.",
        "lower",
        burn,
    ),
    "prompt": Metric(
        "Prompt",
        "How well pictures still show what the rest of the prompt says, according to CLIP.",
        "CLIP counts poorly, mixes up left and right, and reads little of styles; small differences mean nothing.",
        "higher",
        prompt,
        needs="clip",
    ),
}
