"""Every part of the builder, tiny: trains, is stopped, and continues to what it would have been."""

from dataclasses import replace

import pytest
import torch

from trainer.toybox import series
from trainer.toybox.train_base import BaseRecipe, export_base, train_base
from trainer.toybox.train_clip import ClipRecipe, export_clip, train_clip
from trainer.toybox.train_tagger import TaggerRecipe, export_tagger, train_tagger
from trainer.toybox.train_vae import VaeRecipe, export_vae, polish_decoder, train_vae

VAE = VaeRecipe(channels=(32, 32, 32, 32), pictures=8, steps=2, batch=2, polish_steps=2)
BASE = BaseRecipe(pictures=4, steps=2, batch=2)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """A handful of pictures for every part, and one thread, which makes sums exact."""
    scenes, held_back = series.scene_pictures, series.held_back_pictures
    monkeypatch.setattr(series, "scene_pictures", lambda work: scenes(work, 8))
    monkeypatch.setattr(series, "held_back_pictures", lambda work: held_back(work, 6))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parts(work):
    """Each part as a function of `until`, and its export."""
    vae = work / "weights" / "vae"
    return {
        "vae": (lambda until: train_vae(work, VAE, until=until), lambda: export_vae(work, vae, VAE)),
        "decoder": (lambda until: polish_decoder(work, VAE, until=until), lambda: export_vae(work, vae, VAE)),
        "sd15": (
            lambda until: train_base("sd15", work, vae, BASE, until=until),
            lambda: export_base("sd15", work, work / "weights" / "sd15", BASE),
        ),
        "sdxl": (
            lambda until: train_base("sdxl", work, vae, BASE, until=until),
            lambda: export_base("sdxl", work, work / "weights" / "sdxl", BASE),
        ),
        "tagger": (
            lambda until: train_tagger(work, replace(TaggerRecipe(), steps=2, batch=4), until=until),
            lambda: export_tagger(work, work / "weights" / "tagger"),
        ),
        "clip": (
            lambda until: train_clip(work, replace(ClipRecipe(), steps=2, batch=4), until=until),
            lambda: export_clip(work, work / "weights" / "clip"),
        ),
    }


def weights(course):
    return torch.cat([values.flatten() for values in course.average.values.values()])


def test_every_part_continues_where_it_was_stopped_and_exports(tmp_path):
    whole, stopped = parts(tmp_path / "whole"), parts(tmp_path / "stopped")
    for name, (train, export) in whole.items():
        straight = train(None)
        export()
        resumed_train, resumed_export = stopped[name]
        assert resumed_train(1).step == 1
        resumed = resumed_train(None)
        resumed_export()
        assert straight.step == resumed.step == 2
        assert torch.equal(weights(straight), weights(resumed)), name
    written = {folder.name for folder in (tmp_path / "whole" / "weights").iterdir()}
    assert written == {"vae", "sd15", "sdxl", "tagger", "clip"}
