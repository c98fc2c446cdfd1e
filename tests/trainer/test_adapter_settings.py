"""What a run trains and how fast: blocks, targets, dropouts, norms, starting from a file, and the learning rates."""

import pytest
import tiny
import torch
import trainees
from accelerate import Accelerator
from safetensors.torch import load_file
from test_adapters import outputs
from test_kinds import config_of, learned

from trainer import blocks, kohya, presets
from trainer.adapters import Adapter, start_from
from trainer.config import AdapterConfig
from trainer.errors import UserError
from trainer.loop import Trainer
from trainer.record import Recorder


def attached(model, **settings) -> dict[str, int]:
    """Module name -> rank of an adapter with these settings."""
    adapter = Adapter.attach(model, AdapterConfig(**{"rank": 8, "alpha": 4, **settings}), seed=0)
    ranks = {name: down[0] for name, (down, _) in kohya.module_shapes(adapter.tensors()).items()}
    adapter.detach()
    return ranks


# ── which modules, and how large ────────────────────────────────────────────────────────────────────────


def test_blocks_are_read_in_both_ways():
    assert blocks.parse("in01=4, OUT02-OUT04=0.5", "x") == {"IN01": 4, "OUT02": 0.5, "OUT03": 0.5, "OUT04": 0.5}
    numbers = ",".join(map(str, range(25)))
    assert blocks.parse(numbers, "x") | {} == dict(zip(blocks.NAMES, range(25)))
    xl = blocks.parse(",".join(map(str, range(23))), "x")
    assert (xl["IN00"], xl["IN08"], xl["MID"], xl["OUT00"], xl["OUT08"]) == (1, 9, 11, 13, 21)
    assert blocks.parse("", "x") == {}
    for wrong in ("IN12=4", "IN01=", "1 2 3", "IN01=-1"):
        with pytest.raises(UserError, match=r"^adapter\.block_ranks: "):
            blocks.parse(wrong, "adapter.block_ranks")


def test_block_names_of_the_published_models_are_kohyas():
    """SD 1.5 has attention in IN01, 02, 04, 05, 07, 08, MID and OUT03 to OUT11; SDXL in IN04 to OUT05."""
    found = {}
    for family in ("sd15", "sdxl"):
        model = tiny.full_size(family)
        paths = model.family.lora_targets("unet", model.unet)
        found[family] = sorted({model.family.block("unet", path, model.unet) for path in paths})
    assert found["sd15"] == sorted(["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID"] + [*blocks.NAMES[16:]])
    assert found["sdxl"] == sorted(["IN04", "IN05", "IN07", "IN08", "MID"] + [*blocks.NAMES[13:19]])


def test_dims_by_block(model):
    adapter = Adapter.attach(model, AdapterConfig(rank=8, alpha=4, block_ranks="MID=2, OUT00-OUT11=0"), seed=0)
    sizes = {(site.block, site.rank, site.alpha) for site in adapter.sites}
    assert ("MID", 2, 1.0) in sizes and ("BASE", 8, 4.0) in sizes
    assert not any(block.startswith("OUT") for block, _, _ in sizes)
    assert all(rank == 8 for block, rank, _ in sizes if block.startswith("IN"))
    adapter.detach()
    adapter = Adapter.attach(
        model,
        AdapterConfig(kind="locon", rank=8, alpha=4, conv_rank=4, block_ranks="MID=4", block_alphas="MID=1"),
        seed=0,
    )
    middle = {(site.rank, site.alpha) for site in adapter.sites if site.block == "MID"}
    assert middle == {(4, 1.0), (2, 0.5)}  # convolutions keep their half


def test_targets(model):
    everything = attached(model)
    attention = attached(model, targets="attention")
    cross = attached(model, targets="cross_attention")
    assert set(cross) < set(attention) < set(everything)
    assert all("attn" in name for name in attention) and not any("_attn1_" in name for name in cross)
    assert any("_attn1_" in name for name in attention) and any("_ff_" in name for name in everything)


def test_patterns_name_blocks_and_modules(model):
    everything = set(attached(model))
    assert all(name.startswith("lora_te") for name in attached(model, only="BASE"))
    assert set(attached(model, only="*attn2*")) == {name for name in everything if "attn2" in name}
    assert set(attached(model, only="!*attn2*")) == {name for name in everything if "attn2" not in name}
    inputs = set(attached(model, only="IN*"))
    assert inputs and set(attached(model, only="IN* !*_ff_*")) == {name for name in inputs if "_ff_" not in name}
    with pytest.raises(UserError, match=r"adapter\.only: no module fits 'nothing\*'"):
        attached(model, only="nothing*")
    with pytest.raises(UserError, match="Nothing is left to train"):
        attached(model, only="!*")


# ── dropouts and norms ──────────────────────────────────────────────────────────────────────────────────

DROPOUTS = [("lora", "dropout"), *[(kind, part) for kind in ("lora", "dora", "loha", "lokr")
                                  for part in ("rank_dropout", "module_dropout")], ("locon", "dropout")]  # fmt: skip


@pytest.mark.parametrize(("kind", "setting"), DROPOUTS)
def test_a_dropout_follows_the_seed_and_ends_with_training(kind, setting, model):
    adapter = Adapter.attach(model, config_of(kind, **{setting: 0.5}), seed=0)
    tensors = learned(adapter)

    def drawn(seed):
        torch.manual_seed(seed)
        return outputs(model)[0]

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    adapter.detach()
    Adapter.from_file(model, tensors)
    assert torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("setting", ["dropout", "rank_dropout"])
def test_a_dropout_is_right_on_average(setting, folders):
    """What is kept is scaled up, so that the expected change is the whole one."""
    layer = torch.nn.Linear(32, 32)
    from trainer.adapters.kinds import KINDS, NAME
    from trainer.adapters.layers import LoraLinear

    config = KINDS["lora"].peft_config([_site()], AdapterConfig())
    wrapped = LoraLinear(layer, NAME, config=config, r=8, lora_alpha=8)
    torch.nn.init.normal_(wrapped.up)
    x = torch.randn(1, 32)
    with torch.no_grad():
        whole = wrapped(x) - layer(x)
        setattr(wrapped, setting, 0.25)
        many = (wrapped(x.expand(20_000, 32)) - layer(x)).mean(dim=0)
    assert (many - whole).norm() < 0.05 * whole.norm()


def _site():
    from trainer.adapters.sites import Site

    return Site("unet", "a", "a", "", "lora", 8, 1.0, 8.0)


@pytest.mark.parametrize("kind", ["lora", "locon", "loha", "lokr"])
def test_norms_are_held_down(kind, model):
    """‖ΔW‖ of each module, computed from its file, is at most the limit; the small ones are left alone."""
    from test_kinds import merged

    adapter = Adapter.attach(model, config_of(kind), seed=0)
    before = learned(adapter)
    shapes = {site.key: model.modules()[site.component].get_submodule(site.path) for site in adapter.sites}

    def norms(tensors):
        return {
            name: merged(
                torch.zeros_like(layer.base_layer.weight),
                {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(name + ".")},
            ).norm()
            for name, layer in shapes.items()
        }

    sizes = norms(before)
    limit = float(torch.stack(list(sizes.values())).median())
    adapter.limit_norms(limit)
    after = norms(adapter.tensors())
    for name, size in sizes.items():
        assert after[name] == pytest.approx(min(float(size), limit), rel=1e-4)


# ── starting from a file ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_a_run_goes_on_from_a_file_as_if_it_had_trained_it(kind, model, tmp_path):
    first = Adapter.attach(model, config_of(kind), seed=0)
    tensors = learned(first)
    expected, _ = outputs(model)
    first.detach()
    other = Adapter.attach(model, config_of(kind, alpha=0.75, conv_alpha=0.5), seed=1)
    said = start_from(other, tensors, tmp_path / "a.safetensors", resize=False)
    assert f"{len(other.sites)} modules" in said
    assert torch.allclose(outputs(model)[0], expected, atol=1e-4)


def test_the_trained_modules_stay_as_asked(model, tmp_path):
    first = Adapter.attach(model, AdapterConfig(rank=4, alpha=2, only="IN* MID"), seed=0)
    tensors = learned(first)
    first.detach()
    second = Adapter.attach(model, AdapterConfig(rank=4, alpha=2, only="MID OUT*"), seed=1)
    keys = second.tensors().keys()
    fresh = second.tensors()
    said = start_from(second, tensors, tmp_path / "a.safetensors", resize=False)
    now = second.tensors()
    assert now.keys() == keys and "not trained here" in said and "begin at nothing" in said
    for site in second.sites:
        for ending in ("lora_down.weight", "lora_up.weight"):
            key = f"{site.key}.{ending}"
            assert torch.equal(now[key], tensors[key] if site.block == "MID" else fresh[key])


def test_another_dim_is_refused_or_fitted(model, tmp_path):
    file = tmp_path / "a.safetensors"
    first = Adapter.attach(model, AdapterConfig(rank=4, alpha=4), seed=0)
    tensors = learned(first)
    for part in tensors:  # of a true rank of 2
        if part.endswith("lora_up.weight"):
            tensors[part][:, 2:] = 0
    first.load(tensors)
    expected, _ = outputs(model)
    first.detach()
    for rank in (2, 8):
        other = Adapter.attach(model, AdapterConfig(rank=rank, alpha=1), seed=1)
        with pytest.raises(UserError, match=rf"has dim 4 in .* has {rank}: set adapter\.rank=4, or adapter\.start_res"):
            start_from(other, tensors, file, resize=False)
        start_from(other, tensors, file, resize=True)
        assert torch.allclose(outputs(model)[0], expected, atol=1e-4)
        assert all(
            not weight.any() for key, weight in other.named_parameters() if key.endswith("lora_up.weight") for weight
            in [weight[:, 4:]]
        )  # fmt: skip
        other.detach()
    other = Adapter.attach(model, AdapterConfig(kind="loha", rank=4, alpha=1), seed=1)
    with pytest.raises(UserError, match=r"is a lora, the run trains a loha: set adapter\.kind=lora"):
        start_from(other, tensors, file, resize=True)


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_a_lora_goes_on_from_a_file_of_another_kind_that_is_cut_to_it(kind, model, tmp_path):
    file = tmp_path / "a.safetensors"
    first = Adapter.attach(model, AdapterConfig(kind=kind, rank=2, alpha=2, text_encoder=False), seed=0)
    tensors = learned(first)
    expected, _ = outputs(model)
    first.detach()
    other = Adapter.attach(model, AdapterConfig(rank=64, alpha=32, text_encoder=False), seed=1)
    with pytest.raises(UserError, match=rf"is a {kind}, the run trains a lora: .* adapter\.start_resize=true"):
        start_from(other, tensors, file, resize=False)
    start_from(other, tensors, file, resize=True)
    assert torch.allclose(outputs(model)[0], expected, atol=1e-3)
    other.detach()


# ── in a run ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def trainer(tmp_path, folders, monkeypatch):
    """Makes the trainer of a run with these settings, ready to train."""
    monkeypatch.chdir(tmp_path)

    def make(family="sd15", **changes):
        run = trainees.make_run(tmp_path, folders[family], **changes)
        accelerator = Accelerator(mixed_precision="no")
        return Trainer(run, run.config, accelerator, Recorder(run), set())

    return make


def rates(trainer) -> dict[str, float]:
    return {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}


def test_each_text_encoder_has_its_rate(trainer):
    text = {"optimizer__text_encoder_learning_rate": 1e-4}
    assert rates(trainer("sdxl", **text)) == {"unet": 1e-3, "text_encoder": 1e-4, "text_encoder_2": 1e-4}
    text["optimizer__text_encoder_2_learning_rate"] = 2e-5
    assert rates(trainer("sdxl", **text)) == {"unet": 1e-3, "text_encoder": 1e-4, "text_encoder_2": 2e-5}


def test_a_rate_of_nothing_leaves_a_text_encoder_out(trainer):
    none = trainer("sdxl", optimizer__text_encoder_learning_rate=0, data__shuffle_tags=False)
    assert none.adapter.components == ["unet"] and none.encode.is_cached
    second = trainer("sdxl", optimizer__text_encoder_learning_rate=0, optimizer__text_encoder_2_learning_rate=1e-5)
    assert second.adapter.components == ["unet", "text_encoder_2"] and not second.encode.is_cached


def test_lora_plus_and_block_rates(trainer):
    made = trainer(adapter__text_encoder=False, optimizer__lora_plus_ratio=16,
                   optimizer__block_learning_rates="MID=0.5, OUT00-OUT11=0")  # fmt: skip
    weights = dict(made.adapter.named_parameters())
    found = {id(weight): group["lr"] for group in made.optimizer.param_groups for weight in group["params"]}
    for site in made.adapter.sites:
        assert not site.block.startswith("OUT")
        rate = 1e-3 * (0.5 if site.block == "MID" else 1)
        assert found[id(weights[f"{site.key}.lora_down.weight"])] == pytest.approx(rate)
        assert found[id(weights[f"{site.key}.lora_up.weight"])] == pytest.approx(16 * rate)
    assert len(found) == len(weights) and len(set(rates(made))) == 4


def test_the_norm_limit_is_obeyed_in_a_run(trainer):
    made = trainer(adapter__scale_weight_norms=0.01, adapter__text_encoder=False, loop__epochs=1)
    made.train()
    norms = [site.maker.change_norm(made.adapter._layers[site.key]).item() for site in made.adapter.sites]
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


def test_an_epoch_holds_the_average_of_the_weights(trainer, monkeypatch):
    """The file is the moving average; what is trained and what it comes from go on untouched."""
    made = trainer(loop__ema_decay=0.5, loop__epochs=1, adapter__text_encoder=False)
    seen = [made.adapter.exact()]
    monkeypatch.setattr(
        made.average, "step", lambda step=made.average.step: (step(), seen.append(made.adapter.exact()))
    )
    made.train()
    average = seen[1]  # diffusers begins at the first update, with a decay that rises as (1 + n) / (10 + n)
    for number, weights in enumerate(seen[2:], 1):
        decay = min(0.5, (1 + number) / (10 + number))
        average = {key: decay * average[key] + (1 - decay) * weights[key] for key in average}
    saved = load_file(made.run.epochs()[0].path)
    assert len(seen) > 3
    for key, value in average.items():
        assert torch.allclose(saved[key], value, atol=1e-6)
        assert torch.equal(made.adapter.exact()[key], seen[-1][key])
    assert any(not torch.equal(saved[key], seen[-1][key]) for key in average)


def test_a_run_starts_from_a_file(trainer, tmp_path):
    first = trainer(adapter__text_encoder=False, loop__epochs=1)
    first.train()
    file = first.run.epochs()[0].path
    second = trainer(adapter__text_encoder=False, loop__epochs=1, adapter__start_from=str(file))
    assert all(torch.equal(value, second.adapter.tensors()[key]) for key, value in load_file(file).items())


def test_the_file_says_what_was_set(folders):
    from test_kohya import facts

    config = presets.layer({
        "adapter.kind": "dora", "adapter.conv_rank": 4, "adapter.rslora": True, "adapter.dropout": 0.1,
        "adapter.rank_dropout": 0.2, "adapter.module_dropout": 0.3, "adapter.block_ranks": "MID=4",
        "adapter.scale_weight_norms": 1, "optimizer.lora_plus_ratio": 16, "optimizer.block_learning_rates": "MID=0.5",
        "optimizer.text_encoder_2_learning_rate": 1e-6,
    })  # fmt: skip
    metadata = kohya.training_metadata(config, facts("sdxl"))
    assert metadata["ss_network_module"] == "lycoris.kohya" and metadata["ss_network_dropout"] == "0.1"
    assert metadata["ss_scale_weight_norms"] == "1.0" and metadata["ss_text_encoder_lr"] == "[5e-05, 1e-06]"
    for part in ('"dora_wd": "True"', '"conv_dim": "4"', '"rank_dropout": "0.2"', '"block_dims": "MID=4"',
                 '"loraplus_lr_ratio": "16.0"', '"mid_lr_weight": "0.5,0.5,0.5"',
                 '"rs_lora": "True"', '"wd_on_output": "False"'):  # fmt: skip
        assert part in metadata["ss_network_args"]
