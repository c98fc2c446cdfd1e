"""A tagger in the format of the WD14 taggers: model.onnx and selected_tags.csv.

Input [n, 128, 128, 3] float32, BGR, 0-255; output [n, tags] probabilities. The real ones take 448 px.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from trainer.toybox import series
from trainer.toybox.heldback import HELD_BACK
from trainer.toybox.scene import Scene, all_tags, tag_of
from trainer.toybox.training import Course, autocast, device, generators, replace_folder, to_tensor

RATINGS = ("general", "sensitive", "questionable", "explicit")
GENERAL, RATING = 0, 9  # the categories of selected_tags.csv
THRESHOLD = 0.35


@dataclass(frozen=True)
class TaggerRecipe:
    channels: tuple[int, ...] = (16, 32, 48, 64, 64)
    steps: int = 1500
    batch: int = 64
    lr: float = 3e-3
    seed: int = 4


class Tagger(nn.Module):
    """Halving convolutions down to 4 x 4, then one linear layer: a tag may depend on the place of a thing."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        inputs = (3, *channels[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False) for a, b in zip(inputs, channels, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.head = nn.Linear(channels[-1] * 16, len(RATINGS) + len(all_tags()))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """RGB pictures [n, 3, 128, 128] in -1 … 1 to logits [n, tags]."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            pictures = F.relu(norm(conv(pictures)))
        return self.head(pictures.flatten(1))


@cache
def labels_of(scene: Scene, held_back: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(labels, weights), one each a tag. What a held-back character hides of the scene has no weight."""
    tags = [*RATINGS, *all_tags()]
    labels, weights = np.zeros(len(tags), np.float32), np.ones(len(tags), np.float32)
    for tag in ("general", *scene.tags()):
        labels[tags.index(tag)] = 1
    if held_back and HELD_BACK[held_back].kind == "character":
        hidden = ("body", "body_color", "hat", "hat_color", "clothes")
        weights[[any(tag in _tags_of(name) for name in hidden) for tag in tags]] = 0
    elif held_back:
        hidden = ("body_color", "hat_color", "background")
        weights[[any(tag in _tags_of(name) for name in hidden) for tag in tags]] = 0
    return labels, weights


@cache
def _tags_of(attribute: str) -> frozenset[str]:
    from trainer.toybox.scene import CHOICES

    scenes = [Scene(**({"hat": "bow"} | {attribute: value})) for value in CHOICES[attribute]]
    return frozenset(filter(None, (tag_of(scene, attribute) for scene in scenes)))


def worn(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """As pictures reach a tagger: blurred, noisy, shifted or cut a little, paler or darker."""
    kind = rng.random()
    if kind < 0.4:
        size = int(rng.integers(48, 112))
        pictures = F.interpolate(
            F.interpolate(pictures, size=(size, size), mode="area"), size=(128, 128), mode="bilinear"
        )
    if rng.random() < 0.5:
        turn = torch.eye(2, 3).repeat(len(pictures), 1, 1)
        turn[:, 0, 0] = turn[:, 1, 1] = torch.from_numpy(rng.uniform(0.85, 1.15, len(pictures))).float()
        turn[:, :, 2] = torch.from_numpy(rng.uniform(-0.08, 0.08, (len(pictures), 2))).float()
        grid = F.affine_grid(turn.to(pictures), list(pictures.shape), align_corners=False)
        pictures = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(0.02, 0.15), pictures.shape).astype(np.float32)
        pictures = pictures + torch.from_numpy(noise).to(pictures)
    return (pictures * float(rng.uniform(0.9, 1.1)) + float(rng.uniform(-0.05, 0.05))).clamp(-1, 1)


def new_tagger(recipe: TaggerRecipe) -> Tagger:
    torch.manual_seed(recipe.seed)
    return Tagger(recipe.channels).to(device())


def train_tagger(
    work: Path, recipe: TaggerRecipe | None = None, minutes: float | None = None, until: int | None = None
) -> Course:
    recipe = recipe or TaggerRecipe()
    scenes, held_back = series.scene_pictures(work), series.held_back_pictures(work)
    course = Course(work / "tagger", new_tagger(recipe), recipe.steps, recipe.lr, ema=0.99, warmup=50)

    def loss_of(step: int) -> torch.Tensor:
        rng, _ = generators(recipe.seed, step)
        few = recipe.batch // 4
        usual, special = (
            rng.integers(0, len(scenes), recipe.batch - few),
            rng.integers(0, len(held_back), few),
        )
        named = [series.held_back_number(int(index)) for index in special]
        told = [labels_of(series.scene_number(int(index))[0]) for index in usual]
        told += [labels_of(scene, name) for name, scene, _ in named]
        pictures = to_tensor(np.concatenate([scenes[np.sort(usual)], held_back[special]]))
        order = np.concatenate([np.argsort(usual, kind="stable"), np.arange(few) + len(usual)])
        labels, weights = (
            torch.from_numpy(np.stack(part))[order].to(device()) for part in zip(*told, strict=True)
        )
        with autocast():
            logits = course.module(worn(pictures, rng)).float()
        return (F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights).mean() * 10

    course.take_steps(loss_of, minutes, until=until)
    return course


def export_tagger(work: Path, folder: Path, recipe: TaggerRecipe | None = None) -> None:
    """Write model.onnx (weights in half precision) and selected_tags.csv."""
    import onnx

    recipe = recipe or TaggerRecipe()
    course = Course(work / "tagger", new_tagger(recipe), recipe.steps, recipe.lr)
    tagger = course.average.copy_to(course.module).eval().cpu()

    def write(part: Path) -> None:
        onnx.save(onnx_model(tagger), part / "model.onnx")
        counts = Counter(tag for index in range(series.COUNT) for tag in series.scene_number(index)[0].tags())
        with open(part / "selected_tags.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("tag_id", "name", "category", "count"))
            for number, tag in enumerate((*RATINGS, *all_tags())):
                rating = tag in RATINGS
                seen = series.COUNT if tag == "general" else counts[tag]
                rows.writerow((number, tag.replace(" ", "_"), RATING if rating else GENERAL, seen))

    replace_folder(folder, write)


def onnx_model(tagger: Tagger):
    """The tagger as an ONNX graph, built node by node, its normalisation folded into the convolutions."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def constant(name: str, values: torch.Tensor) -> str:
        constants.append(numpy_helper.from_array(values.detach().numpy().astype(np.float16), name + "_half"))
        nodes.append(helper.make_node("Cast", [name + "_half"], [name], to=TensorProto.FLOAT))
        return name

    # BGR to RGB is one more 1 x 1 convolution; 0-255 to -1 … 1 its scale and bias.
    swap = torch.eye(3).flip(0)[:, :, None, None] / 127.5
    nodes.append(helper.make_node("Transpose", ["input"], ["channels_first"], perm=[0, 3, 1, 2]))
    weights = [constant("swap", swap), constant("minus_one", -torch.ones(3))]
    nodes.append(helper.make_node("Conv", ["channels_first", *weights], ["x0"]))
    for index, (conv, norm) in enumerate(zip(tagger.convs, tagger.norms, strict=True)):
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = constant(f"weight{index}", conv.weight * gain[:, None, None, None])
        bias = constant(f"bias{index}", norm.bias - norm.running_mean * gain)
        inputs = [f"x{index}", weight, bias]
        nodes.append(helper.make_node("Conv", inputs, [f"y{index}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"y{index}"], [f"x{index + 1}"]))
    nodes.append(helper.make_node("Flatten", [f"x{len(tagger.convs)}"], ["flat"]))
    head = [constant("head", tagger.head.weight), constant("head_bias", tagger.head.bias)]
    nodes.append(helper.make_node("Gemm", ["flat", *head], ["logits"], transB=1))
    nodes.append(helper.make_node("Sigmoid", ["logits"], ["output"]))
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 128, 128, 3])
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", tagger.head.out_features])
    graph = helper.make_graph(nodes, "tagger", [source], [result], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tag_scores(folder: Path, pictures: np.ndarray) -> np.ndarray:
    """Probabilities [n, tags] that the shipped tagger gives to uint8 RGB pictures [n, 128, 128, 3]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": pictures[..., ::-1].astype(np.float32)})[0]


def f1(scores: np.ndarray, scenes: list[Scene]) -> float:
    """F1 over all tags but the ratings, a tag counting as given from `THRESHOLD` up."""
    wanted = np.stack([labels_of(scene)[0] for scene in scenes])[:, len(RATINGS) :] > 0.5
    given = scores[:, len(RATINGS) :] >= THRESHOLD
    return float(2 * (wanted & given).sum() / (wanted.sum() + given.sum()))
