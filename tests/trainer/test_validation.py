"""The loss on held-back pictures: measured at the same points every time, and without a trace in the training."""

import pytest
import torch
import trainees

from trainer import losses, presets
from trainer.batches import Batches
from trainer.config import LossConfig
from trainer.loop import train
from trainer.run import Run
from trainer.validation import STRATA, Validation


def trained(root, base, **changes) -> Run:
    run = trainees.make_run(root, base, **changes)
    train(run)
    return run


def test_it_is_recorded_once_an_epoch_and_changes_no_other_loss(tmp_path, folders, monkeypatch):
    """Holding a picture back is the same as not having it."""
    monkeypatch.chdir(tmp_path)
    measured = trained(tmp_path, folders["sd15"], data__validation_split=1)
    figures = [entry for entry in measured.metrics() if "loss/validation" in entry]
    per_epoch = len(measured.metrics()) // 2
    assert [entry["step"] for entry in figures] == [per_epoch, 2 * per_epoch]
    assert figures[0]["loss/validation"] != figures[1]["loss/validation"]  # the LoRA has learned
    assert all(entry["loss/validation_trained"] > 0 for entry in figures)
    from trainer.examples import load_examples

    (held,) = [e for e in load_examples(measured.config.data) if e.role == "validation"]
    away = tmp_path / "away"
    away.mkdir()
    held.path.rename(away / held.path.name)
    monkeypatch.setattr(trainees, "draw_pictures", lambda folder: folder)
    plain = trained(tmp_path, folders["sd15"])
    assert [entry["loss"] for entry in plain.metrics()] == [entry["loss"] for entry in measured.metrics()]
    assert "loss/validation" not in plain.metrics()[-1]


def test_the_points_are_the_same_whatever_the_seed(folders):
    from pathlib import Path

    from trainer.dataset import buckets
    from trainer.examples import Example

    placement = buckets.place(64, 64, [(64, 64)])
    roles = ["training", "validation", "training", "regularisation", "validation"]
    examples = [
        Example(Path(f"{n}.png"), str(n), "moss, hat", 64, 64, 1, placement, role=role) for n, role in enumerate(roles)
    ]
    latents = {(n, 0): {"mean": torch.full((4, 8, 8), float(n)), "std": torch.ones(4, 8, 8)} for n in range(5)}

    def seen(seed: int, order=range(5), **loss):
        config = presets.layer({"loop.seed": seed, "data.caption_dropout": 0.5})
        batches = Batches(config, [examples[n] for n in order], {(at, 0): latents[n, 0] for at, n in enumerate(order)})
        return Validation([examples[n] for n in order], batches, LossConfig(**loss)), batches

    validation, batches = seen(1)
    assert {(kind, index) for kind, index, _ in validation._work} == {
        ("validation", 1), ("validation", 4), ("training", 0), ("training", 2),
    }  # fmt: skip
    assert sorted({step for _, _, step in validation._work}) == [125, 375, 625, 875] and STRATA == 4
    narrow, _ = seen(1, min_timestep=200, max_timestep=600)
    assert sorted({step for _, _, step in narrow._work}) == [250, 350, 450, 550]
    one, other = batches.fixed([1], 125), seen(2, [4, 1, 0, 2, 3])[1].fixed([1], 125)
    assert torch.equal(one.noise, other.noise) and torch.equal(one.latents, other.latents)
    assert one.captions == other.captions == ["moss, hat"]
    assert not torch.equal(one.noise, batches.fixed([1], 375).noise)


def test_measuring_leaves_generator_and_dropout_as_they_were(folders):
    from accelerate import Accelerator

    module = torch.nn.Sequential(torch.nn.Dropout(0.5)).train()
    module[0].eval()
    validation = Validation.__new__(Validation)
    validation._work, validation._batches = [("validation", 0, 1), ("training", 0, 1)], None

    class Fixed:
        def fixed(self, indices, step):
            return torch.ones(1, 8)

    validation._batches = Fixed()
    before = torch.get_rng_state()

    def loss(batch):
        torch.rand(3)
        assert not module.training
        return module(batch).mean(dim=1)

    assert validation.measure(Accelerator(), [module], loss) == {"loss/validation": 1, "loss/validation_trained": 1}
    assert torch.equal(torch.get_rng_state(), before)
    assert module.training and not module[0].training


# ── weights and masks ───────────────────────────────────────────────────────────────────────────────────


def test_a_mask_weighs_each_place():
    predicted, wanted = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    mask = torch.rand(3, 1, 8, 8)
    mask[2] = 0
    c = torch.ones(3)
    plain = losses.error(LossConfig(), predicted, wanted, c, mask)
    by_area = losses.error(LossConfig(mask_normalised=True), predicted, wanted, c, mask)
    for at in range(3):
        squares = (predicted[at] - wanted[at]).square()
        assert plain[at].item() == pytest.approx((squares * mask[at]).sum().item() / 256, rel=1e-5)
        if at < 2:
            area = mask[at].sum().item() * 4
            assert by_area[at].item() == pytest.approx((squares * mask[at]).sum().item() / area, rel=1e-5)
    assert plain[2] == by_area[2] == 0


def test_the_loop_obeys_masks_and_the_weight_of_regularisation(tmp_path, folders, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    cats = trainees.draw_pictures(tmp_path / "cats", [(70, 60)], trigger="cat")
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(5):
        Image.linear_gradient("L").save(masks / f"{number:02}.png")

    def first_losses(**changes):
        run = trained(tmp_path, folders["sd15"], loop__epochs=1, data__regularisation=str(cats), **changes)
        return [entry["loss"] for entry in run.metrics()]

    found = [
        first_losses(),
        first_losses(loss__prior_weight=0.5),
        first_losses(data__mask_folder=str(masks)),
        first_losses(data__mask_folder=str(masks), loss__mask_normalised=True),
    ]
    assert len({tuple(values) for values in found}) == 4
    assert sum(found[1]) < sum(found[0]) and sum(found[2]) < sum(found[3])
