"""Nothing is dropped: every picture of an odd folder is trained, and each crop and repeat is said beforehand."""

import json
import sys

import pytest
import trainees
from PIL import Image

from trainer import __main__ as command_line
from trainer.examples import load_examples
from trainer.loop import train
from trainer.run import find_runs


def odd_folder(folder):
    """One picture of each kind that a folder from the wild may hold."""
    folder.mkdir()
    red = Image.new("RGB", (90, 90), "red")
    red.save(folder / "plain.png")
    red.save(folder / "UPPER.JPG")
    red.save(folder / "with space.png")
    red.save(folder / "grün 苔 🌿.webp")
    Image.new("RGBA", (90, 90), (255, 0, 0, 40)).save(folder / "alpha.png")
    Image.new("CMYK", (90, 90), (0, 255, 255, 0)).save(folder / "cmyk.jpg")
    Image.new("I;16", (90, 90), 40_000).save(folder / "sixteen.png")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    Image.new("RGB", (120, 80), "red").save(folder / "rotated.jpg", exif=rotated)
    frames = [Image.new("RGB", (90, 90), color) for color in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    Image.new("RGB", (400, 90), "red").save(folder / "panorama.png")
    Image.new("RGB", (20, 20), "red").save(folder / "tiny.png")
    return folder


@pytest.fixture
def run(tmp_path, folders, monkeypatch, capsys):
    """Trained on the command line, two repeats of each picture in batches of 5."""
    monkeypatch.chdir(tmp_path)
    odd_folder(tmp_path / "odd")
    options = {
        "data.resolution": 64, "data.bucket_step": 32, "data.bucket_min": 32, "data.repeats": 2,
        "loop.epochs": 1, "loop.batch_size": 5,
        "adapter.rank": 2, "adapter.alpha": 1, "adapter.text_encoder": "false",
    }  # fmt: skip
    sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    base = str(folders["sd15"])
    argv = ["lora-studio", "train", "--preset", "toybox", "--base", base, "--data", "odd", *sets]
    monkeypatch.setattr(sys, "argv", argv)
    command_line.main()
    (made,) = find_runs()
    return made, capsys.readouterr().out


def test_every_picture_is_trained_and_listed(run):
    run, printed = run
    examples = load_examples(run.config.data)
    assert len(examples) == 12
    assert run.status.state == "finished"
    listed = {entry["file"]: entry for entry in json.loads((run.path / "dataset.json").read_text(encoding="utf-8"))}
    assert set(listed) == {example.path.name for example in examples}
    assert all(entry["repeats"] == 2 for entry in listed.values())
    assert listed["rotated.jpg"]["size"] == [80, 120]
    assert listed["panorama.png"]["lost"] > 0
    for word in ("panorama.png", "moving.gif", "with space.png", "fewer than the batch of 5", "loses"):
        assert word in " ".join(printed.split())
    # 12 pictures twice: every one of them is in the plan exactly twice.
    from trainer.dataset import buckets

    plan = buckets.plan([example.placement for example in examples], 2, 5, run.config.loop.seed, 0)
    assert sorted(index for batch in plan for index in batch) == sorted(list(range(12)) * 2)
    assert len(run.metrics()) == len(plan)


def test_the_same_pictures_are_not_encoded_twice(run, monkeypatch):
    run, _ = run
    from trainer.run import Run

    stages = []
    again = Run.create(run.config)
    train(again, lambda state, message, progress: stages.append(message))
    assert not [message for message in stages if message.startswith("Encoding")]


def test_a_caption_without_the_trigger_gets_it(tmp_path):
    folder = trainees.draw_pictures(tmp_path / "pictures")
    (folder / "00.txt").write_text("disc, plain")
    (folder / "01.txt").unlink()
    from trainer.config import DataConfig

    config = DataConfig(folder=str(folder), trigger="moss", resolution=64, bucket_step=32, bucket_min=64)
    examples = load_examples(config)
    assert examples[0].caption == "moss, disc, plain"
    assert examples[1].caption == "moss"
