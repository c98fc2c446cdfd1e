"""LoRA layers: exact no-ops at the start, kohya's arithmetic, and the same result wherever the file is loaded."""

from pathlib import Path

import pytest
import tiny
import torch

from trainer import families, kohya
from trainer.adapters import Adapter
from trainer.config import AdapterConfig
from trainer.errors import UserError

LISTS = [folder / "shared" / "formats" for folder in Path(__file__).resolve().parents]
LISTS = next((folder for folder in LISTS if folder.is_dir()), None)
CONFIG = AdapterConfig(rank=4, alpha=2)


def learned(adapter, seed=0):
    """The adapter's tensors as training might leave them: nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: tensor if key.endswith(".alpha") else torch.randn(tensor.shape, generator=generator) * 0.1
        for key, tensor in adapter.tensors().items()
    }


def outputs(model):
    """(prediction of the UNet, conditioning) for fixed inputs."""
    noisy, timesteps, conditioning, sizes = tiny.inputs(model)
    with torch.no_grad():
        return model.family.predict(model, noisy, timesteps, conditioning, sizes), conditioning


# ── what is trained, under which names ──────────────────────────────────────────────────────────────────

FULL_SIZE = {
    "sd15": {
        "lora_unet_": 192,
        "lora_te_": 72,
        "lora_unet_mid_block_attentions_0_proj_in": ((16, 1280, 1, 1), (1280, 16, 1, 1)),
        "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_k": ((16, 768), (320, 16)),
        "lora_te_text_model_encoder_layers_11_mlp_fc1": ((16, 768), (3072, 16)),
    },
    "sdxl": {
        "lora_unet_": 722,
        "lora_te1_": 72,
        "lora_te2_": 192,
        "lora_unet_input_blocks_4_1_proj_in": ((16, 640), (640, 16)),
        "lora_unet_middle_block_1_transformer_blocks_9_attn2_to_k": ((16, 2048), (1280, 16)),
        "lora_unet_output_blocks_5_1_transformer_blocks_1_ff_net_0_proj": ((16, 640), (5120, 16)),
        "lora_te2_text_model_encoder_layers_31_self_attn_out_proj": ((16, 1280), (1280, 16)),
    },
}


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def full_size_shapes(request):
    """(family name, module -> shapes) of a LoRA for the published architecture."""
    adapter = Adapter.attach(tiny.full_size(request.param), AdapterConfig(rank=16, alpha=16), seed=0)
    return request.param, kohya.module_shapes(dict(adapter.named_parameters()))


def test_key_set_at_full_size(full_size_shapes):
    family, shapes = full_size_shapes
    for name, expected in FULL_SIZE[family].items():
        if isinstance(expected, int):
            assert sum(key.startswith(name) for key in shapes) == expected
        else:
            assert shapes[name] == expected
    assert len(shapes) == sum(value for value in FULL_SIZE[family].values() if isinstance(value, int))


@pytest.mark.skipif(LISTS is None, reason="the complete list is not part of the repository")
def test_key_set_equals_what_sd_scripts_writes(full_size_shapes):
    family, shapes = full_size_shapes
    lines = (LISTS / f"kohya_{family}.tsv").read_text().splitlines()
    listed = {name: (shape(down), shape(up)) for name, down, up in (line.split("\t") for line in lines)}
    assert shapes == listed


def shape(text):
    return tuple(int(part) for part in text.split("x"))


def test_text_encoder_only_when_asked(model):
    adapter = Adapter.attach(model, AdapterConfig(rank=4, alpha=2, text_encoder=False), seed=0)
    assert adapter.components == ["unet"]
    assert all(key.startswith("lora_unet_") for key in adapter.tensors())


# ── arithmetic ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_exact_no_op_at_the_start(folders, dtype):
    for folder in folders.values():
        model = families.load(str(folder), dtype=dtype)
        before, words = outputs(model)
        Adapter.attach(model, CONFIG, seed=3)
        after, words_after = outputs(model)
        assert torch.equal(before, after) and torch.equal(words.hidden, words_after.hidden)


def test_start_depends_on_the_seed_alone(folders):
    found = []
    for state, seed in [(1, 7), (2, 7), (1, 8)]:
        torch.manual_seed(state)
        adapter = Adapter.attach(families.load(str(folders["sdxl"])), CONFIG, seed=seed)
        found.append(adapter.tensors())
    same, other = (all(torch.equal(found[0][key], entry[key]) for key in entry) for entry in found[1:])
    assert same and not other
    bound = found[0]["lora_unet_input_blocks_3_1_proj_in.lora_down.weight"].abs().max()
    assert 0.8 / 64**0.5 < bound <= 1 / 64**0.5  # Kaiming-uniform, a = √5, of 64 inputs


def test_attaching_leaves_the_global_generator_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Adapter.attach(model, CONFIG, seed=0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("strength", [1.0, 0.6, -1.0])
def test_delta_is_kohyas(model, strength):
    """ΔW = strength · up · down · alpha / rank, merged by hand into a fresh copy of the weights."""
    adapter = Adapter.attach(model, CONFIG, seed=0)
    tensors = learned(adapter)
    adapter.load(tensors)
    adapter.set_strength(strength)
    attached, words = outputs(model)
    adapter.detach()
    for component, module in model.modules().items():
        for path in model.family.lora_targets(component, module):
            name = model.family.kohya_name(component, path, model.unet)
            up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
            weight = module.get_submodule(path).weight
            weight += strength * 0.5 * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    merged, merged_words = outputs(model)
    assert torch.allclose(attached, merged, atol=1e-5)
    assert torch.allclose(words.hidden, merged_words.hidden, atol=1e-5)


def test_strengths_of_unet_and_text_are_apart(model):
    base, base_words = outputs(model)
    adapter = Adapter.attach(model, CONFIG, seed=0)
    adapter.load(learned(adapter))
    adapter.set_strength(0.0, 1.0)
    assert not torch.equal(outputs(model)[1].hidden, base_words.hidden)
    adapter.set_strength(1.0, 0.0)
    changed, words = outputs(model)
    assert torch.equal(words.hidden, base_words.hidden) and not torch.equal(changed, base)
    adapter.set_strength(0.0)
    assert torch.equal(outputs(model)[0], base)


def test_switching_off_and_detaching_give_the_base(model):
    names = [name for part in model.modules().values() for name, _ in part.named_modules()]
    base, _ = outputs(model)
    adapter = Adapter.attach(model, CONFIG, seed=0)
    adapter.load(learned(adapter))
    learned_output, _ = outputs(model)
    with adapter.enabled(False):
        assert torch.equal(outputs(model)[0], base)
    assert torch.equal(outputs(model)[0], learned_output)
    assert all(weight.requires_grad for weight in adapter.parameters())
    with pytest.raises(RuntimeError, match="already an adapter"):
        Adapter.attach(model, CONFIG, seed=0)
    adapter.detach()
    assert torch.equal(outputs(model)[0], base)
    assert [name for part in model.modules().values() for name, _ in part.named_modules()] == names
    Adapter.attach(model, CONFIG, seed=0)


def test_only_the_lora_learns_and_in_float32(folders):
    for folder in folders.values():
        model = families.load(str(folder), dtype=torch.bfloat16)
        adapter = Adapter.attach(model, CONFIG, seed=0)
        adapter.load(learned(adapter))
        noisy, timesteps, _, sizes = tiny.inputs(model)
        words = model.family.encode(model, model.family.tokenize(model, ["a cat", "a hat"]))
        model.family.predict(model, noisy, timesteps, words, sizes).square().mean().backward()
        parameters = adapter.parameters()
        assert all(weight.dtype == torch.float32 and weight.is_leaf for weight in parameters)
        # SDXL reads the penultimate layer, so the last layer of its first encoder learns nothing: 12 tensors.
        idle = [name for name, weight in adapter.named_parameters() if weight.grad is None]
        assert len(idle) == (12 if model.family.name == "sdxl" else 0)
        trainable = [w for part in model.modules().values() for w in part.parameters() if w.requires_grad]
        assert len(trainable) == len(parameters)


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_loads_the_file_and_gives_the_same(family, layers, tmp_path):
    folder = tiny.base_folder(tmp_path / family, family, layers=layers)
    model, other = families.load(str(folder)), families.load(str(folder))
    adapter = Adapter.attach(model, CONFIG, seed=0)
    adapter.load(learned(adapter))
    kohya.write(tmp_path / "lora.safetensors", adapter.tensors(), {})
    base, _ = outputs(other)
    tiny.pipeline(other).load_lora_weights(tmp_path, weight_name="lora.safetensors")
    (expected, words), (found, other_words) = outputs(model), outputs(other)
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(base, expected, atol=1e-3)
    assert torch.allclose(words.hidden, other_words.hidden, atol=1e-5)
    assert words.pooled is None or torch.allclose(words.pooled, other_words.pooled, atol=1e-5)


def test_a_saved_file_renders_as_the_trained_adapter(model):
    adapter = Adapter.attach(model, CONFIG, seed=0)
    tensors = learned(adapter)
    adapter.load(tensors)
    trained, _ = outputs(model)
    adapter.detach()
    rendered = Adapter.from_file(model, tensors)
    assert torch.equal(outputs(model)[0], trained)
    assert not any(weight.requires_grad for weight in rendered.parameters())
    assert rendered.tensors().keys() == tensors.keys()


def test_another_epoch_swaps_the_weights_in_place(model):
    adapter = Adapter.attach(model, CONFIG, seed=0)
    first, second = learned(adapter, 1), learned(adapter, 2)
    adapter.detach()
    rendered = Adapter.from_file(model, first)
    rendered.set_strength(0.5)
    places = [weight.data_ptr() for weight in rendered.parameters()]
    rendered.load(second)
    assert [weight.data_ptr() for weight in rendered.parameters()] == places
    swapped, _ = outputs(model)
    rendered.detach()
    fresh = Adapter.from_file(model, second)
    fresh.set_strength(0.5)
    assert torch.equal(outputs(model)[0], swapped)


def test_a_file_of_other_ranks_takes_the_place(model):
    adapter = Adapter.attach(model, CONFIG, seed=0)
    small = learned(adapter)
    adapter.detach()
    mixed = {key: value for key, value in small.items() if "unet" in key}
    names = list(kohya.module_shapes(mixed))
    for name in names[::2]:  # half of the modules with twice the rank, and another alpha
        down, up = mixed[f"{name}.lora_down.weight"], mixed[f"{name}.lora_up.weight"]
        mixed[f"{name}.lora_down.weight"], mixed[f"{name}.lora_up.weight"] = (
            down.repeat_interleave(2, 0),
            torch.cat([up, up], 1),
        )
        mixed[f"{name}.alpha"] = torch.tensor(3.0)
    del mixed[f"{names[1]}.alpha"]
    rendered = Adapter.from_file(model, small)
    rendered.load(mixed)
    assert rendered.components == ["unet"]
    found = rendered.tensors()
    assert all(torch.equal(found[key], value) for key, value in mixed.items())
    assert found[f"{names[1]}.alpha"] == 4  # without an alpha the scale is 1
    rendered.load(small)
    assert rendered.tensors().keys() == small.keys()


def test_convolutions_of_a_locon_are_rendered(model):
    path = "down_blocks.0.resnets.0.conv1"
    name = model.family.kohya_name("unet", path, model.unet)
    weight = model.unet.get_submodule(path).weight
    down, up = torch.randn(3, *weight.shape[1:]), torch.randn(weight.shape[0], 3, 1, 1) * 0.1
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.5)}
    adapter = Adapter.from_file(model, tensors)
    found, _ = outputs(model)
    adapter.detach()
    weight += 0.5 * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    assert torch.allclose(found, outputs(model)[0], atol=1e-5)


def test_sdxl_files_with_diffusers_block_names_are_rendered(folders):
    model = families.load(str(folders["sdxl"]))
    tensors = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.randn(2, 64),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.randn(64, 2),
    }
    before, _ = outputs(model)
    Adapter.from_file(model, tensors)
    assert not torch.equal(outputs(model)[0], before)


def test_exact_state_comes_back(model):
    adapter = Adapter.attach(model, CONFIG, seed=0)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight += torch.randn_like(weight) * 1e-4
    state = adapter.exact()
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.zero_()
    assert any(value.abs().sum() > 0 for key, value in state.items() if key.endswith("up.weight"))  # a copy
    adapter.load_exact(state)
    assert all(torch.equal(value, state[key]) for key, value in adapter.exact().items())


def test_tensors_that_do_not_fit_are_named(folders):
    model, other = families.load(str(folders["sd15"])), families.load(str(folders["sdxl"]))
    adapter = Adapter.attach(model, CONFIG, seed=0)
    tensors = adapter.tensors()
    first = next(iter(tensors))
    with pytest.raises(UserError, match=f"{first} is missing"):
        adapter.load({key: value for key, value in tensors.items() if key != first})
    with pytest.raises(UserError, match="surplus.alpha is not expected"):
        adapter.load({**tensors, "surplus.alpha": torch.tensor(1.0)})
    with pytest.raises(UserError, match="has shape"):
        adapter.load({**tensors, first: tensors[first][:2]})
    adapter.detach()
    with pytest.raises(UserError, match=r"does not fit sdxl \(SDXL\): the model has no module for lora_te_"):
        Adapter.from_file(other, {key: value for key, value in tensors.items() if key.startswith("lora_te_")})
    with pytest.raises(UserError, match="cannot be loaded here"):
        Adapter.from_file(model, {**tensors, first.replace("lora_down.weight", "lora_mid.weight"): torch.ones(1, 32)})
    with pytest.raises(UserError, match=r"cannot be loaded here \(it has lora_down\.weight\)"):
        Adapter.from_file(model, {first: tensors[first]})
    with pytest.raises(UserError, match="where the model's weight is"):
        Adapter.from_file(model, {**tensors, first: torch.zeros(4, 99, 1, 1)})
    assert not hasattr(model.unet, "peft_config")  # nothing was left half attached
