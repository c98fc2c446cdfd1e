"""The chosen epoch becomes a file in models/ that A1111, Forge, ComfyUI and diffusers load as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from trainer import environment, kohya, presets
from trainer.cells import Evaluation, Rendered, read_prompts
from trainer.config import EvaluationConfig
from trainer.errors import UserError
from trainer.evaluate import choose_epochs, make_cell, png
from trainer.files import write_bytes, write_json
from trainer.render import Renderer, infotext_of, load_base
from trainer.run import Epoch, Run, slug

TOLERANCE = 1 / 255  # a picture rendered alone may round a pixel differently from the same one in a batch


@dataclass(frozen=True)
class Exported:
    path: Path
    trigger: str
    verification: str  # a sentence


def export(
    run: Run, number: int, *, to: Path = Path("models"), name: str = "", overwrite: bool = False, device: str = ""
) -> Exported:
    """Write epoch `number` with complete metadata, a preview and the sidecars that A1111 and ComfyUI managers read.

    The written file is loaded again and one cell rendered with it, whose pixels must equal the comparison's.
    Raises UserError when the epoch is not there, when a file of that name is (unless `overwrite`), or when the
    written file does not draw the same picture.
    """
    epoch = choose_epochs(run, [number])[0]
    path = _destination(to, name or run.config.name)
    if path.exists() and not overwrite:
        raise UserError(f"{path} is already there: give another --name, or --overwrite to replace it.")
    evaluation, folder = latest_comparison(run)
    lora = kohya.read(epoch.path)
    kohya.write(path, lora.tensors, kohya.renamed(lora.metadata, path.stem))
    preview, verification = _verify(run, path, number, evaluation, folder, device)
    for sidecar in (path.with_suffix(".png"), path.with_suffix(".preview.png")):
        write_bytes(sidecar, preview)
    _write_cards(path, run, number, lora.metadata)
    return Exported(path, run.config.data.trigger, verification)


def _destination(to: Path, name: str) -> Path:
    if to.suffix == ".safetensors":
        return to
    return to / f"{slug(name)}.safetensors"


def latest_comparison(run: Run) -> tuple[Evaluation | None, Path]:
    """The run's newest comparison, or None when there is none yet."""
    found = sorted((run.path / "evaluations").glob("*/evaluation.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        return None, run.path
    return Evaluation.load(found[-1].parent), found[-1].parent


def _verify(
    run: Run, path: Path, number: int, evaluation: Evaluation | None, folder: Path, device: str
) -> tuple[bytes, str]:
    """Render one cell with the written file and compare. Returns (PNG of that cell, what was found)."""
    config = run.config
    model = load_base(config, device or environment.default_device())
    shown = _cell_to_show(evaluation, number)
    cell = _cell_of(run, evaluation, shown, model.sha256(), number, path)
    renderer = Renderer(model, 1)
    renderer.use(path, cell.strength)
    picture = renderer.render([cell])[0]
    data = png(picture, infotext_of(cell, model, Epoch(number, path)))
    if shown is None:
        return data, "Rendered once to check that it loads; there is no comparison yet to hold it against."
    difference = _difference(picture, folder / shown.file)
    if difference > TOLERANCE + 1e-9:
        message = f"{path} draws another picture than {folder / shown.file} (by {difference * 255:.0f}/255)"
        raise UserError(f"{message}: render the comparison again with `lora-studio evaluate {run.path}`, then export.")
    same = "pixel for pixel" if difference == 0 else "to within one step of 255"
    return data, f"Checked: loaded again, it draws the comparison's '{shown.column}' {same}."


def _cell_to_show(evaluation: Evaluation | None, number: int) -> Rendered | None:
    """The epoch's first cell that shows the subject, at the strength nearest to 1."""
    if evaluation is None:
        return None
    leaks = {prompt.name for prompt in evaluation.prompts if prompt.leak}
    cells = [cell for cell in evaluation.cells if cell.epoch == number and cell.column not in leaks]
    return min(cells, key=lambda cell: abs(cell.strength - 1), default=None)


def _cell_of(run: Run, evaluation: Evaluation | None, shown: Rendered | None, base: str, number: int, path: Path):
    """The cell to render: the one shown in the comparison, or the prompt set's first when there is none."""
    config = run.config
    if shown is not None:
        settings = EvaluationConfig(**evaluation.rendering)
        column = next(prompt for prompt in evaluation.prompts if prompt.name == shown.column)
        cell = make_cell(config, settings, column, shown.seed, base)
        return replace(cell, epoch=number, strength=shown.strength, lora=kohya.tensor_hash(path))
    settings = config.evaluation
    file = presets.locate(settings.prompts, "prompts")
    column = read_prompts(file, config.data.trigger, config.data.class_word)[0]
    cell = make_cell(config, settings, column, settings.seeds[0] if column.seed is None else column.seed, base)
    return replace(cell, epoch=number, lora=kohya.tensor_hash(path))


def _difference(picture, file: Path) -> float:
    """Largest difference of any channel, in [0, 1]."""
    from PIL import Image, ImageChops

    with Image.open(file) as other:
        other = other.convert("RGB")
        if other.size != picture.size:
            return 1.0
        return max(high for _, high in ImageChops.difference(picture, other).getextrema()) / 255


def _write_cards(path: Path, run: Run, number: int, metadata: kohya.Metadata) -> None:
    """NAME.json for A1111 and Forge, NAME.civitai.info for ComfyUI managers."""
    config = run.config
    version = "SDXL" if metadata["ss_base_model_version"].startswith("sdxl") else "SD1"
    about = f"Epoch {number} of {config.name}, trained with LoRA Studio on {config.model.base}."
    card = {
        "description": about,
        "sd version": version,
        "activation text": config.data.trigger,
        "preferred weight": 1.0,
        "negative text": "",
        "notes": f"dim {config.adapter.rank}, alpha {config.adapter.alpha:g}, seed {config.loop.seed}",
    }
    write_json(path.with_suffix(".json"), card)
    civitai = {
        "name": path.stem,
        "description": about,
        "baseModel": {"SD1": "SD 1.5", "SDXL": "SDXL 1.0"}[version],
        "trainedWords": [config.data.trigger] if config.data.trigger else [],
        "model": {"name": config.name, "type": "LORA"},
    }
    write_json(path.with_suffix(".civitai.info"), civitai)
