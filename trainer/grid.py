"""A comparison as rows and columns to look things up in, and what they are called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from trainer.cells import Evaluation, Prompt, Rendered, is_base
from trainer.errors import UserError
from trainer.metrics import METRICS

DECIDING = ("likeness", "bleed", "diversity", "loss")  # what a row of pictures is read with


class Table:
    """An evaluation as rows and columns to look things up in; the base is one row, whatever the strength."""

    def __init__(self, evaluation: Evaluation, strength: float | None = None, seed: int | None = None) -> None:
        self.evaluation = evaluation
        self.prompts = evaluation.prompts
        self.epochs = evaluation.epochs
        self.strengths = _chosen("strength", strength, evaluation.strengths)
        self._seed = seed
        self._cells: dict[tuple, Rendered] = {}
        for cell in evaluation.cells:
            self._cells.setdefault(self._key(cell.column, cell.epoch, cell.strength, cell.seed), cell)
        self._rows = {self._key("", row.epoch, row.strength, 0): row.scores for row in evaluation.rows}
        self._seeds = {prompt.name: self._seeds_of(prompt) for prompt in self.prompts}
        if seed is not None and not any(self._seeds.values()):
            _chosen("seed", seed, sorted({cell.seed for cell in evaluation.cells}))

    @staticmethod
    def _key(column: str, epoch: int, strength: float, seed: int) -> tuple:
        return column, epoch, None if is_base(epoch) else round(strength, 6), seed

    def _seeds_of(self, prompt: Prompt) -> list[int]:
        used = {cell.seed for cell in self.evaluation.cells if cell.column == prompt.name}
        planned = self.evaluation.seeds if prompt.seed is None else [prompt.seed]
        seeds = [seed for seed in planned if seed in used] + sorted(used - set(planned)) or planned
        if self._seed is None:
            return seeds
        # A prompt that pins its own seed has nothing else to show.
        return [self._seed] if self._seed in seeds else seeds if prompt.seed is not None else []

    def seeds(self, prompt: Prompt) -> list[int]:
        """The seeds that a prompt was rendered with, in order."""
        return self._seeds[prompt.name]

    def cell(self, prompt: Prompt, epoch: int, strength: float, seed: int) -> Rendered | None:
        return self._cells.get(self._key(prompt.name, epoch, strength, seed))

    def scores(self, epoch: int, strength: float) -> dict[str, float]:
        """A row's scores as far as they are numbers."""
        scores = self._rows.get(self._key("", epoch, strength, 0), {})
        return {name: value for name, value in scores.items() if value is not None and math.isfinite(value)}

    def metrics(self) -> list[str]:
        """The names of all scores that some row has: those of METRICS in its order, then others."""
        present = {name for scores in self._rows.values() for name in scores}
        return [name for name in METRICS if name in present] + sorted(present - METRICS.keys())

    def deciding(self) -> list[str]:
        """The few of `metrics` that stand beside the pictures, which want the room."""
        names = self.metrics()
        return [name for name in names if name in DECIDING] or names[: len(DECIDING)]

    def share(self, name: str, value: float) -> float:
        """How long the value's bar is, from 0 for the column's lowest value to 1 for its highest.

        Differences too small to mean anything (below 0.05, or a twentieth of the value) do not fill a bar.
        """
        values = [
            scores[name] for scores in self._rows.values() if name in scores and math.isfinite(scores[name] or 0.0)
        ]
        low, high = min(values), max(values)
        return (value - low) / max(high - low, 0.05, abs(high) / 20)

    def recommended(self, epoch: int, strength: float) -> bool:
        best = self.evaluation.recommended
        return bool(best) and epoch == best["epoch"] and math.isclose(strength, best.get("strength", strength))


def _chosen(what: str, value, choices: list) -> list:
    if value is None:
        return list(choices)
    listed = ", ".join(f"{choice:g}" for choice in choices)
    if value not in choices:
        raise UserError(f"There are no pictures at {what} {value:g}; there are: {listed}.")
    return [value]


def row_label(epoch: int, labels: Mapping[int, str] = MappingProxyType({})) -> tuple[str, str]:
    """What a row is called: a name and what is said beneath it. `labels` are those of an Evaluation."""
    name = labels.get(epoch, "base" if is_base(epoch) else f"epoch {epoch}")
    return name, "no LoRA" if is_base(epoch) else ""


def metric_label(name: str) -> tuple[str, str]:
    """A score's label and "higher", "lower" or "" for which of its values are better."""
    return (METRICS[name].label, METRICS[name].better) if name in METRICS else (name, "")


def summary(table: Table) -> list[str]:
    """The line under the title, in parts: what was compared."""
    labels = table.evaluation.labels
    epochs = [epoch for epoch in table.epochs if not is_base(epoch) and epoch not in labels]
    against = [label.rpartition(" epoch ") for epoch, label in labels.items() if not is_base(epoch)]
    seeds = sorted({seed for prompt in table.prompts for seed in table.seeds(prompt)})
    strength, seed = ", ".join(f"{value:g}" for value in table.strengths), ", ".join(map(str, seeds))
    return [
        _epochs(epochs) if epochs else "base only",
        *([f"against {against[0][0]} {_epochs([int(number) for *_, number in against])}"] if against else []),
        f"strength {strength}",
        f"{len(table.prompts)} prompt{'s' * (len(table.prompts) != 1)}",
        f"seed {seed}" if len(seeds) == 1 else f"seeds {seed}",
    ]


def _epochs(numbers: list[int]) -> str:
    """ "epoch 4", "epochs 1 to 10" or "epochs 1, 4, 7"."""
    if len(numbers) == 1:
        return f"epoch {numbers[0]}"
    first, last, listed = numbers[0], numbers[-1], ", ".join(map(str, numbers))
    consecutive = len(numbers) > 2 and numbers == list(range(first, last + 1))
    return f"epochs {first} to {last}" if consecutive else f"epochs {listed}"
