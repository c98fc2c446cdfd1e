"""The main job on the toybox: a character that the base has never seen is learned, in both families."""

import pytest

from trainer import demo
from trainer.evaluate import evaluate
from trainer.toybox import PARTS, PICTURES


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_held_back_character_is_learned(family, tmp_path, monkeypatch):
    """Fidelity is the drawn world's own measure: 0 nothing of the character, 1 as drawn."""
    character = "moss"
    monkeypatch.chdir(tmp_path)
    folder = demo.copy_pictures(PICTURES[character], tmp_path / "datasets" / character)
    demo.tag(folder, PARTS["tagger"], character)
    run = demo.train(family, folder, character)
    assert len(run.epochs()) == run.config.loop.epochs
    settings = run.config.evaluation.model_copy(update={"seeds": (1,)})
    result = evaluate(run, settings, epochs=[1, 6, 8, 10])
    fidelity = demo.fidelities(result.evaluation, result.folder, character)
    assert fidelity[0] <= 0.2, fidelity
    assert max(fidelity.values()) >= 0.8, fidelity
    assert fidelity[1] < max(fidelity.values()), fidelity
