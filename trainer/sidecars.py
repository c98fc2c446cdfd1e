"""What lies beside an exported LoRA: descriptions for tools, and a model card with the grid by which it was chosen.

NAME.json is A1111's and Forge's, NAME.civitai.info that of ComfyUI's managers, NAME.md is what a model page shows
(its head is Hugging Face's).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from trainer.cells import Evaluation, is_base
from trainer.drawing import draw_grid
from trainer.files import write_json, write_text, write_with
from trainer.grid import Table, metric_label
from trainer.kohya import Metadata
from trainer.run import Run
from trainer.texts import base_name

PREVIEWS = (".png", ".preview.png")
DESCRIPTIONS = (".json", ".civitai.info", ".grid.webp", ".md")
GRID_CELL = 192  # px; the card's grid is for looking at a page, the comparison's own stays beside the run
GRID_SIDE = 4096  # px
VERSIONS = {"sdxl_": "SDXL", "sd_v2": "SD2"}  # by the beginning of ss_base_model_version; else SD1
TITLES = {"SD1": "SD 1.5", "SD2": "SD 2.1", "SDXL": "SDXL 1.0"}  # as Civitai writes them
TAGS = {"SD1": "stable-diffusion", "SD2": "stable-diffusion", "SDXL": "stable-diffusion-xl"}


@dataclass(frozen=True)
class Subject:
    """The file that was written, and what is known of it."""

    path: Path
    run: Run
    what: str  # "epoch 7", "0.5 × epoch 4 + 0.5 × epoch 6"
    epoch: int | None  # whose row in the comparison is its own; a merge has none
    strength: float
    metadata: Metadata
    verification: str  # a sentence

    @property
    def version(self) -> str:
        return VERSIONS.get(self.metadata["ss_base_model_version"][:5], "SD1")

    @property
    def about(self) -> str:
        what = f"{self.what[0].upper()}{self.what[1:]}"
        config = self.run.config
        return f"{what} of {config.name}, trained with LoRA Studio on {base_name(config.model.base)}."


def beside(path: Path) -> list[Path]:
    """The files that belong to an exported LoRA."""
    return [path.with_suffix(ending) for ending in (*PREVIEWS, *DESCRIPTIONS)]


def write(subject: Subject, evaluation: Evaluation | None, folder: Path) -> None:
    """All of them, beside `subject.path`; `evaluation` is the comparison in `folder` by which it was chosen."""
    path, config, metadata = subject.path, subject.run.config, subject.metadata
    card = {
        "description": subject.about,
        "sd version": subject.version,
        "activation text": config.data.trigger,
        "preferred weight": 1.0,
        "negative text": "",
        "notes": f"dim {metadata['ss_network_dim']}, alpha {metadata['ss_network_alpha']}, seed {config.loop.seed}",
    }
    card_file, civitai_file, grid, page = (path.with_suffix(ending) for ending in DESCRIPTIONS)
    write_json(card_file, card)
    civitai = {
        "name": path.stem,
        "description": subject.about,
        "baseModel": TITLES[subject.version],
        "trainedWords": [config.data.trigger] if config.data.trigger else [],
        "model": {"name": config.name, "type": "LORA"},
    }
    write_json(civitai_file, civitai)
    if evaluation is not None:
        _write_grid(evaluation, folder, subject.strength, grid)
    write_text(page, model_card(subject, evaluation, grid.name))


def _write_grid(evaluation: Evaluation, folder: Path, strength: float, to: Path) -> None:
    there = strength if strength in evaluation.strengths else None
    image = draw_grid(evaluation, folder, strength=there, cell=GRID_CELL)
    image.thumbnail((GRID_SIDE, GRID_SIDE))
    write_with(to, lambda path: image.save(path, "WEBP", quality=88))


def model_card(subject: Subject, evaluation: Evaluation | None, grid: str) -> str:
    """The card in Markdown; `grid` is the name of the picture beside it."""
    parts = [_head(subject), f"# {subject.path.stem}", _plain(subject.about), _table(_facts(subject))]
    if evaluation is not None:
        parts += ["## Why this one", *_scores(subject, evaluation)] if subject.epoch is not None else []
        parts += ["## The epochs side by side", f"![Epochs down, prompts across]({grid})"]
        sampling = evaluation.about.get("Sampling", "")
        parts += [f"{_plain(sampling)}. The first row is the base without the LoRA."] if sampling else []
        parts += ["\n".join(f"- {_plain(one.name)}: {_code(one.prompt)}" for one in evaluation.prompts)]
    checked = subject.verification.removeprefix("Checked: ")
    parts += ["## Checked", _plain(checked[:1].upper() + checked[1:])]
    return "\n\n".join(parts) + "\n"


def _head(subject: Subject) -> str:
    """What Hugging Face reads. A base is only linked where it is a name there."""
    base, trigger = subject.run.config.model.base, subject.run.config.data.trigger
    hub = base.count("/") == 1 and not base.startswith((".", "/", "toybox/")) and not Path(base).exists()
    named = {"base_model": base if hub else "", "instance_prompt": trigger}
    # JSON's strings are YAML's as well.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in named.items() if value]
    return "\n".join(["---", "tags:", f"- {TAGS[subject.version]}", "- text-to-image", "- lora", *lines, "---"])


def _facts(subject: Subject) -> list[tuple[str, str]]:
    config, metadata = subject.run.config, subject.metadata
    trigger, get = config.data.trigger, metadata.get
    return [
        ("Trigger word", _code(trigger) if trigger else "none"),
        ("In a prompt", _code(f"<lora:{subject.path.stem}:1>" + f" {trigger}" * bool(trigger))),
        ("Base", f"{TITLES[subject.version]}, {base_name(config.model.base)}"),
        ("Network", f"{config.adapter.kind}, dim {get('ss_network_dim')}, alpha {float(get('ss_network_alpha')):g}"),
        ("Trained on", f"{get('ss_num_train_images', '?')} pictures an epoch at {config.data.resolution} px"),
        ("Steps", f"{get('ss_steps', '?')} of {get('ss_max_train_steps', '?')}"),
        ("Optimizer", f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}"),
        ("Hash", _code(get("sshs_model_hash", "")[:12])),
    ]


def _scores(subject: Subject, evaluation: Evaluation) -> list[str]:
    """The recommendation, and the row's scores beside the base's."""
    best, table = evaluation.recommended, Table(evaluation)
    parts = []
    if best:
        own = best["epoch"] == subject.epoch
        parts.append(_plain(best["reason"] if own else f"Chosen by its maker. The scores would say: {best['reason']}"))
    strengths = sorted(evaluation.strengths, key=lambda one: abs(one - subject.strength))
    row = table.scores(subject.epoch, strengths[0]) if strengths else {}
    base = next((table.scores(epoch, 1.0) for epoch in evaluation.epochs if is_base(epoch)), {})
    rows = [
        (metric_label(name)[0], f"{row[name]:.2f}", f"{base[name]:.2f}" if name in base else "–")
        for name in table.metrics()
        if name in row
    ]
    return [*parts, _table(rows, ("Score", f"Epoch {subject.epoch}", "Base"))] if rows else parts


def _table(rows: list[tuple[str, ...]], head: tuple[str, ...] = ("", "")) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell, table=True) for cell in line) + " |" for line in lines)


def _plain(text: str, table: bool = False) -> str:
    """Text that neither ends a table's cell nor is taken for HTML."""
    text = " ".join(text.split())
    text = text if text.startswith("`") else text.replace("<", "&lt;")
    return text.replace("|", "\\|") if table else text


def _code(text: str) -> str:
    """Text as it stands, whatever marks are in it."""
    text = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"
