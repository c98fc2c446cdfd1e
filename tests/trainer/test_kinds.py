"""Every kind of adapter: nothing at the start, what A1111 and ComfyUI compute from its file, and back again."""

from pathlib import Path
from typing import get_args

import pytest
import tiny
import torch
from test_adapters import outputs

from trainer import checks, families, kohya, presets
from trainer.adapters import KINDS, Adapter, start_from
from trainer.config import AdapterConfig
from trainer.errors import UserError

LISTS = [folder / "shared" / "formats" for folder in Path(__file__).resolve().parents]
LISTS = next((folder for folder in LISTS if folder.is_dir()), None)

KINDS_HERE = {
    "lora": {"rank": 4, "alpha": 2},
    "locon": {"rank": 4, "alpha": 2, "conv_rank": 3, "conv_alpha": 1},
    "dora": {"rank": 4, "alpha": 3, "conv_rank": 2},
    "loha": {"rank": 2, "alpha": 1, "conv_rank": 2},
    "lokr": {"rank": 4, "alpha": 1, "conv_rank": 1},
}
NAMES = {
    "lora": {"lora_down.weight", "lora_up.weight", "alpha"},
    "locon": {"lora_down.weight", "lora_up.weight", "alpha"},
    "dora": {"lora_down.weight", "lora_up.weight", "alpha", "dora_scale"},
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"},
    "lokr": {"lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "alpha"},
}


def config_of(kind, **changes):
    return AdapterConfig(kind=kind, **{**KINDS_HERE[kind], **changes})


def learned(adapter, seed=0):
    """The file of an adapter that has learned: no tensor is as it began, magnitudes stay near where they were."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in adapter.named_parameters():
            noise = torch.randn(weight.shape, generator=generator) * 0.1
            weight.add_(weight * noise if key.endswith("dora_scale") else noise)
    return adapter.tensors()


def merged(weight, own, strength=1.0, reader="ComfyUI"):
    """A weight with a module of a file in it, from the file's tensors alone and in float64: what the readers of
    ComfyUI and A1111 do with one."""
    weight, own = weight.double(), {ending: tensor.double() for ending, tensor in own.items()}
    dim = None
    if "lora_up.weight" in own:
        dim, change = (
            own["lora_down.weight"].shape[0],
            own["lora_up.weight"].flatten(1) @ own["lora_down.weight"].flatten(1),
        )
    elif "hada_w1_a" in own:
        dim = own["hada_w1_b"].shape[0]
        change = (own["hada_w1_a"] @ own["hada_w1_b"]) * (own["hada_w2_a"] @ own["hada_w2_b"])
    else:
        second = own["lokr_w2"] if "lokr_w2" in own else own["lokr_w2_a"] @ own["lokr_w2_b"]
        dim = own["lokr_w2_b"].shape[0] if "lokr_w2_b" in own else None
        first = own["lokr_w1"][:, :, None, None] if second.ndim == 4 else own["lokr_w1"]
        change = torch.kron(first, second.contiguous())
    change = change.reshape(weight.shape)
    scale = float(own["alpha"]) / dim if dim else 1.0
    if "dora_scale" not in own:
        return weight + strength * scale * change

    def turned(new):
        norm = new.transpose(0, 1).flatten(1).norm(dim=1).view(own["dora_scale"].shape)
        return new * (own["dora_scale"] / norm)

    if reader == "ComfyUI":
        return weight + strength * (turned(weight + scale * change) - weight)
    return weight + strength * scale * (turned(weight + change) - weight)


def merge_into(model, tensors, strength, reader="ComfyUI"):
    """Put a file into the base's own weights."""
    places = {
        model.family.kohya_name(component, path, model.unet): child
        for component, module in model.modules().items()
        for path, child in module.named_modules()
        if isinstance(child, (torch.nn.Linear, torch.nn.Conv2d))
    }
    modules: dict[str, dict] = {}
    for key, tensor in tensors.items():
        name, _, ending = key.partition(".")
        modules.setdefault(name, {})[ending] = tensor
    for name, own in modules.items():
        weight = places[name].weight
        weight.data = merged(weight, own, strength, reader).to(weight.dtype)


def test_the_choices_are_the_registry():
    assert get_args(AdapterConfig.model_fields["kind"].annotation) == tuple(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_no_op_at_the_start(kind, model):
    before, words = outputs(model)
    adapter = Adapter.attach(model, config_of(kind), seed=3)
    after, words_after = outputs(model)
    assert torch.equal(before, after) and torch.equal(words.hidden, words_after.hidden)
    assert all(weight.dtype == torch.float32 and weight.requires_grad for weight in adapter.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_names_in_the_file(kind, model):
    adapter = Adapter.attach(model, config_of(kind), seed=0)
    tensors = adapter.tensors()
    assert {key.partition(".")[2] for key in tensors} == NAMES[kind]
    wide = [key for key in tensors if "_resnets_0_conv1." in key or "_0_in_layers_2." in key]
    assert bool(wide) == (kind != "lora")
    if kind == "dora":
        scales = {key: value.shape for key, value in tensors.items() if key.endswith("dora_scale")}
        assert all(shape[0] == 1 and shape[1] > 1 for shape in scales.values())  # along the input
        ranks = {name: down[0] for name, (down, _) in kohya.module_shapes(tensors).items()}
        assert all(tensors[f"{name}.alpha"] == rank for name, rank in ranks.items()) and len(set(ranks.values())) == 2


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_is_that_of_the_merged_file(kind, strength, model, folders):
    """The trained layers, the same file loaded for rendering, and the file merged into the base's weights."""
    base, _ = outputs(model)
    adapter = Adapter.attach(model, config_of(kind), seed=0)
    tensors = learned(adapter)
    adapter.set_strength(strength)
    trained, words = outputs(model)
    with adapter.enabled(False):
        assert torch.equal(outputs(model)[0], base)
    adapter.detach()
    assert torch.equal(outputs(model)[0], base)
    rendered = Adapter.from_file(model, tensors)
    rendered.set_strength(strength)
    found, _ = outputs(model)
    rendered.detach()
    merge_into(model, tensors, strength)
    expected, expected_words = outputs(model)
    assert not torch.allclose(expected, base, atol=1e-2)
    assert torch.allclose(trained, expected, atol=2e-4)
    assert torch.allclose(found, expected, atol=2e-4)
    assert torch.allclose(words.hidden, expected_words.hidden, atol=2e-4)


def test_a1111_and_comfyui_read_a_dora_alike(model):
    tensors = learned(Adapter.attach(model, config_of("dora"), seed=0))
    other = families.load(model.path)
    merge_into(other, tensors, 0.7, "A1111")
    expected, _ = outputs(other)
    rendered = families.load(model.path)
    Adapter.from_file(rendered, tensors).set_strength(0.7)
    assert torch.allclose(outputs(rendered)[0], expected, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_read_back_exactly(kind, model, tmp_path):
    tensors = learned(Adapter.attach(model, config_of(kind), seed=0))
    file = kohya.write(tmp_path / "a.safetensors", tensors, {})
    rendered = Adapter.from_file(families.load(model.path), kohya.read(file).tensors)
    again = rendered.tensors()
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], value) for key, value in tensors.items())
    assert not any(weight.requires_grad for weight in rendered.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_exact_state_comes_back(kind, model):
    adapter = Adapter.attach(model, config_of(kind), seed=0)
    learned(adapter)
    state, file = adapter.exact(), adapter.tensors()
    learned(adapter, 1)
    adapter.load_exact(state)
    assert all(torch.equal(value, state[key]) for key, value in adapter.exact().items())
    assert all(torch.equal(value, file[key]) for key, value in adapter.tensors().items())


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_takes_the_place_of_another(kind, model):
    """Epochs are swapped in place, and another kind in its stead."""
    adapter = Adapter.attach(model, config_of(kind), seed=0)
    first, second = learned(adapter, 1), learned(adapter, 2)
    adapter.detach()
    other = Adapter.attach(model, config_of("lora" if kind != "lora" else "lokr"), seed=0)
    third = learned(other)
    other.detach()
    rendered = Adapter.from_file(model, first)
    places = [weight.data_ptr() for weight in rendered.parameters()]
    rendered.load(second)
    assert [weight.data_ptr() for weight in rendered.parameters()] == places
    rendered.load(third)
    assert rendered.tensors().keys() == third.keys()
    rendered.load(first)
    found, _ = outputs(model)
    rendered.detach()
    Adapter.from_file(model, first)
    assert torch.equal(outputs(model)[0], found)


def test_one_file_may_hold_several_kinds(model):
    """LyCORIS writes such: one algorithm for attention, another for the rest."""
    adapter = Adapter.attach(model, config_of("lokr", conv_rank=0), seed=0)
    lokr = learned(adapter)
    adapter.detach()
    adapter = Adapter.attach(model, config_of("loha", conv_rank=0), seed=0)
    loha = learned(adapter)
    adapter.detach()
    mixed = {key: value for key, value in lokr.items() if "attn1" in key}
    mixed |= {key: value for key, value in loha.items() if "attn1" not in key}
    Adapter.from_file(model, mixed)
    found, _ = outputs(model)
    fresh = families.load(model.path)
    merge_into(fresh, mixed, 1.0)
    assert torch.allclose(found, outputs(fresh)[0], atol=2e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_loads_a_locon_and_gives_the_same(family, folders, tmp_path):
    model, other = (families.load(str(folders[family])) for _ in range(2))
    adapter = Adapter.attach(model, config_of("locon"), seed=0)
    kohya.write(tmp_path / "lora.safetensors", learned(adapter), {})
    tiny.pipeline(other).load_lora_weights(tmp_path, weight_name="lora.safetensors")
    (expected, words), (found, other_words) = outputs(model), outputs(other)
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(words.hidden, other_words.hidden, atol=1e-5)


@pytest.mark.skipif(LISTS is None, reason="the complete list is not part of the repository")
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_locon_key_set_equals_what_sd_scripts_writes(family):
    settings = AdapterConfig(kind="locon", rank=16, alpha=16, conv_rank=8)
    adapter = Adapter.attach(tiny.full_size(family), settings, seed=0)
    lines = (LISTS / f"kohya_{family}_conv.tsv").read_text().splitlines()
    listed = {name: tuple(map(_shape, shapes)) for name, *shapes in (line.split("\t") for line in lines)}
    assert kohya.module_shapes(dict(adapter.named_parameters())) == listed


def _shape(text):
    return tuple(int(part) for part in text.split("x"))


# ── size and scale ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_rank_stabilised_scaling_is_alpha_by_the_root_and_other_tools_read_the_same(kind, model):
    """scale = alpha / √dim; the file's own alpha / dim must equal it, for that is all that others read."""
    plain = Adapter.attach(model, AdapterConfig(kind=kind, rank=4, alpha=2), seed=0)
    state = learned(plain) and plain.exact()
    plain.detach()
    stable = Adapter.attach(model, AdapterConfig(kind=kind, rank=4, alpha=1, rslora=True), seed=0)
    stable.load_exact(state)
    first, _ = outputs(model)
    stable.detach()
    same = Adapter.attach(model, AdapterConfig(kind=kind, rank=4, alpha=2), seed=0)
    same.load_exact(state)
    assert torch.allclose(first, outputs(model)[0], atol=1e-5)  # 1 / √4 = 2 / 4
    same.detach()
    uneven = Adapter.attach(model, AdapterConfig(kind=kind, rank=3, alpha=1, rslora=True), seed=0)
    file = learned(uneven)
    trained, _ = outputs(model)
    uneven.detach()
    merge_into(model, file, 1.0)
    assert torch.allclose(trained, outputs(model)[0], atol=2e-4)


def test_convolutions_have_their_own_rank_and_alpha(model):
    adapter = Adapter.attach(model, AdapterConfig(kind="locon", rank=4, alpha=2), seed=0)
    name = model.family.kohya_name("unet", "down_blocks.0.resnets.0.conv1", model.unet)
    tensors = adapter.tensors()
    assert tensors[f"{name}.lora_down.weight"].shape[0] == 4 and tensors[f"{name}.alpha"] == 2
    adapter.detach()
    tensors = Adapter.attach(model, config_of("locon"), seed=0).tensors()
    assert tensors[f"{name}.lora_down.weight"].shape[0] == 3 and tensors[f"{name}.alpha"] == 1
    embedding = model.family.kohya_name("unet", "down_blocks.0.resnets.0.time_emb_proj", model.unet)
    assert tensors[f"{embedding}.lora_down.weight"].shape[0] == 4  # no convolution, though it belongs to one


def test_the_factor_divides_lokr_otherwise(model):
    def first_factor(factor):
        adapter = Adapter.attach(model, AdapterConfig(kind="lokr", rank=2, alpha=1, lokr_factor=factor), seed=0)
        name = model.family.kohya_name("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", model.unet)
        shape = tuple(adapter.tensors()[f"{name}.lokr_w1"].shape)
        adapter.detach()
        return shape

    assert first_factor(0) == (8, 8) and first_factor(4) == (4, 4)  # of a width of 64


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_knows_the_kind(kind, model, tmp_path):
    adapter = Adapter.attach(model, config_of(kind), seed=0)
    info = kohya.describe(kohya.write(tmp_path / "a.safetensors", adapter.tensors(torch.float16), {}))
    named = {"lora": "LoRA", "locon": "LoCon", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}
    assert info.kind == named[kind] and not info.warnings
    assert sum(info.modules.values()) == len(adapter.sites)
    width = 64 if model.family.name == "sd15" else 64 + 128
    assert info.family.endswith(f"in miniature (its text is {width} wide)")


def test_files_of_other_axes_and_kinds_are_refused(model):
    adapter = Adapter.attach(model, config_of("dora"), seed=0)
    tensors = adapter.tensors()
    adapter.detach()
    key = next(key for key in tensors if key.endswith("dora_scale"))
    out = tensors[key.replace("dora_scale", "lora_up.weight")].shape[0]
    with pytest.raises(UserError, match="along the output"):
        Adapter.from_file(model, {**tensors, key: torch.ones(out, *(1,) * (tensors[key].ndim - 1))})
    with pytest.raises(UserError, match="cannot be loaded here"):
        Adapter.from_file(model, {**tensors, key.replace("dora_scale", "oft_blocks"): torch.ones(1)})
    assert not hasattr(model.unet, "peft_config")


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"adapter.kind": "lora", "adapter.conv_rank": 4}, "adapter.conv_rank"),
        ({"adapter.kind": "loha", "adapter.dropout": 0.1}, "adapter.dropout"),
        ({"adapter.kind": "lokr", "optimizer.lora_plus_ratio": 16}, "optimizer.lora_plus_ratio"),
        ({"adapter.kind": "dora", "adapter.lokr_factor": 4}, "adapter.lokr_factor"),
        ({"adapter.kind": "dora", "adapter.conv_alpha": 4}, "adapter.conv_alpha"),
        ({"adapter.kind": "locon", "adapter.conv_rank": 4, "adapter.conv_alpha": 8}, "adapter.conv_alpha"),
        ({"adapter.block_ranks": "IN99=4"}, "adapter.block_ranks"),
        ({"adapter.block_ranks": "IN01=4.5"}, "adapter.block_ranks"),
        ({"optimizer.block_learning_rates": "1,2,3"}, "optimizer.block_learning_rates"),
        ({"adapter.start_from": "gone.safetensors"}, "adapter.start_from"),
        ({"optimizer.name": "AdamWScheduleFree", "loop.ema_decay": 0.9}, "loop.ema_decay"),
        ({"optimizer.name": "Prodigy", "optimizer.learning_rate": 1, "optimizer.text_encoder_learning_rate": 1,
          "optimizer.lora_plus_ratio": 4}, "optimizer.lora_plus_ratio"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said(values, path):
    found = [problem for problem in checks.check(presets.layer(values), []) if problem.severity == "error"]
    assert [problem.setting for problem in found] == [path]


def test_compiling_what_stops_at_every_layer_is_warned_of():
    for values, expected in (({"adapter.kind": "lokr"}, 1), ({"adapter.module_dropout": 0.1}, 1), ({}, 0)):
        found = checks.check(presets.layer({"model.compile": True, **values}), [])
        assert sum(problem.setting == "model.compile" for problem in found) == expected


@pytest.mark.filterwarnings("ignore")
def test_a_lora_for_sd2_loads_in_diffusers_and_says_what_it_is_for(folders, tmp_path):
    from test_kohya import CONFIG, facts

    model, other = (families.load(str(folders["sd2"])) for _ in range(2))
    adapter = Adapter.attach(model, config_of("lora"), seed=0)
    metadata = kohya.training_metadata(CONFIG, facts("sd2", prediction_type=model.prediction_type))
    file = kohya.write(tmp_path / "lora.safetensors", learned(adapter), metadata)
    assert metadata["ss_base_model_version"] == "sd_v2_v" and metadata["ss_v2"] == "True"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert kohya.describe(file).family.startswith("SD 2.x")
    tiny.pipeline(other).load_lora_weights(tmp_path, weight_name="lora.safetensors")
    (expected, words), (found, other_words) = outputs(model), outputs(other)
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(words.hidden, other_words.hidden, atol=1e-5)


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_a_run_of_this_kind_is_saved_rendered_and_exported(kind, folders, tmp_path, monkeypatch):
    import trainees

    from trainer.export import export
    from trainer.loop import train

    monkeypatch.chdir(tmp_path)
    small = {"evaluation.size": 64, "evaluation.steps": 1, "loop.epochs": 1}
    run = trainees.make_run(tmp_path, folders["sd15"], **small, **{"adapter.kind": kind, "adapter.conv_rank": 2})
    train(run)
    done = export(run, 1, to=tmp_path / "models")
    assert "Rendered once to check that it loads" in done.verification
    file = kohya.read(done.path)
    assert {key.partition(".")[2] for key in file.tensors} == NAMES[kind]
    assert file.metadata["ss_network_module"] == "lycoris.kohya"
    if kind == "dora":
        with pytest.raises(UserError, match="does not grow in proportion"):
            export(run, 1, to=tmp_path / "models", name="weak", strength=0.5)
    else:
        weak = export(run, 1, to=tmp_path / "models", name="weak", strength=0.5)
        assert "Checked: at 1 it draws what epoch 1 draws at 0.5" in weak.verification
        assert kohya.read_header(weak.path).metadata["ss_network_alpha"] == "1"
    plain = export(run, 1, to=tmp_path / "models", name="plain", strength=0.5, rank=3)
    assert "cannot draw the same pixels" in plain.verification
    made = kohya.read(plain.path)
    assert {key.partition(".")[2] for key in made.tensors} == NAMES["lora"]
    assert made.metadata["ss_network_module"] == "networks.lora" and made.metadata["ss_network_dim"] == "3"
    assert kohya.describe(plain.path).kind == "LoCon"


def test_a_tucker_decomposed_locon_is_read_told_rendered_and_started_from(model, tmp_path):
    """What LyCORIS writes with use_tucker: a thin core between two 1×1 convolutions, rebuilt as A1111 does."""
    base, _ = outputs(model)
    settings = config_of("locon", conv_rank=4, conv_alpha=2)
    trained = Adapter.attach(model, settings, seed=0)
    tensors = learned(trained)
    trained.detach()
    generator = torch.Generator().manual_seed(1)
    file, expected = dict(tensors), dict(tensors)
    wide = [name for name, (down, _) in kohya.module_shapes(tensors).items() if down[-1] == 3]
    for name in wide:
        down, up = (tensors[f"{name}.lora_{side}.weight"] for side in ("down", "up"))
        core = torch.randn(4, 4, 3, 3, generator=generator) * 0.3
        thin = torch.randn(4, down.shape[1], 1, 1, generator=generator)
        file |= {f"{name}.lora_mid.weight": core, f"{name}.lora_down.weight": thin}
        change = torch.einsum("nmkl,in,mj->ijkl", core.double(), up.double()[..., 0, 0], thin.double()[..., 0, 0])
        # The same ΔW as a LoCon of another shape: ΔW itself below, the unit matrix above.
        expected |= {
            f"{name}.lora_down.weight": change.float(),
            f"{name}.lora_up.weight": torch.eye(len(up))[..., None, None],
            f"{name}.alpha": tensors[f"{name}.alpha"] / 4 * len(up),
        }
    path = kohya.write(tmp_path / "tucker.safetensors", file, {})
    info = kohya.describe(path)
    assert info.kind == "LoCon (Tucker-decomposed)" and info.tools["diffusers"] == "no" and not info.warnings
    assert info.ranks == {4: len(kohya.module_shapes(tensors))}
    read = kohya.read(path).tensors
    assert not any(key.endswith("lora_mid.weight") for key in read)
    rendered = Adapter.from_file(model, read)
    found, _ = outputs(model)
    rendered.detach()
    other = families.load(model.path)
    merge_into(other, expected, 1.0)
    assert torch.allclose(found, outputs(other)[0], atol=1e-4) and not torch.allclose(found, base, atol=1e-2)
    started = Adapter.attach(model, settings, seed=0)
    assert f"{len(tensors) // 3} modules" in start_from(started, read, path, resize=False)
    assert torch.allclose(outputs(model)[0], found, atol=1e-5)
    damaged = {**file, f"{wide[0]}.lora_mid.weight": torch.zeros(4, 3, 3, 3)}
    with pytest.raises(UserError, match="lora_mid.weight does not fit the matrices beside it"):
        kohya.read(kohya.write(tmp_path / "damaged.safetensors", damaged, {}))
