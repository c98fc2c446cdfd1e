"""Every shipped preset: it loads, says what it is for, has no mistakes of its own, and trains."""

import sys

import pytest
import tiny
import trainees

from trainer import __main__ as command_line
from trainer import checks, presets
from trainer.estimate import estimate
from trainer.examples import load_examples
from trainer.loop import train
from trainer.prompt_sets import read_prompts
from trainer.run import Run

NAMES = sorted(path.stem for path in presets.SHIPPED.glob("*.toml"))


def shipped(name: str) -> presets.Preset:
    return presets.load(str(presets.SHIPPED / f"{name}.toml"))


@pytest.fixture
def said(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lora-studio", *words])
        command_line.main()
        return capsys.readouterr().out

    return call


def test_the_presets_that_people_look_for_are_there():
    wanted = "sd15-character sd15-style sd15-concept sdxl-character sdxl-pony-character sdxl-style sd15-6gb sdxl-8gb"
    assert set(NAMES) >= {*wanted.split(), "sdxl-12gb", "toybox"}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_what_it_is_for_and_contradicts_nothing(name, tmp_path):
    preset = shipped(name)
    assert len(preset.about.split()) > 20
    folder = trainees.draw_pictures(tmp_path / "pictures")
    config = presets.layer(preset.values, {"data.folder": str(folder), "data.trigger": "moss"})
    problems = checks.check(config, load_examples(config.data))
    about_settings = [problem for problem in problems if problem.setting != "data.folder"]
    assert not [problem for problem in about_settings if problem.severity == "error"]
    assert read_prompts(presets.locate(config.evaluation.prompts, "prompts"), "moss", "cat")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_trains_three_steps_with_its_own_options(name, tmp_path, folders, monkeypatch):
    """On a tiny base of its family with one picture, so that an epoch is a step; only the size is overridden."""
    monkeypatch.chdir(tmp_path)
    preset = shipped(name)
    family = "sdxl" if name.startswith("sdxl") else "sd15"
    pictures = trainees.draw_pictures(tmp_path / "pictures", trainees.SIZES[:1])
    small = {
        "name": "moss",
        "model.base": str(folders[family]),
        "model.precision": "fp32",
        "data.folder": str(pictures),
        "data.resolution": 64,
        "data.bucket_min": 64,
        "data.repeats": 1,
        "loop.epochs": 3,
    }
    run = Run.create(presets.layer(preset.values, small), tmp_path / "runs")
    train(run)
    assert run.status.state == "finished"
    assert run.status.progress.step == 3
    assert len(run.epochs()) == 3
    first, last = (run.epochs()[index].path.read_bytes() for index in (0, -1))
    assert first != last


GIB = 1024**3
RESERVE = 0.85  # of a card: the rest is the desktop's, and what a driver's allocator holds beyond what is alive


@pytest.mark.parametrize(("name", "gigabytes"), [("sd15-6gb", 6), ("sdxl-8gb", 8), ("sdxl-12gb", 12)])
def test_a_preset_for_small_cards_fits_its_card(name, gigabytes, tmp_path):
    """Counted on the published architecture, at the preset's own resolution and as a graphics card would hold it."""
    base = tiny.full_size_folder(tmp_path / "base", name.partition("-")[0])
    config = presets.layer(shipped(name).values, {"model.base": str(base)})
    assert config.data.resolution == (512 if name.startswith("sd15") else 1024)
    found = estimate(config, [], gigabytes * GIB, "cuda")
    assert found.training["UNet"] > 1.7e9  # the whole base, in half precision
    assert found.peak < RESERVE * gigabytes * GIB
    assert found.fits and found.rendering < RESERVE * gigabytes * GIB  # the parts of the base take turns


def test_the_list_names_every_preset(said):
    printed = said("presets")
    for name in NAMES:
        assert name in printed


def test_one_preset_is_compared_with_the_defaults_and_with_another(said):
    rows = {line.split()[0]: line.split()[1:] for line in said("presets", "sd15-style").splitlines() if "." in line}
    assert rows["adapter.rank"] == ["16", "32"]
    assert "adapter.save_precision" not in rows
    rows = {
        line.split()[0]: line.split()[1:] for line in said("presets", "sd15-style", "sdxl-8gb").splitlines() if line
    }
    assert rows["adapter.rank"] == ["32", "8"]
    assert rows["data.resolution"] == ["512", "1024"]
    assert "adapter.text_encoder" not in rows  # off in both
