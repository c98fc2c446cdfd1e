"""The compare grid as one picture: epochs down, prompts across, the deciding scores on the right, the best row marked.

All scores are in scores.json and report.html beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from trainer.cells import Evaluation, Prompt, Rendered
from trainer.files import write_with
from trainer.grid import Table, metric_label, row_label, summary
from trainer.lettering import runs, text_width, wrap
from trainer.metrics import open_picture

LONGEST_SIDE = 12_000
# Pillow warns of a decompression bomb above 89 million pixels, and so would every Python tool that opens the grid.
MOST_PIXELS = 80_000_000
SMALLEST_CELL = 64

PAPER = "#ffffff"
INK = "#1d2328"
SOFT = "#6b747c"
LINE = "#e3e6e8"
GROUND = "#f3f4f5"
# Blue and orange of Okabe & Ito's palette: told apart with any kind of colour vision.
ACCENT = "#0072b2"
ACCENT_GROUND = "#eaf4fa"
WARNING = "#e69f00"


def save_grid(
    evaluation: Evaluation,
    folder: Path,
    *,
    strength: float | None = None,
    seed: int | None = None,
    cell: int | None = None,
    name: str = "grid.png",
) -> Path:
    """Draw the grid (see `draw_grid`) and write it into the evaluation's folder; returns its path."""
    image = draw_grid(evaluation, folder, strength=strength, seed=seed, cell=cell)
    return write_with(Path(folder) / name, lambda path: image.save(path, "PNG"))


def draw_grid(
    evaluation: Evaluation,
    folder: Path,
    *,
    strength: float | None = None,
    seed: int | None = None,
    cell: int | None = None,
) -> Image.Image:
    """All pictures of an evaluation with their labels and scores, RGB.

    One block of rows per strength, the base on top of each; several seeds stand side by side under their
    prompt. `strength` and `seed` narrow it down to one; `cell` is the longest side of a picture in pixels
    (default: its own up to 384, doubled when it is too small for labels). The result is at most `LONGEST_SIDE` long.
    Raises UserError when there is nothing at this strength or seed.
    """
    table = Table(evaluation, strength, seed)
    wanted = cell or _default_cell(table, Path(folder))
    plan = _Plan(table, Path(folder), wanted)
    while _oversize(plan) > 1 and plan.cell > SMALLEST_CELL:
        # Smaller pictures under crisp labels read better than one large picture scaled down.
        plan = _Plan(table, Path(folder), max(SMALLEST_CELL, int(plan.cell / max(1.03, _oversize(plan)))))
    image = _draw(plan)
    if _oversize(plan) > 1:
        size = [max(1, int(length / _oversize(plan))) for length in image.size]
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image


# Measuring


def _default_cell(table: Table, folder: Path) -> int:
    sizes = [size for prompt in table.prompts if (size := _picture_size(table, folder, prompt))]
    longest = max((max(size) for size in sizes), default=256)
    return longest * 2 if longest <= 192 else min(longest, 384)


def _picture_size(table: Table, folder: Path, prompt: Prompt) -> tuple[int, int] | None:
    """The size of the first picture there is in a column; None where nothing is rendered yet."""
    for cell in table.evaluation.cells:
        if cell.column == prompt.name and (image := open_picture(folder / cell.file)):
            return image.size
    return (prompt.width, prompt.height) if prompt.width and prompt.height else None


@dataclass(frozen=True)
class _Column:
    """One prompt's place: `left` and `box` (width, height of one picture) in pixels."""

    prompt: Prompt
    left: int
    box: tuple[int, int]
    seeds: list[int]
    lines: list[str]  # the prompt, wrapped


class _Plan:
    """Where everything goes. All distances are multiples of `unit`, the height of body type in pixels."""

    def __init__(self, table: Table, folder: Path, cell: int) -> None:
        self.table, self.folder, self.cell = table, folder, cell
        self.unit = max(12, round(cell * 0.075))
        unit = self.unit
        self.margin = 3 * unit
        self.gap = max(4, round(0.45 * unit))  # between seeds
        self.column_gap = round(0.9 * unit)
        names = [row_label(epoch, table.evaluation.labels)[0] for epoch in table.epochs]
        self.label_width = round(max([4 * unit, *(text_width(name, 1.15 * unit) for name in names)]) + 3 * unit)
        self.columns, right = self._columns(self.margin + self.label_width)
        self.metrics_left = right + round(0.5 * unit)
        self.metrics = table.deciding()
        labels = [metric_label(name)[0] for name in self.metrics]
        self.metric_width = round(max([4.6 * unit, *(text_width(label, unit) + 2.4 * unit for label in labels)]))
        self.row_height = max([column.box[1] for column in self.columns], default=cell)
        self.row_gap = round(0.9 * unit)
        self._vertical(table)

    def _columns(self, left: int) -> tuple[list[_Column], int]:
        columns = []
        for prompt in self.table.prompts:
            seeds = self.table.seeds(prompt)
            if not seeds:
                continue
            width, height = _picture_size(self.table, self.folder, prompt) or (1, 1)
            scale = self.cell / max(width, height)
            box = (max(1, round(width * scale)), max(1, round(height * scale)))
            total = max(len(seeds) * box[0] + (len(seeds) - 1) * self.gap, 7 * self.unit)
            lines = wrap(prompt.prompt, 0.85 * self.unit, total, most=3)
            columns.append(_Column(prompt, left, box, seeds, lines))
            left += total + self.column_gap
        return columns, left - self.column_gap

    def _vertical(self, table: Table) -> None:
        unit = self.unit
        self.right = self.metrics_left + len(self.metrics) * self.metric_width
        self.width = max(self.right, self.margin + 40 * unit) + self.margin
        self.about = wrap(_about(table.evaluation), 0.9 * unit, self.width - 2 * self.margin, most=2)
        reason = (table.evaluation.recommended or {}).get("reason", "")
        self.reason = wrap(reason, 1.15 * unit, self.width - 2 * self.margin - 3.5 * unit, most=3) if reason else []
        self.head = self.margin + round(5.0 * unit + 1.35 * unit * len(self.about) + bool(reason) * 2.2 * unit)
        self.head += round(1.6 * unit * len(self.reason))
        lines = max([len(column.lines) for column in self.columns], default=0)
        several_seeds = any(len(column.seeds) > 1 for column in self.columns)
        self.block_title = round(3 * unit) if len(table.strengths) > 1 else 0
        self.column_head = round((2.4 + 1.15 * lines + 1.5 * several_seeds) * unit)
        rows = len(table.epochs) * (self.row_height + self.row_gap)
        self.block = self.block_title + self.column_head + rows + 2 * unit
        self.height = self.head + len(table.strengths) * self.block + 2 * unit + self.margin


def _about(evaluation: Evaluation) -> str:
    return " · ".join(f"{key}: {value}" for key, value in evaluation.about.items() if value)


def _oversize(plan: _Plan) -> float:
    """By how much the sheet is too long for its limits; at most 1 when it fits."""
    pixels = plan.width * plan.height
    return max(plan.width / LONGEST_SIDE, plan.height / LONGEST_SIDE, math.sqrt(pixels / MOST_PIXELS))


# Drawing


class _Sheet:
    """An image to write and draw on; text is placed by its baseline."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, size: float, colour: str = INK, align: str = "left") -> None:
        x -= {"left": 0, "centre": 0.5, "right": 1}[align] * text_width(text, size)
        for font, run in runs(text, size):
            self.draw.text((x, y), run, fill=colour, font=font, anchor="ls")
            x += font.getlength(run)

    def triangle(self, x: float, y: float, size: float, up: bool, colour: str) -> None:
        """An arrow head on the baseline y; drawn, because few fonts have one."""
        base, tip = (y, y - size) if up else (y - size, y)
        self.draw.polygon([(x, base), (x + size, base), (x + size / 2, tip)], fill=colour)

    def star(self, x: float, y: float, radius: float, colour: str) -> None:
        # Drawn four times too large: polygons have no smooth edges of their own.
        big = Image.new("L", (round(radius * 8), round(radius * 8)))
        points = [
            (
                radius * 4 * (1 + (1, 0.42)[i % 2] * math.sin(i * math.pi / 5)),
                radius * 4 * (1 - (1, 0.42)[i % 2] * math.cos(i * math.pi / 5)),
            )
            for i in range(10)
        ]
        ImageDraw.Draw(big).polygon(points, fill=255)
        mask = big.resize((round(radius * 2), round(radius * 2)), Image.Resampling.LANCZOS)
        self.image.paste(colour, (round(x - radius), round(y - radius)), mask)


def _draw(plan: _Plan) -> Image.Image:
    sheet = _Sheet(plan.width, plan.height)
    _draw_head(sheet, plan)
    top = plan.head
    for strength in plan.table.strengths:
        _draw_block(sheet, plan, strength, top)
        top += plan.block
    if plan.metrics:
        _draw_legend(sheet, plan, top + plan.unit)
    return sheet.image


def _draw_head(sheet: _Sheet, plan: _Plan) -> None:
    unit, x, y = plan.unit, plan.margin, plan.margin + round(1.4 * plan.unit)
    evaluation = plan.table.evaluation
    title = wrap(evaluation.title, 2 * unit, plan.width - 2 * plan.margin, most=1)
    sheet.text(x, y, "".join(title), 2 * unit)
    y += 2 * unit
    sheet.text(x, y, " · ".join(summary(plan.table)), unit, SOFT)
    for line in plan.about:
        y += round(1.35 * unit)
        sheet.text(x, y, line, 0.9 * unit, SOFT)
    y += round(1.1 * unit)
    if plan.reason:
        height = round((1.6 * len(plan.reason) + 1.0) * unit)
        width = max(text_width(line, 1.15 * unit) for line in plan.reason) + 3.9 * unit
        sheet.draw.rounded_rectangle((x, y, x + width, y + height), unit * 0.5, fill=ACCENT_GROUND)
        sheet.star(x + 1.5 * unit, y + height / 2, 0.75 * unit, ACCENT)
        for index, line in enumerate(plan.reason):
            sheet.text(x + 3 * unit, y + (1.65 + 1.6 * index) * unit, line, 1.15 * unit)


def _draw_block(sheet: _Sheet, plan: _Plan, strength: float, top: int) -> None:
    unit = plan.unit
    if plan.block_title:
        sheet.draw.line((plan.margin, top, plan.width - plan.margin, top), fill=LINE, width=max(1, unit // 12))
        sheet.text(plan.margin, top + 2.2 * unit, f"Strength {strength:g}", 1.4 * unit)
        top += plan.block_title
    _draw_column_heads(sheet, plan, top)
    y = top + plan.column_head + unit
    for epoch in plan.table.epochs:
        _draw_row(sheet, plan, epoch, strength, y)
        y += plan.row_height + plan.row_gap


def _draw_column_heads(sheet: _Sheet, plan: _Plan, top: int) -> None:
    unit, bottom = plan.unit, top + plan.column_head
    for column in plan.columns:
        total = len(column.seeds) * (column.box[0] + plan.gap) - plan.gap
        name = wrap(column.prompt.name, 1.1 * unit, max(total, 7 * unit), most=1)
        sheet.text(column.left, top + 1.6 * unit, "".join(name), 1.1 * unit)
        for index, line in enumerate(column.lines):
            sheet.text(column.left, top + (2.9 + 1.15 * index) * unit, line, 0.85 * unit, SOFT)
        for index, seed in enumerate(column.seeds if len(column.seeds) > 1 else []):
            x = column.left + index * (column.box[0] + plan.gap)
            label = wrap(f"seed {seed}", 0.8 * unit, column.box[0], most=1)
            sheet.text(x, bottom + 0.25 * unit, "".join(label), 0.8 * unit, SOFT)
    for index, name in enumerate(plan.metrics):
        right = plan.metrics_left + (index + 1) * plan.metric_width
        label, better = metric_label(name)
        sheet.text(right, top + 1.6 * unit, label, unit, align="right")
        if better:
            size = 0.5 * unit
            x = right - text_width(label, unit) - 1.7 * size
            sheet.triangle(x, top + 1.55 * unit, size, better == "higher", SOFT)


def _draw_row(sheet: _Sheet, plan: _Plan, epoch: int, strength: float, top: int) -> None:
    unit, middle = plan.unit, top + plan.row_height / 2
    best = plan.table.recommended(epoch, strength)
    if best:
        pad = round(0.5 * unit)
        box = (plan.margin - unit, top - pad, plan.right + unit, top + plan.row_height + pad)
        sheet.draw.rounded_rectangle(box, 0.6 * unit, fill=ACCENT_GROUND, outline=ACCENT, width=max(2, round(unit / 7)))
    name, note = row_label(epoch, plan.table.evaluation.labels)
    sheet.text(plan.margin, middle + 0.35 * unit, name, 1.15 * unit)
    if best:
        sheet.star(plan.margin + text_width(name, 1.15 * unit) + 1.2 * unit, middle, 0.6 * unit, ACCENT)
    if note:
        sheet.text(plan.margin, middle + 1.7 * unit, note, 0.85 * unit, SOFT)
    for column in plan.columns:
        for index, seed in enumerate(column.seeds):
            left = column.left + index * (column.box[0] + plan.gap)
            _draw_cell(sheet, plan, plan.table.cell(column.prompt, epoch, strength, seed), (left, top), column.box)
    scores = plan.table.scores(epoch, strength)
    for index, name in enumerate(plan.metrics):
        _draw_score(sheet, plan, name, scores.get(name), plan.metrics_left + (index + 1) * plan.metric_width, middle)


def _draw_cell(
    sheet: _Sheet, plan: _Plan, cell: Rendered | None, corner: tuple[int, int], box: tuple[int, int]
) -> None:
    image = open_picture(plan.folder / cell.file) if cell else None
    left, top = corner
    frame = (left, top, left + box[0] - 1, top + box[1] - 1)
    if image is None:
        sheet.draw.rectangle(frame, fill=PAPER, outline=LINE, width=max(1, plan.unit // 8))
        for index, line in enumerate(wrap("not rendered", 0.85 * plan.unit, box[0] * 0.9, most=2)):
            middle = top + box[1] / 2 + (0.3 + 1.1 * index) * plan.unit
            sheet.text(left + box[0] / 2, middle, line, 0.85 * plan.unit, SOFT, "centre")
        return
    scale = min(box[0] / image.width, box[1] / image.height)
    size = tuple(max(1, min(round(length * scale), limit)) for length, limit in zip(image.size, box, strict=True))
    # The frame lies outside of the picture; without it a white ground dissolves into the paper.
    hair = max(1, plan.unit // 16)
    outside = (left - hair, top - hair, left + box[0] - 1 + hair, top + box[1] - 1 + hair)
    sheet.draw.rectangle(outside, fill=GROUND, outline=LINE, width=hair)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    sheet.image.paste(image, (left + (box[0] - size[0]) // 2, top + (box[1] - size[1]) // 2))


def _draw_score(sheet: _Sheet, plan: _Plan, name: str, value: float | None, right: int, middle: float) -> None:
    """The number, and beneath it how it stands within its column."""
    unit = plan.unit
    if value is None:
        sheet.text(right, middle + 0.1 * unit, "–", 1.1 * unit, SOFT, "right")
        return
    sheet.text(right, middle + 0.1 * unit, f"{value:.2f}", 1.1 * unit, INK, "right")
    width, height = plan.metric_width - 1.4 * unit, max(3, round(0.34 * unit))
    top = middle + 0.75 * unit
    sheet.draw.rectangle((right - width, top, right, top + height), fill=LINE)
    length = width * plan.table.share(name, value)
    if length >= 1:
        colour = {"higher": ACCENT, "lower": WARNING}.get(metric_label(name)[1], SOFT)
        sheet.draw.rectangle((right - width, top, right - width + length, top + height), fill=colour)


def _draw_legend(sheet: _Sheet, plan: _Plan, y: float) -> None:
    unit, x = plan.unit, plan.margin
    text = "Bars run from the lowest to the highest value of their column."
    if len(plan.metrics) < len(plan.table.metrics()):
        text += " All scores are in report.html."
    sheet.text(x, y, text, 0.85 * unit, SOFT)
    x += text_width(text, 0.85 * unit) + 1.2 * unit
    for label, up, colour in (("higher is better", True, ACCENT), ("lower is better", False, WARNING)):
        sheet.triangle(x, y, 0.55 * unit, up, colour)
        sheet.text(x + 0.9 * unit, y, label, 0.85 * unit, SOFT)
        x += text_width(label, 0.85 * unit) + 2.2 * unit
