"""What a person can get wrong, said on the command line: one sentence with the remedy, exit code 2, nothing lost."""

import json
import pickle
import shutil
import struct
import sys
import zlib
from pathlib import Path

import pytest
import torch
import trainees
from PIL import Image
from safetensors.torch import load_file, save_file

from trainer import __main__ as command_line
from trainer.errors import UserError
from trainer.loop import train
from trainer.run import Run, find_runs


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(capsys, monkeypatch):
    """Call lora-studio with arguments; the sentence it ends with."""

    def call(*arguments: str, code: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["lora-studio", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            command_line.main()
        printed = capsys.readouterr()
        assert exit.value.code == code, printed
        assert "Traceback" not in printed.err
        return " ".join(printed.err.split())

    return call


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file but the index of what was read, which is only a cache."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".pictures.sqlite" not in path.name)
    return {str(path): path.read_bytes() for path in files}


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def truncated(path: Path) -> None:
    Image.effect_noise((64, 64), 90).convert("RGB").save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-900])


BROKEN_PICTURES = {
    "truncated": (truncated, "broken.jpg"),
    "zero bytes": (lambda path: path.write_bytes(b""), "broken.jpg"),
    "bomb": (lambda path: path.write_bytes(png_header(60_000, 60_000)), "broken.png"),
    "no picture": (lambda path: path.write_text("hello"), "broken.webp"),
}


@pytest.mark.parametrize("kind", BROKEN_PICTURES)
def test_a_broken_picture_is_named_and_no_run_is_made(kind, here, said):
    make, name = BROKEN_PICTURES[kind]
    folder = trainees.draw_pictures(here / "pictures")
    make(folder / name)
    before = snapshot(folder)
    assert name in said("train", "--preset", "toybox", "--data", "pictures")
    assert snapshot(folder) == before
    assert find_runs() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "nowhere"], ["nowhere"]),
        (["--data", "empty"], ["empty"]),
        ([], ["--data"]),
        (["--data", "pictures", "--set", "adapter.alpha=64"], ["adapter.alpha", "64", "dim 32", "adapter.alpha=16"]),
        (["--data", "pictures", "--set", "learning_rate=1"], ["optimizer.learning_rate", "1e-4"]),
        (["--data", "pictures", "--set", "adapter.rnak=8"], ["adapter.rnak", "adapter.rank"]),
        (["--data", "pictures", "--set", "loop.epochs=0"], ["loop.epochs"]),
        (["--data", "pictures", "--set", "loop.epochs=many"], ["loop.epochs", "many"]),
        (["--data", "pictures", "--set", "optimizer.name=AdamV"], ["AdamV", "AdamW"]),
        (["--data", "pictures", "--set", "optimizer.schedule=cosin"], ["cosin", "cosine"]),
        (["--data", "pictures", "--preset", "sd15-charakter"], ["sd15-charakter", "sd15-character"]),
        (["--data", "pictures", "--preset", "mine.toml"], ["mine.toml", "adapter.rnk", "adapter.rank"]),
        (["--data", "pictures", "--preset", "torn.toml"], ["torn.toml", "TOML"]),
    ],
)
def test_wrong_settings_name_the_setting_and_the_remedy(options, words, here, said):
    trainees.draw_pictures(here / "pictures")
    (here / "empty").mkdir()
    (here / "mine.toml").write_text("[adapter]\nrnk = 4\n")
    (here / "torn.toml").write_text("[adapter\nrank = 4\n")
    sentence = said("train", *([] if "--preset" in options else ["--preset", "toybox"]), *options)
    for word in words:
        assert word in sentence
    assert find_runs() == []


def test_an_unreadable_caption_is_named(here, said):
    folder = trainees.draw_pictures(here / "pictures")
    (folder / "01.txt").write_bytes("gr\xfcn".encode("latin-1"))
    assert "01.txt" in said("train", "--preset", "toybox", "--data", "pictures")


class _Evil:
    def __reduce__(self):
        return (open, ("executed", "w"))


def other_checkpoint(path: Path) -> None:
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(4, 4)}, path)


WRONG_BASES = {
    "neither family": (other_checkpoint, "other.safetensors"),
    "pickle with code": (lambda path: path.write_bytes(pickle.dumps(_Evil())), "evil.ckpt"),
    "pickle in a zip": (lambda path: torch.save({"state_dict": _Evil()}, path), "evil.ckpt"),
    "torn": (lambda path: path.write_bytes(b"\xff" * 100), "torn.safetensors"),
    "missing": (lambda path: None, "missing.safetensors"),
}


@pytest.mark.parametrize("kind", WRONG_BASES)
def test_a_wrong_base_model_is_named_and_never_executed(kind, here, said):
    make, name = WRONG_BASES[kind]
    make(here / name)
    trainees.draw_pictures(here / "pictures")
    assert name in said("train", "--preset", "toybox", "--data", "pictures", "--base", name)
    assert not (here / "executed").exists()
    assert [run.status.state for run in find_runs()] in ([], ["failed"])


def test_a_second_trainer_on_the_same_run_is_refused(here, said, folders):
    run = trainees.make_run(here, folders["sd15"])
    before = snapshot(run.path)
    with run.lock():
        assert "already being worked on" in said("resume", run.path)
    assert {key: value for key, value in snapshot(run.path).items() if "lock" not in key} == before


def test_a_run_epoch_or_file_that_is_not_there(here, said, folders):
    run = trainees.make_run(here, folders["sd15"])
    assert run.name in said("evaluate", run.name[:-2])
    assert "no saved epoch" in said("export", run.path, "--epoch", "3")
    assert "nothing.safetensors" in said("inspect", "nothing.safetensors")
    assert "not-a-number" in said("evaluate", run.path, "--epochs", "not-a-number")


def test_unknown_words_on_the_command_line(here, said):
    assert said("trian")
    assert said("train", "--colour", "red")


def test_tag_refuses_before_it_writes(here, said):
    folder = trainees.draw_pictures(here / "pictures")
    before = snapshot(folder)
    assert "model.onnx" in said("tag", "pictures", "--tagger", "wd14:nowhere", "--overwrite")
    assert "wd14" in said("tag", "pictures", "--tagger", "wd41:nowhere", "--overwrite")
    assert "choose one" in said("tag", "pictures", "--append", "--overwrite")
    assert snapshot(folder) == before


def test_a_full_disk_while_saving_keeps_what_is_there(here, folders, monkeypatch):
    """The disk is really full: the run's folder of epochs is a file system of a few kilobytes, where one can be had."""
    from trainer import files

    path = here / "state.json"
    files.write_json(path, {"old": True})
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(UserError, match="No space left"):
        files.write_with(path, lambda temporary: full.write_bytes(b"x"))
    assert json.loads(path.read_text()) == {"old": True}


def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_the_last_epoch(here, folders):
    """The base goes bad between two epochs: the second stops at its first step, the first stays as it was."""
    base = shutil.copytree(folders["sd15"], here / "base")
    run = trainees.make_run(here, base, loop__epochs=1)
    train(run)
    kept = run.epochs()[0].path.read_bytes()
    weights = next((base / "unet").glob("*.safetensors"))
    save_file({key: tensor * float("nan") for key, tensor in load_file(weights).items()}, weights)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace("epochs = 1", "epochs = 2"))
    with pytest.raises(UserError, match=r"finite number at step 4.*Epoch 1 is saved and intact.*base model"):
        train(Run(run.path))
    assert run.status.state == "failed"
    assert [epoch.path.read_bytes() for epoch in run.epochs()] == [kept]


def test_weights_that_run_away_stop_the_run(here, folders):
    run = trainees.make_run(here, folders["sd15"], optimizer__args="weight_decay=1e30", loop__epochs=3)
    with pytest.raises(UserError, match=r"lower optimizer\.learning_rate \(0\.001\)"):
        train(run)
    assert run.status.state == "failed"
