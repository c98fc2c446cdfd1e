"""Every page over runs of every state, over broken run folders, and over a thousand pictures: none of them breaks."""

import io
import random
from typing import get_args

import pytest
from comparisons import make_comparison
from PIL import Image
from trainees import draw_pictures

from trainer import presets
from trainer.run import Progress, Run, State

PAGES = ["home", "dataset", "train", "runs", "compare", "library", "png_info", "settings"]


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A working folder with a thousand pictures of 16 px and their captions."""
    root = tmp_path_factory.mktemp("thousand")
    folder = root / "datasets" / "many"
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for number in range(1000):
        drawn = io.BytesIO()
        Image.new("RGB", (16, 16), tuple(rng.choices(range(256), k=3))).save(drawn, "PNG")
        (folder / f"{number}.png").write_bytes(drawn.getvalue())
        (folder / f"{number}.txt").write_text(f"moss, number {number}, hat")
    return root


@pytest.mark.parametrize("page", PAGES)
def test_a_run_of_each_state(page, open_page, here):
    draw_pictures(here / "datasets" / "moss")
    for state in get_args(State):
        run = Run.create(presets.layer({"name": state, "data.folder": "datasets/moss"}))
        run.write_status(state, f"said in {state}", Progress(epoch=1, epochs=3, step=4, steps=12))
        open_page(page, run=run.name)


@pytest.mark.parametrize("page", PAGES)
def test_broken_run_folders(page, open_page):
    broken = [make_comparison() for _ in range(5)]
    names = ("status.json", "config.toml", "metrics.jsonl", "evaluations/character/evaluation.json")
    for run, name in zip(broken, names):
        (run.path / name).write_bytes(b"]{\xff")
    (broken[4].path / "evaluations" / "character" / "report.html").unlink()
    for path in (broken[4].path / "evaluations" / "character" / "cells").iterdir():
        path.write_bytes(b"no picture")
    for run in broken:
        open_page(page, run=run.name)


@pytest.mark.parametrize("page", PAGES)
def test_a_thousand_pictures(page, open_page, words, thousand, monkeypatch):
    monkeypatch.chdir(thousand)
    text = words(open_page(page, dataset="many"))
    shown = {
        "home": "many: 1,000 pictures, 1,000 with a caption",
        "dataset": "1,000 pictures",
        "train": "1,000 pictures ×",
    }
    assert shown.get(page, "") in text
