"""The chosen epoch becomes a file in models/ that A1111, Forge, ComfyUI and diffusers load as it is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import environment, kohya, presets, shelf, sidecars
from trainer.adapters.frozen import weight_of
from trainer.adapters.sites import places_of
from trainer.cells import Cell, Evaluation, Rendered
from trainer.config import EvaluationConfig
from trainer.errors import UserError
from trainer.files import new_file, write_bytes
from trainer.metrics import open_picture
from trainer.places import choose_epochs, make_cell, png, shelf_of
from trainer.prompt_sets import read_prompts
from trainer.render import Renderer, infotext_of, load_base
from trainer.run import Epoch, Run, slug

if TYPE_CHECKING:
    from trainer.families import BaseModel

TOLERANCE = 1 / 255  # a picture rendered alone may round a pixel differently from the same one in a batch
SAME = 1e-6  # of ΔW, relative: the rounding of alphas to float32; fp16 rounds by 3e-4


@dataclass(frozen=True)
class Exported:
    path: Path
    trigger: str
    verification: str  # a sentence


@dataclass(frozen=True)
class Part:
    """A LoRA file and its weight: an epoch of the run, or another one (`epoch` is None)."""

    path: Path
    weight: float
    epoch: int | None = None

    @property
    def name(self) -> str:
        return self.path.stem if self.epoch is None else f"epoch {self.epoch}"


@dataclass(frozen=True)
class Recipe:
    """What the file is made of: LoRAs with their weights, an epoch first, and what is done to their sum."""

    parts: tuple[Part, ...]
    strength: float = 1.0
    rank: int = 0  # 0: as it comes
    dtype: str = ""  # "": as trained

    @property
    def plain(self) -> bool:
        """The epoch's own tensors, untouched."""
        return len(self.parts) == 1 and self.factor == 1 and not self.rank and not self.dtype

    @property
    def factor(self) -> float:
        """What a single epoch's ΔW is multiplied with."""
        return self.parts[0].weight * self.strength

    def words(self) -> str:
        """ "0.5 × epoch 4 + 0.5 × epoch 6, at 0.8, rank 16, fp16"."""
        several = len(self.parts) > 1
        names = [f"{part.weight:g} × {part.name}" if several else part.name for part in self.parts]
        strength = self.strength if several else self.factor
        extras = [f"at {strength:g}" * (strength != 1), f"rank {self.rank}" * bool(self.rank), self.dtype]
        return ", ".join([" + ".join(names), *filter(None, extras)])


def export(
    run: Run,
    number: int | None = None,
    *,
    to: Path = Path("models"),
    name: str = "",
    overwrite: bool = False,
    device: str = "",
    strength: float = 1.0,
    rank: int = 0,
    dtype: str = "",
    merge: Sequence[tuple[int | str, float]] = (),
) -> Exported:
    """Write epoch `number` with complete metadata, a preview and the sidecars that A1111 and ComfyUI managers read.

    `strength` is baked in, so that <lora:name:1> is what <lora:name:strength> was; `rank` cuts every module to
    that rank, and makes a plain LoRA of other kinds; `dtype` is fp32, fp16 or bf16; `merge` takes (epoch, weight)
    pairs in place of `number`, at least one of them, and other LoRAs by their names in the model folders or their
    files.

    The file is loaded again and one cell rendered with it before it gets its name. Where the picture must be the same
    (all but merges, cut ranks and narrower numbers) its pixels must equal those of the epoch; where it cannot be, the
    sentence says how far both ΔW and picture are from it. Raises UserError, and leaves the folder as it was, when an
    epoch is not there, when a file of that name is (unless `overwrite`), or when the picture is not the same.
    """
    recipe = _recipe(run, number, merge, strength, rank, dtype)
    path = _destination(to, name or run.config.name)
    there = [file for file in (path, *sidecars.beside(path)) if file.exists()]
    if there and not overwrite:
        raise UserError(f"{there[0]} is already there: give another --name, or --overwrite to replace it.")
    evaluation, folder = latest_comparison(run)
    model = load_base(run.config, device or environment.default_device())
    shown = recipe.parts[0].epoch
    with new_file(path) as part:
        metadata, change = _write(part, path.stem, recipe, model)
        check = Check(run, part, path, evaluation, folder, model)
        preview, verification = _verify(check, shown) if change is None else _compare(check, recipe, change)
    for ending in sidecars.PREVIEWS:
        write_bytes(path.with_suffix(ending), preview)
    row = shown if len(recipe.parts) == 1 else None
    subject = sidecars.Subject(path, run, recipe.words(), row, recipe.factor, metadata, verification)
    sidecars.write(subject, evaluation, folder)
    return Exported(path, run.config.data.trigger, verification)


def _recipe(
    run: Run, number: int | None, merge: Sequence[tuple[int | str, float]], strength: float, rank: int, dtype: str
) -> Recipe:
    if (number is None) == (not merge):
        raise UserError("Say which epoch: --epoch 6, or several with weights: --merge 4:0.5,6:0.5.")
    if not math.isfinite(strength) or strength == 0:
        raise UserError(f"--strength {strength:g} leaves nothing of the LoRA: give a number other than 0.")
    if rank < 0:
        raise UserError(f"--rank {rank}: give at least 1, or leave it out to keep the rank.")
    if any(not math.isfinite(weight) or weight == 0 for _, weight in merge):
        raise UserError("--merge: give every epoch a weight other than 0, for example 4:0.5,6:0.5.")
    weights: dict[int | str, float] = {}
    for name, weight in merge or [(number, 1.0)]:
        weights[name] = weights.get(name, 0.0) + weight
    own = choose_epochs(run, [name for name in weights if isinstance(name, int)])
    if not own:
        raise UserError(f"--merge: at least one must be an epoch of {run.name}, for example 4:0.7,other:0.3.")
    parts = [Part(epoch.path, weights[epoch.number], epoch.number) for epoch in own]
    folders = shelf_of(run.config.evaluation).models
    for name in (name for name in weights if isinstance(name, str)):
        parts.append(Part(_other(name, folders, own[0].path), weights[name]))
    return Recipe(tuple(parts), strength, rank, dtype)


def _other(name: str, folders: Sequence[str], like: Path) -> Path:
    """The file of another LoRA. Raises UserError when it is not there, or was made for another kind of base."""
    path = Path(name) if name.endswith(".safetensors") else shelf.find_network(name, folders)
    if path is None or not path.is_file():
        where = " or ".join(f"{folder}/" for folder in folders)
        raise UserError(f"--merge: there is no LoRA {name!r} in {where}: give a name there, or a .safetensors file.")
    own, other = (kohya.module_shapes(kohya.read_header(file).shapes) for file in (like, path))
    both = own.keys() & other.keys()
    if not both or any(_sides(own[module]) != _sides(other[module]) for module in both):
        raise UserError(f"--merge: {path} was made for another kind of base than {like.name}: merge LoRAs of one kind.")
    return path


def _sides(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[tuple[int, ...], int]:
    """What a module takes and gives, whatever its rank."""
    down, up = shapes
    return down[1:], up[0]


def _write(path: Path, name: str, recipe: Recipe, model: BaseModel) -> tuple[kohya.Metadata, kohya.Change | None]:
    """The file itself, which will be called `name`; returns its metadata and, unless it is the epoch as it was, what
    was changed."""
    files = [(kohya.read(part.path), part.weight) for part in recipe.parts]
    metadata = kohya.renamed(files[0][0].metadata, name)
    if recipe.plain:
        kohya.write(path, files[0][0].tensors, metadata)
        return metadata, None
    parts = [(file.tensors, weight) for file, weight in files]
    places = places_of(model)
    base = lambda name: weight_of(places[name][2]).detach().cpu()  # noqa: E731
    change = kohya.changed(parts, strength=recipe.strength, rank=recipe.rank, dtype=recipe.dtype, base=base)
    metadata |= _about(change.tensors, recipe, metadata)
    kohya.write(path, change.tensors, metadata)
    return metadata, change


def _about(tensors: dict, recipe: Recipe, before: kohya.Metadata) -> kohya.Metadata:
    """What the file's metadata must say of it after the change."""
    about = {"ss_training_comment": f"LoRA Studio: {recipe.words()}"}
    shapes = kohya.module_shapes(tensors)
    if {key.partition(".")[2] for key in tensors} == {"lora_down.weight", "lora_up.weight", "alpha"}:
        largest = max(shapes, key=lambda name: shapes[name][0][0])
        about["ss_network_dim"] = str(shapes[largest][0][0])
        about["ss_network_alpha"] = f"{float(tensors[f'{largest}.alpha']):g}"
        if before["ss_network_module"] == "lycoris.kohya":
            wide = any(len(down) == 4 and down[2:] != (1, 1) for down, _ in shapes.values())
            about |= {"ss_network_module": "networks.lora"}
            about |= {"ss_network_args": json.dumps({"conv_dim": str(recipe.rank)} if wide else {})}
    elif recipe.factor != 1:
        about["ss_network_alpha"] = f"{float(before['ss_network_alpha']) * recipe.factor:g}"
    if len(recipe.parts) > 1:
        about["modelspec.merged_from"] = ", ".join(part.path.stem for part in recipe.parts)
    return about


def _destination(to: Path, name: str) -> Path:
    if to.suffix == ".safetensors":
        return to
    return to / f"{slug(name)}.safetensors"


def latest_comparison(run: Run) -> tuple[Evaluation | None, Path]:
    """The run's newest comparison, or None when there is none yet."""
    found = run.comparisons()
    return (Evaluation.load(found[0]), found[0]) if found else (None, run.path)


@dataclass(frozen=True)
class Check:
    """A file that has been written but not put in its place yet, and what it is held against."""

    run: Run
    part: Path  # where it is
    path: Path  # where it will be; pictures name it so
    evaluation: Evaluation | None
    folder: Path  # of the evaluation
    model: BaseModel

    def draw(self, cell: Cell, files: Sequence[tuple[Path, float]]) -> tuple[bytes, list]:
        """The cell from each of the files at its strength, one after the other: the first as PNG, and all of them."""
        renderer = Renderer(self.model, 1, shelf_of(_settings(self.run, self.evaluation)))
        pictures = []
        for file, strength in files:
            renderer.use(file, strength)
            pictures += renderer.render([cell])
        data = png(pictures[0], infotext_of(cell, renderer, Epoch(cell.epoch, self.path)))
        renderer.carry([()])  # lets go of the file: Windows moves none that is open
        return data, pictures


def _verify(check: Check, number: int) -> tuple[bytes, str]:
    """Render one cell with the written file and compare. Returns (PNG of that cell, what was found)."""
    shown = _cell_to_show(check.evaluation, check.folder, number)
    cell = _cell_of(check, shown, number)
    data, (picture,) = check.draw(cell, [(check.part, cell.strength)])
    if shown is None:
        return data, "Rendered once to check that it loads: no comparison shows this epoch, to hold it against."
    difference = _apart(picture, open_picture(check.folder / shown.file))
    if difference > TOLERANCE + 1e-9:
        raise UserError(
            f"{check.path} was not written: it draws another picture than {check.folder / shown.file} (by "
            f"{difference * 255:.0f}/255). Render the comparison again with `lora-studio evaluate {check.run.path}`, "
            "then export."
        )
    same = "pixel for pixel" if difference == 0 else "to within one step of 255"
    return data, f"Checked: loaded again, it draws the comparison's '{shown.column}' {same}."


def _compare(check: Check, recipe: Recipe, change: kohya.Change) -> tuple[bytes, str]:
    """Render one cell with the written file and hold it against the epoch it came from, at the strength baked in.

    Both are rendered here, alone and one after the other, so that a comparison at another strength, or none, is
    no obstacle. Returns (PNG of that cell, what was found).
    """
    epoch = recipe.parts[0]
    shown = _cell_to_show(check.evaluation, check.folder, epoch.epoch)
    cell = replace(_cell_of(check, shown, epoch.epoch), strength=1.0)
    merged = len(recipe.parts) > 1
    data, pictures = check.draw(cell, [(check.part, 1.0)] + [(epoch.path, recipe.factor)] * (not merged))
    exact = f"its ΔW is {recipe.words()} to within {change.error:.1e}"
    if merged:
        return data, f"Loaded again and rendered: {exact}. No epoch draws the picture of a merge, so none was compared."
    apart = _apart(*pictures)
    if change.error <= SAME:
        if apart > TOLERANCE + 1e-9:
            raise UserError(
                f"{check.path} was not written: it draws another picture than {epoch.name} at {recipe.factor:g} (by "
                f"{apart * 255:.0f}/255)."
            )
        return data, f"Checked: at 1 it draws what {epoch.name} draws at {recipe.factor:g}; {exact}."
    kept = f"keeps {change.kept:.2%} of the change and " if change.kept < 1 else ""
    return data, (
        f"Loaded again and rendered: it {kept}cannot draw the same pixels; its ΔW is {change.error:.1%} away and one "
        f"picture by up to {apart * 255:.0f}/255. Look at it before you share it."
    )


def _settings(run: Run, evaluation: Evaluation | None) -> EvaluationConfig:
    """Those under which the comparison was rendered; the run's own where there is none."""
    return EvaluationConfig(**evaluation.rendering) if evaluation else run.config.evaluation


def _cell_to_show(evaluation: Evaluation | None, folder: Path, number: int) -> Rendered | None:
    """The epoch's first cell that shows the subject and can be read, at the strength nearest to 1."""
    if evaluation is None:
        return None
    leaks = {prompt.name for prompt in evaluation.prompts if prompt.leak}
    cells = [cell for cell in evaluation.cells if cell.epoch == number and cell.column not in leaks]
    cells.sort(key=lambda cell: abs(cell.strength - 1))
    return next((cell for cell in cells if open_picture(folder / cell.file) is not None), None)


def _cell_of(check: Check, shown: Rendered | None, number: int) -> Cell:
    """The cell to render: the one shown in the comparison, or the prompt set's first when there is none."""
    config, settings = check.run.config, _settings(check.run, check.evaluation)
    base, own = check.model.sha256(), {"epoch": number, "lora": kohya.tensor_hash(check.part)}
    if shown is not None:
        column = next(prompt for prompt in check.evaluation.prompts if prompt.name == shown.column)
        return replace(make_cell(config, settings, column, shown.seed, base), strength=shown.strength, **own)
    file = presets.locate(settings.prompts, "prompts")
    column = read_prompts(file, config.data.trigger, config.data.class_word)[0]
    seed = settings.seeds[0] if column.seed is None else column.seed
    return replace(make_cell(config, settings, column, seed, base), **own)


def _apart(picture, other) -> float:
    """Largest difference of any channel, in [0, 1]; 1 when the sizes differ."""
    from PIL import ImageChops

    if other.size != picture.size:
        return 1.0
    return max(high for _, high in ImageChops.difference(picture, other).getextrema()) / 255
