"""Two runs in one comparison, free axes, and the losses of every row: on tiny bases of both families."""

import gc
import json
import shutil
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
import trainees
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file

from trainer import __main__ as cli
from trainer import denoising, families, presets, voting
from trainer.cells import Evaluation
from trainer.errors import UserError
from trainer.evaluate import evaluate
from trainer.examples import as_recorded, load_examples
from trainer.grid import Table, summary
from trainer.loop import train
from trainer.metrics import Pictures
from trainer.render import Renderer, load_base
from trainer.run import Run
from trainer.vote import Ballot

PROMPTS = """
[[prompt]]
name = "one"
prompt = "[trigger], disc"
[[prompt]]
name = "two"
prompt = "disc, plain"
leak = true
"""


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def runs(request, tmp_path_factory, folders) -> tuple[Run, Run]:
    """Two short runs of one base, the second with another trigger word."""
    root = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        (root / "set.toml").write_text(PROMPTS)
        common = {
            "optimizer__learning_rate": 0.05, "evaluation__prompts": "set.toml", "evaluation__sampler": "Euler",
            "evaluation__steps": 2, "evaluation__cfg_scale": 4.0, "loop__epochs": 2, "evaluation__loss_pictures": 2,
        }  # fmt: skip
        made = [trainees.make_run(root, folders[request.param], **common)]
        made.append(trainees.make_run(root, folders[request.param], **common, name="fern", data__trigger="fern"))
        for run in made:
            train(run)
    return tuple(Run(run.path.resolve()) for run in made)


@pytest.fixture
def here(runs, monkeypatch):
    monkeypatch.chdir(runs[0].path.parent.parent)
    return runs


def test_two_runs_stand_below_each_other_under_the_same_prompts(here):
    first, second = here
    result = evaluate(first, first.config.evaluation, epochs=[2], against=second)
    found = Evaluation.load(result.folder)
    assert result.folder.name == f"set-against-{second.name}"
    assert found.epochs == [0, 2, 3, 4] and found.labels == {3: "fern epoch 1", 4: "fern epoch 2"}
    texts = {(cell.epoch, cell.column): cell.infotext.partition("\n")[0] for cell in found.cells}
    assert texts[2, "one"] == "moss, disc <lora:moss-000002:1>"
    assert texts[4, "one"] == "fern, disc <lora:fern-000002:1>"
    assert len(found.cells) == 2 * 4 and sum(cell.epoch == 0 for cell in found.cells) == 2
    assert found.recommended is None and found.about[f"Scores of {second.name}"]
    assert summary(Table(found))[:2] == ["epoch 2", "against fern epochs 1, 2"]
    assert '"labels":{"3":"fern epoch 1"' in (result.folder / "report.html").read_text()
    assert {row.epoch for row in found.rows} == {0, 2, 3, 4} and all("loss" in row.scores for row in found.rows)
    # The vote runs over both, and says their names.
    ballot = Ballot(found, result.folder, strength=1.0)
    while (pair := ballot.next()) is not None:
        ballot.cast(pair, "left" if pair.left.epoch == 4 else "right" if pair.right.epoch == 4 else "tie")
    assert "fern epoch 2 is the clear winner" in ballot.ranking().sentence(found.labels)
    voting.recommend_again(found, result.folder)
    assert found.recommended is None
    with pytest.raises(UserError, match="against itself"):
        evaluate(first, first.config.evaluation, against=Run(first.path))


def test_a_second_base_has_a_row_of_its_own_and_its_rows_are_held_against_it(here, tmp_path, monkeypatch):
    """A second run whose base draws otherwise: an own base row, bleed and gap against that one."""
    first, second = here
    config = second.config
    base = tmp_path / "base"
    shutil.copytree(config.model.base, base)
    weights = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({key: value * 1.2 for key, value in weights.items()}, base / "unet/diffusion_pytorch_model.safetensors")
    other = Run(shutil.copytree(second.path, tmp_path / "runs" / second.name))
    changed = config.model_copy(update={"model": config.model.model_copy(update={"base": str(base)})})
    (other.path / "config.toml").write_text(presets.to_toml(changed.model_dump()))
    loaded = []
    load = families.load

    def one_at_a_time(*arguments, **options):
        gc.collect()
        assert not any(model() for model in loaded)  # one set of base weights in memory
        made = load(*arguments, **options)
        loaded.append(weakref.ref(made))
        return made

    monkeypatch.setattr(families, "load", one_at_a_time)
    result = evaluate(first, first.config.evaluation, epochs=[2], against=other)
    found = Evaluation.load(result.folder)
    assert len(loaded) == 2
    assert found.epochs == [0, 2, -1, 3, 4] and found.labels[-1] == "fern base"
    assert [row.epoch for row in found.rows] == found.epochs
    files = {(cell.epoch, cell.column): cell.file for cell in found.cells}
    with Image.open(result.folder / files[0, "two"]) as ours, Image.open(result.folder / files[-1, "two"]) as theirs:
        assert ImageChops.difference(ours, theirs).getbbox()
    bleeds = {row.epoch: row.scores.get("bleed") for row in found.rows}
    assert bleeds[0] is None and bleeds[-1] is None
    moved = Pictures(found, result.folder, [], None, "")
    cell = next(one for one in found.cells if one.epoch == 4 and one.column == "two")
    apart = 1 - float(moved.features[cell.file] @ moved.features[files[-1, "two"]])
    assert bleeds[4] == pytest.approx(max(0.0, apart), abs=1e-4)
    assert found.about[f"Scores of {other.name}"]
    assert summary(Table(found))[:2] == ["epoch 2", "against fern epochs 1, 2"]
    assert {candidate[0] for candidate in Ballot(found, result.folder, strength=1.0).candidates} == {2, 3, 4}
    page = (result.folder / "report.html").read_text()
    assert '"-1":"fern base"' in page and (result.folder / "grid.png").exists()


def test_free_axes_from_the_command_line(here, monkeypatch, capsys):
    first, _ = here
    arguments = ["lora-studio", "evaluate", str(first.path), "--x", "cfg=3,5", "--y", "epoch=1", "--z", "steps=1,2"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert not cli.main()
    folder = first.evaluation_folder("set-by-cfg_scale-steps")
    found = Evaluation.load(folder)
    assert found.epochs == [0, 1] and len(found.prompts) == 2 * 4 and len(found.cells) == 2 * 8
    assert found.prompts[1].name == "one · cfg scale 5 · steps 1"
    cell = next(cell for cell in found.cells if cell.column == found.prompts[1].name and cell.epoch == 1)
    assert "Steps: 1," in cell.infotext and "CFG scale: 5.0" in cell.infotext
    assert len({cell.file for cell in found.cells}) == 16
    assert (folder / "grid.png").exists() and found.prompts[1].name in (folder / "report.html").read_text()


def test_settings_of_the_rendering_alone_can_be_changed(here, monkeypatch, capsys):
    first, _ = here
    command = ["lora-studio", "evaluate", str(first.path), "--epochs", "1", "--x", "eta=0"]
    monkeypatch.setattr(sys, "argv", [*command, "--set", "evaluation.steps=1", "--set", "evaluation.noise_source=CPU"])
    assert not cli.main()
    found = Evaluation.load(first.evaluation_folder("set-by-eta"))
    assert all("Steps: 1," in cell.infotext and "RNG: CPU" in cell.infotext for cell in found.cells)
    monkeypatch.setattr(sys, "argv", [*command, "--set", "adapter.rank=8"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "only evaluation" in capsys.readouterr().err


def test_epochs_are_rendered_as_they_come(here, tmp_path, monkeypatch):
    """A run that trains: its second epoch is saved after the first one's pictures are there, then it ends."""
    first, _ = here
    run = Run(shutil.copytree(first.path, tmp_path / "runs" / first.name))
    late = run.epochs()[1].path
    late.rename(tmp_path / "late.safetensors")
    folder = run.evaluation_folder("set")
    shutil.rmtree(run.path / "evaluations", ignore_errors=True)
    run.write_status("training")
    seen = []

    def train_on(seconds):
        seen.append(Evaluation.load(folder).epochs)
        (tmp_path / "late.safetensors").rename(late)
        run.write_status("finished")

    monkeypatch.setattr("trainer.evaluate.time", SimpleNamespace(sleep=train_on))
    monkeypatch.setattr(sys, "argv", ["lora-studio", "evaluate", str(run.path), "--follow"])
    with run.lock():
        assert not cli.main()
    assert seen == [[0, 1]] and Evaluation.load(folder).epochs == [0, 1, 2]


def test_the_loss_of_a_row_is_the_mean_error_at_fixed_noise(here, tmp_path):
    first, _ = here
    config = first.config
    renderer = Renderer(load_base(config, "cpu"), 3)
    epoch = first.epochs()[1].path
    rows = [denoising.Row(0, 1.0, None, ""), denoising.Row(2, 1.0, epoch, "a"), denoising.Row(2, 0.0, epoch, "a")]
    held = trainees.draw_pictures(tmp_path / "held", sizes=[(64, 64)] * 3)
    other = config.data.model_copy(update={"folder": str(held)})
    pictures = {"training": load_examples(config.data), "held_out": load_examples(other)}
    found = denoising.measure(renderer, rows, pictures, 3, 1, tmp_path)
    assert found[0, 1.0] == pytest.approx(found[2, 0.0], rel=1e-4)  # at no strength it is the base
    assert found[2, 1.0]["training"] != pytest.approx(found[0, 1.0]["training"], rel=1e-2)
    assert found[0, 1.0]["held_out"] != found[0, 1.0]["training"]
    # By hand, one sample after the other.
    samples = denoising.samples_of(load_examples(config.data), 3)
    assert sorted(sample.timestep for sample in samples) == [int((i + 0.5) / 12 * 1000) for i in range(12)]
    errors = []
    for sample in samples:
        clean = denoising._latents(renderer.model, [sample])[sample.example.digest]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(sample.seed))
        kept = float(renderer.model.alphas_cumprod[sample.timestep])
        said = renderer.model.family.encode_captions(renderer.model, [sample.example.caption])
        sizes = torch.tensor([denoising._sizes(sample.example)])
        noisy = kept**0.5 * clean + (1 - kept) ** 0.5 * noise
        predicted = renderer.model.family.predict(renderer.model, noisy, torch.tensor([sample.timestep]), said, sizes)
        errors.append(float((predicted - noise).square().mean()))
    assert found[0, 1.0]["training"] == pytest.approx(sum(errors) / len(errors), rel=1e-3)
    # Kept by content: measured once, unless something in it changes.
    path = tmp_path / denoising.FILE
    kept_values = json.loads(path.read_text())
    path.write_text(json.dumps({key: 7.0 for key in kept_values}))
    again = denoising.measure(renderer, rows, pictures, 3, 1, tmp_path)
    assert again[2, 1.0] == {"training": 7.0, "held_out": 7.0}
    other = [denoising.Row(2, 1.0, epoch, "b")]
    assert denoising.measure(renderer, other, pictures, 3, 1, tmp_path)[2, 1.0]["training"] != 7.0


def test_losses_are_measured_as_the_settings_say(here, tmp_path):
    first, _ = here
    settings = first.config.evaluation
    held = trainees.draw_pictures(tmp_path / "held", sizes=[(64, 64)])
    none = evaluate(first, settings.model_copy(update={"loss_pictures": 0}), epochs=[1]).evaluation
    assert all("loss" not in row.scores for row in none.rows)
    both = evaluate(first, settings.model_copy(update={"held_out": str(held)}), epochs=[1]).evaluation
    assert all({"loss", "held_out", "gap"} <= row.scores.keys() for row in both.rows)
    with pytest.raises(UserError, match="nowhere"):
        evaluate(first, settings.model_copy(update={"held_out": "nowhere"}), epochs=[1])


def test_what_the_run_held_back_is_its_held_out_set(here):
    """As its record has it: a picture that came later was neither trained nor held back."""
    first, _ = here
    record = first.path / "dataset.json"
    entries = json.loads(record.read_text())
    (first.path / "dataset.json.before").write_text(record.read_text())
    try:
        record.write_text(json.dumps([{**entries[0], "role": "validation"}, *entries[2:]]))
        found = as_recorded(first.config.data, record)
        assert [example.role for example in found] == ["validation"] + ["training"] * (len(entries) - 2)
        assert found[0].digest == entries[0]["sha256"] and entries[1]["sha256"] not in {one.digest for one in found}
        settings = first.config.evaluation
        rows = evaluate(first, settings, epochs=[1]).evaluation.rows
        assert all({"loss", "held_out", "gap"} <= row.scores.keys() for row in rows)
        # A folder that is named comes in their place.
        own = evaluate(first, settings.model_copy(update={"held_out": first.config.data.folder}), epochs=[1])
        assert [row.scores["held_out"] for row in own.evaluation.rows] != [row.scores["held_out"] for row in rows]
    finally:
        (first.path / "dataset.json.before").replace(record)
    assert all("held_out" not in row.scores for row in evaluate(first, settings, epochs=[1]).evaluation.rows)
