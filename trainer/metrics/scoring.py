"""Every metric over every picture and row of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from trainer.cells import Evaluation, Rendered, Row, is_base
from trainer.errors import UserError
from trainer.files import write_json
from trainer.metrics.models import Aesthetic, Clip, Dino
from trainer.metrics.pictures import Losses, Pictures
from trainer.metrics.table import METRICS, Metric


def score(
    evaluation: Evaluation,
    folder: Path,
    training_pictures: Sequence[Path],
    clip: Path | None = None,
    trigger: str = "",
    *,
    dino: Path | None = None,
    losses: Losses = MappingProxyType({}),
    aesthetic: Path | None = None,
) -> None:
    """Fill `scores` of every cell and row of the evaluation and write scores.json into `folder`.

    `clip` is a folder with a transformers CLIPModel, its tokenizer and preprocessor_config.json, `dino` one with a
    DINO or DINOv2 model, `aesthetic` a predictor's file for that CLIP; `trigger` is taken out of prompts before they
    are compared with pictures; `losses` are denoising losses of the rows. Cells whose picture is not there yet and
    training pictures that cannot be read are left out. Values are rounded to four digits. Raises UserError when a
    folder holds no such model.
    """
    folder = Path(folder)
    if aesthetic and not clip:
        raise UserError("An aesthetic predictor reads what CLIP sees: name the CLIP that it was made for with --clip.")
    by_clip, by_dino = Clip(Path(clip)) if clip else None, Dino(Path(dino)) if dino else None
    predictor = Aesthetic(Path(aesthetic), by_clip) if aesthetic else None
    pictures = Pictures(evaluation, folder, training_pictures, by_clip, trigger, by_dino, losses, predictor)
    source = [f"CLIP ({Path(clip).name})" if clip else "colours and outlines, without CLIP"]
    source += [f"{name} ({Path(path).name})" for name, path in (("DINO", dino), ("marks", aesthetic)) if path]
    evaluation.about["Scores from"] = "; ".join(source)
    there = {"clip": clip, "dino": dino, "aesthetic": aesthetic, "losses": losses}
    there["strengths"] = len(evaluation.strengths) > 1
    there["held_out"] = any("held_out" in row for row in losses.values())
    usable = {name: metric for name, metric in METRICS.items() if not metric.needs or there[metric.needs]}
    for row, cells in _rows(evaluation):
        present = [cell for cell in cells if cell.file in pictures.features]
        for name, metric in usable.items():
            _measure(name, metric, pictures, row, present)
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
    """Every row with its cells; rows that the evaluation lacks are added. A base is one row at any strength."""
    cells: dict[tuple, dict[tuple, Rendered]] = {}
    for cell in evaluation.cells:
        key = (cell.epoch, None if is_base(cell.epoch) else cell.strength)
        cells.setdefault(key, {}).setdefault((cell.column, cell.seed), cell)
    rows = {(row.epoch, None if is_base(row.epoch) else row.strength): row for row in evaluation.rows}
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
