"""Pictures that are asked for while a run trains: they are made from what it has learned, and change nothing in it."""

import hashlib
import json
import shutil

import pytest
import tiny
import trainees
from PIL import Image
from safetensors.torch import load_file, save_file
from test_resume import ADAPTERS
from typer.testing import CliRunner

from trainer import families, kohya
from trainer.cli import app
from trainer.loop import train
from trainer.run import Run

PROMPTS = "".join(f'[[prompt]]\nname = "p{n}"\nprompt = "[trigger], disc"\n' for n in range(5))


@pytest.fixture
def make(tmp_path, folders, monkeypatch):
    """A run whose comparison has five prompts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.toml").write_text(PROMPTS)
    small = {"evaluation.prompts": "prompts.toml", "evaluation.size": 64, "evaluation.steps": 1, "data.repeats": 2}

    def made(**changes) -> Run:
        return trainees.make_run(tmp_path, folders["sd15"], **small, **changes)

    return made


def train_asking(run: Run, step: int, command: str = "sample", when: str = "") -> list[str]:
    """Train, and ask once `step` updates are made (or once `when` was said); returns what was said on the way."""
    said, asked = [], []

    def listen(state, message, progress):
        said.append(message)
        due = when in message if when else progress.step == step
        if state == "training" and due and not asked:
            asked.append(run.request(command))

    train(run, listen)
    assert asked
    return said


def test_pictures_of_a_step_show_what_was_learned_by_then(make):
    run = make()
    train_asking(run, 2)
    lora = run.sample_path(2)
    pictures = sorted(path.name for path in lora.parent.glob("*.png"))
    assert pictures == [f"step00000002-{n}-p{n - 1}.png" for n in range(1, 5)]
    with Image.open(lora.parent / pictures[0]) as picture:
        assert picture.size == (64, 64)
        assert picture.info["parameters"].startswith(f"moss, disc <lora:{lora.stem}:1>")
    learned, finished = load_file(lora), load_file(run.epoch_path(1))
    assert learned.keys() == finished.keys()
    assert any(not learned[key].equal(finished[key]) for key in learned)
    assert (run.path / "state" / "state.pt").exists() and not (run.path / "control" / "sample").exists()


@pytest.mark.parametrize("name", ADAPTERS)
def test_training_ends_with_the_same_bytes(name, make):
    plain, asked = make(**ADAPTERS[name]), make(**ADAPTERS[name])
    train(plain)
    train_asking(asked, 1)
    assert list((asked.path / "samples").glob("*.png"))
    for one, other in zip(plain.epochs(), asked.epochs(), strict=True):
        before, after = load_file(one.path), load_file(other.path)
        assert {k: v.numpy().tobytes() for k, v in before.items()} == {k: v.numpy().tobytes() for k, v in after.items()}
    assert [line["loss"] for line in plain.metrics()] == [line["loss"] for line in asked.metrics()]


def test_pictures_that_cannot_be_made_do_not_end_the_training(make):
    run = make()
    (run.path.parent.parent / "prompts.toml").unlink()
    said = train_asking(run, 1)
    assert run.status.state == "finished"
    assert any("step 1 could not be rendered: " in message and "prompts.toml" in message for message in said)


def test_a_stop_does_not_wait_for_the_pictures(make):
    run = make()
    run.request("sample")  # before anybody trains: not obeyed
    said = []

    def listen(state, message, progress):
        said.append(message)
        if progress.step == 1 and not run.sample_path(1).exists():
            run.request("sample")
        if message == "Rendering pictures of step 1":
            run.request("stop")

    train(run, listen)
    assert run.status.state == "stopped" and run.sample_path(1).exists()
    assert not list((run.path / "samples").glob("*.png")) and not run.sample_path(0).exists()


def test_the_verb_leaves_the_request_for_a_run_that_trains(make):
    run = make()
    idle = CliRunner().invoke(app, ["sample", str(run.path)])
    assert "not running" in str(idle.exception) and not (run.path / "control" / "sample").exists()
    with run.lock():
        CliRunner().invoke(app, ["sample", str(run.path)])
    assert run.take_request("sample")


def test_a_run_and_its_files_name_the_base_by_both_hashes(tmp_path, folders, monkeypatch):
    """A1111's ten digits and the whole SHA-256 of the checkpoint's own bytes."""
    monkeypatch.chdir(tmp_path)
    base = families.load(str(folders["sd15"]))
    shutil.copytree(folders["sd15"] / "tokenizer", tmp_path / "tokenizer")
    save_file(tiny.original_state(base), tmp_path / "dream.safetensors")
    run = trainees.make_run(tmp_path, tmp_path / "dream.safetensors", loop__epochs=1)
    train(run)
    digest = hashlib.sha256((tmp_path / "dream.safetensors").read_bytes()).hexdigest()
    about = json.loads((run.path / "environment.json").read_text())["base"]
    assert (about["hash"], about["sha256"]) == (digest[:10], digest)
    metadata = kohya.read_header(run.epoch_path(1)).metadata
    assert metadata["ss_new_sd_model_hash"] == digest and len(metadata["ss_sd_model_hash"]) == 8
