"""The metrics: one function each, and a line in `METRICS` that says what it means and when it misleads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from trainer.cells import Rendered, is_base
from trainer.metrics.pictures import LEAST_DEVIATION, Pictures, plain_words


@dataclass(frozen=True)
class Metric:
    """One number about a picture or a row. `of_picture` and `of_row` return None where it is not defined."""

    label: str
    meaning: str
    misleads: str  # when not to believe it
    better: str  # "higher" | "lower"
    of_picture: Callable[[Pictures, Rendered], float | None] | None = None
    of_row: Callable[[Pictures, list[Rendered]], float | None] | None = None  # None: the mean over its pictures
    needs: str = ""  # only with "clip", "dino" or "aesthetic" models, "losses", "held_out" ones, several "strengths"


def likeness(pictures: Pictures, cell: Rendered) -> float | None:
    """Mean cosine to the training pictures (CLIP-I of DreamBooth, Ruiz et al. 2023), of prompts with the trigger."""
    if pictures.leak(cell) or not len(pictures.training):
        return None
    return float((pictures.training @ pictures.features[cell.file]).mean())


def bleed(pictures: Pictures, cell: Rendered) -> float | None:
    """1 - cosine to the base's picture of the same prompt and seed, of prompts without the trigger."""
    base = pictures.base(cell)
    if not pictures.leak(cell) or is_base(cell.epoch) or base is None:
        return None
    return max(0.0, 1 - float(pictures.features[cell.file] @ pictures.features[base.file]))


def diversity(pictures: Pictures, cells: list[Rendered]) -> float | None:
    """Mean 1 - cosine between the seeds of a prompt with the trigger, over its prompts; None where each has one seed.

    Across prompts, what was asked for would be measured: pictures of other poses and places differ in any case.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for cell in cells:
        if not pictures.leak(cell):
            columns.setdefault(cell.column, []).append(pictures.features[cell.file])
    pairs = [list(combinations(features, 2)) for features in columns.values() if len(features) > 1]
    means = [np.mean([max(0.0, 1 - float(one @ other)) for one, other in column]) for column in pairs]
    return float(np.mean(means)) if means else None


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


def dino(pictures: Pictures, cell: Rendered) -> float | None:
    """Mean cosine to the training pictures in DINO's space (DreamBooth, Ruiz et al. 2023), with the trigger."""
    if pictures.leak(cell) or not len(pictures.training_dino):
        return None
    return float((pictures.training_dino @ pictures.dino[cell.file]).mean())


def aesthetic(pictures: Pictures, cell: Rendered) -> float | None:
    """The mark that people would give the picture, from 1 to 10, by a predictor on CLIP's vectors."""
    return pictures.aesthetic(pictures.features[cell.file])


def response(pictures: Pictures, cells: list[Rendered]) -> float | None:
    """How much further from the base's picture this strength is than the one below it, per unit of strength."""
    rises = []
    for cell in cells:
        base = pictures.base(cell)
        if is_base(cell.epoch) or pictures.leak(cell) or base is None:
            continue
        ladder = pictures.ladder[cell.column, cell.seed, cell.epoch]
        below = max((one for one in ladder if one < cell.strength and one > 0), default=0.0)
        steps = ((cell, 1), (ladder[below], -1)) if below else ((cell, 1),)
        if cell.strength > 0 and all(one.file in pictures.features for one, _ in steps):
            ground = pictures.features[base.file]
            moved = sum(sign * (1 - float(pictures.features[one.file] @ ground)) for one, sign in steps)
            rises.append(moved / (cell.strength - below))
    return float(np.mean(rises)) if rises else None


def loss(pictures: Pictures, cells: list[Rendered]) -> float | None:
    """Mean denoising error on training pictures, at noise and time steps that are the same for every row."""
    return _loss(pictures, cells, "training")


def held_out(pictures: Pictures, cells: list[Rendered]) -> float | None:
    """The same on pictures that the run was not trained on."""
    return _loss(pictures, cells, "held_out")


def gap(pictures: Pictures, cells: list[Rendered]) -> float | None:
    """Held-out loss over training loss, each in parts of the base's, minus 1."""
    own = [_loss(pictures, cells, name) for name in ("held_out", "training")]
    base = [pictures.base_losses(cells[0].epoch).get(name) for name in ("held_out", "training")] if cells else [None]
    if None in own or None in base or not all(base) or not own[1]:
        return None
    return own[0] / base[0] / (own[1] / base[1]) - 1


def _loss(pictures: Pictures, cells: list[Rendered], name: str) -> float | None:
    if not cells:
        return None
    key = (cells[0].epoch, 1.0 if is_base(cells[0].epoch) else cells[0].strength)
    return pictures.losses.get(key, {}).get(name)


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
        "How different the pictures of one prompt are from seed to seed, on average over the prompts with the trigger "
        "word (0 = all the same). Two seeds are needed.",
        "It falls a little in any good LoRA, because the same character is in every picture. Noise and "
        "broken pictures count as variety. Prompts that pin their seed have no part in it.",
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
    "dino": Metric(
        "DINO",
        "How similar pictures with the trigger word are to the training pictures according to DINO, which sees the "
        "one subject where CLIP sees its kind (1 = the same).",
        "It asks for the same view and ground as well: a subject in a new pose or place scores lower though it is "
        "right. Styles are not what it was made for.",
        "higher",
        dino,
        needs="dino",
    ),
    "aesthetic": Metric(
        "Aesthetic",
        "The mark from 1 to 10 that people who rate pictures would give, according to a predictor that reads CLIP.",
        "It likes what its raters liked: polished paintings and portraits. Drawings and plain grounds score low "
        "however good they are, and it knows nothing of your subject. Compare with the base's value.",
        "higher",
        aesthetic,
        needs="aesthetic",
    ),
    "response": Metric(
        "Response",
        "How much one more unit of strength still moves pictures with the trigger word away from the base's, "
        "measured from the next lower strength (0 = no more effect).",
        "It says how much changes, not whether for the better: a sudden rise is often the point where pictures break. "
        "Strengths that lie close together measure noise.",
        "",
        of_row=response,
        needs="strengths",
    ),
    "loss": Metric(
        "Loss",
        "How far the model is from removing noise from training pictures, at the same noise and time steps for every "
        "row (the training loss without its luck).",
        "It falls as long as anything is learned by heart, so with enough training the lowest is overcooked. Compare "
        "rows of one run only.",
        "lower",
        of_row=loss,
        needs="losses",
    ),
    "held_out": Metric(
        "Held-out loss",
        "The same on pictures of the subject that were not trained on. Where it turns up, learning has become "
        "learning by heart.",
        "A handful of pictures says little about small differences, and captions in other words raise it.",
        "lower",
        of_row=held_out,
        needs="held_out",
    ),
    "gap": Metric(
        "Gap",
        "By how much the loss on held-out pictures has fallen behind that on training pictures, since the base "
        "(0 = what was learned holds for both).",
        "It grows a little in every run. Held-out pictures that are unlike the training pictures start with a gap.",
        "lower",
        of_row=gap,
        needs="held_out",
    ),
}
