"""The parts of a base one after the other on a card: who is there at each moment, and that nothing else changes."""

import pytest
import tiny
import torch

from trainer import families
from trainer.cells import Cell
from trainer.families.turns import Turns, needed
from trainer.render import Renderer


def parts_of(model):
    return (model.unet, model.vae, *model.text_encoders)


CELL = Cell("a cat", "", 1, 0, 1.0, 64, 64, sampler="Euler", steps=2, cfg_scale=5.0, clip_skip=1, base="")


def test_each_part_works_alone_and_the_picture_is_the_same(model):
    (together,) = Renderer(model, 1).render([CELL])
    model.turns = Turns(parts_of(model), "cpu")
    seen = []
    texts = tuple(model.text_encoders)
    for part, alone in [
        (model.unet, (model.unet,)),
        (model.vae.decoder, (model.vae,)),
        *((one, texts) for one in texts),
    ]:
        part.register_forward_pre_hook(lambda *_, alone=alone: seen.append(model.turns.at_work == alone))
    (apart,) = Renderer(model, 1).render([CELL])
    assert apart.tobytes() == together.tobytes()
    assert len(seen) >= 4 and all(seen)


def test_who_leaves_lies_again_where_it_lay(model):
    """On a device without memory, which gives nothing back: what returns is what never went."""
    noisy, timesteps, conditioning, sizes = tiny.inputs(model)
    before = model.family.predict(model, noisy, timesteps, conditioning, sizes)
    places = {name: weight.data_ptr() for name, weight in model.unet.named_parameters()}
    turns = Turns(parts_of(model), "meta")
    turns.bring(model.unet)
    assert model.unet.device.type == "meta" and model.vae.device.type == "cpu"
    turns.bring(*model.text_encoders)
    assert {name: weight.data_ptr() for name, weight in model.unet.named_parameters()} == places
    assert torch.equal(model.family.predict(model, noisy, timesteps, conditioning, sizes), before)
    assert all(one.device.type == "meta" for one in model.text_encoders)


def test_a_vae_that_became_float32_stays_so(folders):
    model = families.load(str(folders["sd15"]), dtype=torch.float16)
    turns = Turns(parts_of(model), "cpu")
    turns.bring(model.vae)
    model.vae.float()
    turns.bring(model.unet)
    assert model.vae.dtype == torch.float32


@pytest.mark.parametrize(
    ("weights", "card", "apart"), [(7.1, 8, True), (7.1, 12, True), (7.1, 16, False), (2.3, 6, False)]
)
def test_parts_take_turns_where_they_would_fill_half_a_card(weights, card, apart):
    assert needed(round(weights * 1e9), card * 10**9) is apart


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card")
def test_on_a_card_only_the_part_at_work_is_there(model, monkeypatch):
    monkeypatch.setattr("trainer.families.turns.needed", lambda *_: True)
    model.settle("cuda")
    Renderer(model, 1).render([CELL])
    assert [part.device.type for part in parts_of(model)][:3] == ["cpu", "cuda", "cpu"]
