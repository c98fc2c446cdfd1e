"""What a step draws: each option from its own generator, so that none disturbs the others."""

from pathlib import Path

import pytest
import torch
import trainees

from trainer import batches, checks, presets
from trainer.batches import Batch, Batches, Store
from trainer.dataset import buckets
from trainer.errors import UserError
from trainer.examples import Example

ALPHAS = torch.linspace(0.999, 0.005, 1000)


def batch(size: int = 4, **settings) -> Batch:
    """One batch of drawn pictures under these settings."""
    config = presets.layer({"data.caption_dropout": 0.2, **{f"loss.{key}": value for key, value in settings.items()}})
    placement = buckets.place(64, 64, [(64, 64)])
    caption = "moss, hat, sitting, blue, outside"
    examples = [Example(Path(f"{n}.png"), str(n), caption, 64, 64, 1, placement) for n in range(size)]
    latents = {(n, 0): {"mean": torch.full((4, 8, 8), float(n)), "std": torch.ones(4, 8, 8)} for n in range(size)}
    return Batches(config, examples, latents).make(0, 0, list(range(size)), ALPHAS)


CHANGES = {
    "noise_offset": (0.1, {"noise", "added"}),
    "multires_iterations": (4, {"noise", "added"}),
    "input_perturbation": (0.1, {"added"}),
    "min_timestep": (400, {"timesteps"}),
    "max_timestep": (400, {"timesteps"}),
    "huber_c": (0.5, set()),
}


@pytest.mark.parametrize("setting", CHANGES)
def test_an_option_changes_its_own_draws_and_no_others(setting):
    value, changed = CHANGES[setting]
    plain, other = batch(), batch(**{setting: value})
    found = {
        name
        for name in ("latents", "noise", "added", "timesteps", "sizes")
        if not torch.equal(getattr(plain, name), getattr(other, name))
    }
    assert found == changed
    assert plain.captions == other.captions


def test_options_draw_from_different_numbers():
    offset = batch(noise_offset=1).noise - batch().noise
    assert torch.allclose(offset, offset[:, :, :1, :1].expand_as(offset), atol=1e-5)  # one step a channel
    assert len({round(value, 3) for value in offset[:, :, 0, 0].flatten().tolist()}) > 10
    both = batch(noise_offset=1, input_perturbation=1)
    assert torch.allclose(both.noise, batch(noise_offset=1).noise)
    assert torch.allclose(both.added - both.noise, batch(input_perturbation=1).added - batch().noise, atol=1e-5)


def test_time_steps_stay_in_their_range():
    steps = batch(200, min_timestep=300, max_timestep=310).timesteps
    assert set(steps.tolist()) == set(range(300, 310))
    assert batch(200).timesteps.max() > 900 and batch(200).timesteps.min() < 100


def test_an_empty_range_is_an_error():
    config = presets.layer({"loss.min_timestep": 500, "loss.max_timestep": 500})
    assert "loss.max_timestep" in {p.setting for p in checks.check(config, []) if p.severity == "error"}


def test_what_else_a_step_draws_from_the_settings_of_the_data():
    config = presets.layer({"data.caption_dropout_every": 2, "loss.prior_weight": 0.25, "data.flip": True})
    placement = buckets.place(64, 64, [(64, 64)])
    roles = ["training", "regularisation", "validation"]
    examples = [
        Example(Path(f"{n}.png"), str(n), "moss", 64, 64, 2, placement, role=role) for n, role in enumerate(roles)
    ]
    rows = {
        (n, mirrored): {"mean": torch.full((4, 8, 8), float(10 * n + mirrored)), "std": torch.zeros(4, 8, 8)}
        for n in range(3)
        for mirrored in range(2)
    }
    batches = Batches(config, examples, rows)
    drawn = [batches.make(epoch, 0, [0, 1], ALPHAS) for epoch in range(20)]
    assert all(one.weights.tolist() == [1, 0.25] and one.masks is None for one in drawn)
    assert [one.captions[0] for one in drawn[:4]] == ["moss", "", "moss", ""]
    assert {one.latents[1, 0, 0, 0].item() for one in drawn} == {10, 11}
    assert sorted(at for indices in batches.plan(0) for at in indices) == [0, 0, 1, 1]


# ── whole runs ──────────────────────────────────────────────────────────────────────────────────────────


def losses_of(root, base, **settings) -> list[float]:
    from trainer.loop import train

    run = trainees.make_run(root, base, loop__epochs=1, **settings)
    train(run)
    return [entry["loss"] for entry in run.metrics()]


@pytest.mark.parametrize("setting", ["loss__kind", "loss__input_perturbation"])
def test_the_loop_obeys(setting, tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = {"loss__kind": "huber", "loss__input_perturbation": 0.5}[setting]
    assert losses_of(tmp_path, folders["sd15"]) != losses_of(tmp_path, folders["sd15"], **{setting: value})


@pytest.mark.parametrize(
    ("family", "setting", "value"),
    [("sd2", "loss__v_prediction_like", 0.1), ("sd15", "loss__noise_prediction_like", True)],
)
def test_a_weight_for_bases_of_the_other_kind_is_refused(family, setting, value, tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=setting.replace("__", ".")):
        losses_of(tmp_path, folders[family], **{setting: value})


def test_pure_noise_is_not_for_a_base_that_predicts_it(tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="loss.zero_terminal_snr: .* model.prediction"):
        losses_of(tmp_path, folders["sd15"], loss__zero_terminal_snr=True)


def test_what_is_encoded_is_kept_in_portions(tmp_path, monkeypatch):
    """Memory does not grow with the set, and what ends the work costs what was not yet made."""
    monkeypatch.setattr(batches, "PORTION", 3 * 16)
    written = [(f"key {number}", {"mean": torch.full((2, 2), float(number))}) for number in range(8)]

    def rows():
        for done, row in enumerate(written, 1):
            yield row
            assert len(list(tmp_path.glob("shard-*"))) == done // 3
        raise UserError("the ninth is broken")

    with pytest.raises(UserError, match="ninth"):
        Store(tmp_path).add(rows())
    store = Store(tmp_path)
    assert all(torch.equal(store.get(key)["mean"], tensors["mean"]) for key, tensors in written)
    assert len(list(tmp_path.glob("shard-*"))) == 3
