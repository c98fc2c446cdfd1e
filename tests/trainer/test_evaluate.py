"""Compare and export on tiny bases of both families: the real path from a trained run to a file in models/."""

import json
import shutil
from dataclasses import replace

import pytest
import tiny
import torch
import trainees
from PIL import Image, ImageChops
from safetensors.torch import load_file

from trainer import families, kohya, presets
from trainer.cells import Evaluation
from trainer.errors import UserError
from trainer.evaluate import evaluate, make_cell
from trainer.export import export
from trainer.loop import train
from trainer.render import Renderer, load_base
from trainer.run import Run
from trainer.webui import infotext, noise

PROMPTS = """
[[prompt]]
name = "one"
prompt = "[trigger], (disc:1.3)"
[[prompt]]
name = "two"
prompt = "disc, plain"
negative = "moss"
leak = true
"""


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def trained(request, tmp_path_factory, folders) -> Run:
    """Two strong epochs, so that each row of the grid is another picture."""
    root = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        (root / "set.toml").write_text(PROMPTS)
        run = trainees.make_run(
            root,
            folders[request.param],
            optimizer__learning_rate=0.05,
            optimizer__text_encoder_learning_rate=0.02,
            evaluation__prompts="set.toml",
            evaluation__sampler="Euler",
            evaluation__steps=4,
            evaluation__cfg_scale=4.0,
            evaluation__seeds=[5],
        )
        train(run)
    return run


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Run:
    """A copy of the trained run in a folder of the test's own."""
    shutil.copytree(trained.path.parent.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path / "runs" / trained.name)


def settings_of(run: Run, **changes):
    return run.config.evaluation.model_copy(update=changes)


def difference(a, b) -> int:
    return max(high for _, high in ImageChops.difference(a.convert("RGB"), b.convert("RGB")).getextrema())


def test_the_grid_has_the_base_first_and_every_epoch_from_its_file(here):
    result = evaluate(here, settings_of(here))
    evaluation = Evaluation.load(result.folder)
    assert evaluation.epochs == [0, 1, 2]
    places = [(cell.epoch, cell.column) for cell in evaluation.cells]
    assert places == [(epoch, column) for epoch in (0, 1, 2) for column in ("one", "two")]
    for name in ("grid.png", "report.html", "scores.json"):
        assert (result.folder / name).stat().st_size > 0
    pictures = [Image.open(result.folder / cell.file) for cell in evaluation.cells]
    assert difference(pictures[0], pictures[2]) > 3  # an epoch is another picture than the base
    assert difference(pictures[2], pictures[4]) > 3  # and than another epoch
    assert {row.epoch for row in evaluation.rows} == {0, 1, 2}


def test_every_picture_says_how_it_was_made(here):
    result = evaluate(here, settings_of(here))
    cell = next(cell for cell in result.evaluation.cells if cell.epoch == 2 and cell.column == "two")
    source, info = infotext.read_image(result.folder / cell.file)
    assert source == "a1111"
    assert info.prompt == "disc, plain <lora:moss-000002:1>"
    assert info.negative_prompt == "moss"
    wanted = {"Steps": "4", "Sampler": "Euler", "CFG scale": "4.0", "Seed": "5", "Size": "64x64", "RNG": "NV"}
    assert wanted.items() <= info.settings.items()
    assert kohya.tensor_hash(here.epochs()[1].path).startswith(info.settings["Lora hashes"].split(": ")[1])


def test_only_what_is_missing_is_rendered(here):
    folder = evaluate(here, settings_of(here)).folder
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    victim = next(iter(before))
    (folder / "cells" / victim).unlink()
    # A changed prompt needs three new pictures; those of the other prompt stay.
    text = (here.path.parent.parent / "set.toml").read_text()
    (here.path.parent.parent / "set.toml").write_text(text.replace("disc, plain", "disc, red"))
    evaluate(here, settings_of(here))
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    new = {name for name in after if after[name] != before.get(name)}
    assert len(new - {victim}) == 3
    assert all(after[name] == before[name] for name in before if name != victim)


def test_a_chosen_epoch_strength_and_seed(here):
    result = evaluate(here, settings_of(here, strengths=(0.5, 1.0), seeds=(5, 6)), epochs=[2])
    cells = result.evaluation.cells
    assert {cell.epoch for cell in cells} == {0, 2}
    assert len(cells) == 2 * 2 + 2 * 2 * 2  # base: prompts × seeds; epoch 2: that at two strengths
    with pytest.raises(UserError, match="no epoch 7"):
        evaluate(here, settings_of(here), epochs=[7])


def test_a_picture_from_a_batch_is_the_picture_rendered_alone(here):
    config = here.config
    model = load_base(config, "cpu")
    from trainer.cells import read_prompts

    columns = read_prompts(presets.locate("set.toml", "prompts"), "moss")
    cells = [make_cell(config, config.evaluation, column, seed, "") for column in columns for seed in (5, 6)]
    # Prompts of different length share a batch, too.
    cells.append(replace(cells[0], prompt=", ".join(["disc"] * 90)))
    together = Renderer(model, 5).render(cells)
    for cell, picture in zip(cells, together):
        assert difference(Renderer(model, 1).render([cell])[0], picture) <= 1


def test_export_draws_the_same_picture_and_writes_what_the_tools_read(here):
    folder = evaluate(here, settings_of(here)).folder
    exported = export(here, 2, name="My moss")
    assert exported.path.name == "My-moss.safetensors"
    assert "Checked" in exported.verification
    lora = kohya.read(exported.path)
    assert lora.metadata["ss_output_name"] == "My-moss"
    for key, tensor in load_file(here.epochs()[1].path).items():
        assert torch.equal(lora.tensors[key], tensor)
    assert json.loads(exported.path.with_suffix(".json").read_text())["activation text"] == "moss"
    assert json.loads(exported.path.with_suffix(".civitai.info").read_text())["trainedWords"] == ["moss"]
    assert exported.path.with_suffix(".png").exists() and exported.path.with_suffix(".preview.png").exists()
    with pytest.raises(UserError, match="already there"):
        export(here, 1, name="My moss")
    assert kohya.tensor_hash(exported.path) == kohya.tensor_hash(here.epochs()[1].path)
    # Another picture under the cell's name is not what the file draws.
    shown = next(cell for cell in Evaluation.load(folder).cells if cell.epoch == 2 and cell.column == "one")
    Image.new("RGB", (64, 64), "red").save(folder / shown.file)
    with pytest.raises(UserError, match="another picture"):
        export(here, 2, name="moss again")


def test_a_changed_export_is_what_it_says_and_is_checked_as_far_as_it_can_be(here):
    first, second = (kohya.read(epoch.path).tensors for epoch in here.epochs())
    baked = export(here, 2, name="baked", strength=0.5)
    assert "Checked: at 1 it draws what epoch 2 draws at 0.5" in baked.verification
    for key, tensor in kohya.read(baked.path).tensors.items():
        assert torch.equal(tensor, 0.5 * second[key] if key.endswith(".alpha") else second[key])
    merged = export(here, name="merged", merge=[(1, 0.25), (2, 0.75)])
    assert "No epoch draws the picture of a merge" in merged.verification
    lora = kohya.read(merged.path)
    assert lora.metadata["ss_network_dim"] == "8" and "moss-000001" in lora.metadata["modelspec.merged_from"]
    key = next(iter(first)).partition(".")[0]
    wanted = sum(w * delta(tensors, key) for w, tensors in ((0.25, first), (0.75, second)))
    assert torch.allclose(delta(lora.tensors, key), wanted, rtol=1e-5, atol=1e-9)
    small = export(here, 2, name="small", rank=1, dtype="fp16")
    assert "cannot draw the same pixels" in small.verification and "keeps" in small.verification
    assert small.path.stat().st_size < here.epochs()[1].path.stat().st_size / 2
    for wrong in ({"number": None}, {"number": 1, "merge": [(2, 1.0)]}, {"number": 1, "strength": 0.0}):
        with pytest.raises(UserError, match="--"):
            export(here, name="wrong", **wrong)
    assert not (here.path.parent.parent / "models" / "wrong.safetensors").exists()


def delta(tensors: dict, name: str) -> torch.Tensor:
    down, up = (tensors[f"{name}.lora_{side}.weight"].double().flatten(1) for side in ("down", "up"))
    return up @ down * float(tensors[f"{name}.alpha"]) / down.shape[0]


def test_diffusers_draws_the_same_picture_from_the_exported_file(here):
    """Euler at 6 steps through diffusers' own pipeline and `load_lora_weights`, from the same noise."""
    from diffusers import EulerDiscreteScheduler

    exported = export(here, 2)
    config = here.config
    model = load_base(config, "cpu")
    settings = settings_of(here, steps=6)
    cell = make_cell(config, settings, presets_prompt(), 5, "")
    renderer = Renderer(model, 1)
    renderer.use(exported.path, 1.0)
    ours = renderer.render([cell])[0]
    pipe = tiny.pipeline(families.load(config.model.base))
    pipe.scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace"
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(exported.path.parent), weight_name=exported.path.name)
    latents = noise.initial_noise((4, 8, 8), 5, "NV")[None]
    negative = None if model.family.name == "sdxl" else ""
    theirs = pipe(
        cell.prompt, negative_prompt=negative, num_inference_steps=6, guidance_scale=4.0, width=64, height=64,
        latents=latents,
    ).images[0]  # fmt: skip
    assert difference(ours, theirs) <= 1


def presets_prompt():
    from trainer.cells import Prompt

    return Prompt("plain", "moss, disc")


def test_the_base_is_untouched_after_a_lora_was_on_it(here):
    config = here.config
    cell = make_cell(config, config.evaluation, presets_prompt(), 5, "")
    renderer = Renderer(load_base(config, "cpu"), 1)
    before = renderer.render([cell])[0]
    renderer.use(here.epochs()[1].path, 1.0)
    with_lora = renderer.render([cell])[0]
    renderer.use(None, 1.0)
    assert difference(renderer.render([cell])[0], before) == 0
    assert difference(with_lora, before) > 3
    renderer.use(here.epochs()[0].path, 1.0)
    renderer.use(here.epochs()[1].path, 1.0)
    assert difference(renderer.render([cell])[0], with_lora) == 0
