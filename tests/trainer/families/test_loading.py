"""Base models from folders, from single files in the original layout, and everything that is neither."""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from trainer import families
from trainer.errors import UserError
from trainer.families import checkpoint_file, schedule


@pytest.fixture
def single(model, tmp_path) -> Path:
    """The model in one file, with its tokenizers beside it."""
    for name in ("tokenizer", "tokenizer_2"):
        if (Path(model.path) / name).is_dir():
            shutil.copytree(Path(model.path) / name, tmp_path / name)
    save_file(tiny.original_state(model), tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


def assert_same_model(found, expected):
    for ours, theirs in zip(
        [found.unet, found.vae, *found.text_encoders],
        [expected.unet, expected.vae, *expected.text_encoders],
        strict=True,
    ):
        for (name, weight), (_, wanted) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
            assert torch.equal(weight, wanted), name
    noisy, timesteps, conditioning, sizes = tiny.inputs(expected)
    own = tiny.inputs(found)[2]
    assert torch.equal(own.hidden, conditioning.hidden)
    results = [m.family.predict(m, noisy, timesteps, conditioning, sizes) for m in (found, expected)]
    assert torch.equal(*results)
    assert torch.equal(found.family.decode(found, noisy), expected.family.decode(expected, noisy))


# ── folders ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_recognised_by_its_configs(folders):
    for name, folder in folders.items():
        model = families.load(str(folder))
        assert model.family.name == name and model.name == name
        assert not any(weight.requires_grad for part in model.modules().values() for weight in part.parameters())
        assert not any(part.training for part in (model.unet, model.vae, *model.text_encoders))


def test_sd2_is_known_by_its_width_or_its_text_encoder(folders, tmp_path):
    shutil.copytree(folders["sd2"], tmp_path / "base")
    model = families.load(str(tmp_path / "base"))
    assert (model.family.name, model.prediction_type) == ("sd2", "v_prediction")
    for part, change in (("text_encoder", {"hidden_act": "quick_gelu"}), ("unet", {"cross_attention_dim": 1024})):
        config = tmp_path / "base" / part / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
        assert families.detect(families.resolve(str(tmp_path / "base"))).name == ("sd15" if part != "unet" else "sd2")


@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_sd2_in_one_file(folders, tmp_path, spread):
    """The last text layer is left out, and what the UNet predicts is told from the spread of one bias."""
    model = families.load(str(folders["sd2"]))
    with torch.no_grad():
        bias = model.unet.up_blocks[2].attentions[1].transformer_blocks[0].norm1.bias
        bias.copy_(spread * torch.randn(bias.shape))
    shutil.copytree(folders["sd2"] / "tokenizer", tmp_path / "tokenizer")
    save_file(tiny.original_state(model), tmp_path / "base.safetensors")
    found = families.load(str(tmp_path / "base.safetensors"))
    assert found.family.name == "sd2" and found.prediction_type == ("v_prediction" if spread else "epsilon")
    assert_same_model(found, model)


def test_a_folder_without_vae_uses_the_one_beside_it(folders, tmp_path):
    shutil.copytree(folders["sd15"], tmp_path / "base")
    shutil.move(tmp_path / "base" / "vae", tmp_path / "vae")
    model = families.load(str(tmp_path / "base"))
    assert Path(model.vae_path) == tmp_path / "vae"
    assert_same_model(model, families.load(str(folders["sd15"])))
    shutil.rmtree(tmp_path / "vae")
    with pytest.raises(UserError, match="no vae folder"):
        families.load(str(tmp_path / "base"))


def test_a_folder_of_fp16_files_alone(folders, tmp_path):
    shutil.copytree(folders["sd15"], tmp_path / "base")
    weights = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: w.half() for key, w in load_file(weights).items()}, weights.with_suffix(".fp16.safetensors"))
    weights.unlink()
    model = families.load(str(tmp_path / "base"), dtype=torch.float32)
    assert model.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"in_channels": 9}, "an inpainting model"),
        ({"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        ({"addition_embed_type": "image"}, "image conditioning"),
        ({"encoder_hid_dim_type": "text_proj"}, "text_proj conditioning"),
        ({"time_cond_proj_dim": 256}, "guidance built in"),
    ],
)
def test_folders_of_other_models_are_named(folders, tmp_path, change, sentence):
    shutil.copytree(folders["sd15"], tmp_path / "base")
    config = tmp_path / "base" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(UserError, match=sentence):
        families.load(str(tmp_path / "base"))


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(UserError, match="no unet/config.json"):
        families.load(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match="FluxPipeline"):
        families.load(str(tmp_path))


def test_folders_that_lie_beside_the_right_one(folders, tmp_path):
    save_file({"x": BIG}, tmp_path / "dream.safetensors")
    for place, sentence in [
        (folders["sd15"] / "unet", f"one part of a model, and {folders['sd15']} may be the whole"),
        (tmp_path, "given by its file, as .*dream.safetensors"),
    ]:
        with pytest.raises(UserError, match=sentence):
            families.load(str(place))
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="in several pieces"):
        families.load(str(tmp_path))


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "tokenizer"])
def test_a_folder_without_one_of_its_parts(folders, tmp_path, part):
    shutil.copytree(folders["sdxl"], tmp_path / "base")
    shutil.rmtree(tmp_path / "base" / part)
    with pytest.raises(UserError, match=f"no {tmp_path / 'base' / part}:|SDXL refiner"):
        families.load(str(tmp_path / "base"))


def test_a_folder_for_another_way_of_noising(folders, tmp_path):
    shutil.copytree(folders["sdxl"], tmp_path / "base")
    config = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "EDMEulerScheduler"}))
    with pytest.raises(UserError, match="trained for EDMEulerScheduler"):
        families.load(str(tmp_path / "base"))


def test_a_folder_from_before_safetensors(model, tmp_path):
    shutil.copytree(model.path, tmp_path / "base")
    for weights in (tmp_path / "base").glob("*/*.safetensors"):
        name = "pytorch_model.bin" if weights.name.startswith("model") else f"{weights.stem}.bin"
        torch.save(load_file(weights), weights.with_name(name))
        weights.unlink()
    assert_same_model(families.load(str(tmp_path / "base")), model)


def test_a_folder_with_a_cut_off_part(folders, tmp_path):
    shutil.copytree(folders["sd15"], tmp_path / "base")
    weights = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"unet.diffusion_pytorch_model.safetensors is not a whole safetensors file"):
        families.load(str(tmp_path / "base"))
    weights.unlink()
    with pytest.raises(UserError, match="unet holds no diffusion_pytorch_model.safetensors: download"):
        families.load(str(tmp_path / "base"))


def test_a_folder_in_shards_with_leftovers_of_training(folders, tmp_path):
    shutil.copytree(folders["sd15"], tmp_path / "base")
    whole = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(whole)
    whole.unlink()
    for number in (0, 1):
        part = {key: state[key] for key in sorted(state)[number::2]}
        save_file(part, whole.with_name(f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"))
    zeros = {key: torch.zeros_like(weight) for key, weight in state.items()}
    save_file(zeros, whole.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    save_file(zeros, whole.with_name("diffusion_pytorch_model.fp16.safetensors"))
    found = families.load(str(tmp_path / "base"))
    assert all(weight.equal(state[key]) for key, weight in found.unet.state_dict().items())


def test_a_file_is_mapped_anew_while_it_is_read(folders, monkeypatch):
    """What was read through a map stays in memory as long as the map: there must be many of a large file."""
    maps = []
    before = checkpoint_file._Safetensors._map
    monkeypatch.setattr(checkpoint_file, "MAP", 10_000)
    monkeypatch.setattr(checkpoint_file._Safetensors, "_map", lambda self: (maps.append(1), before(self)))
    found = families.load(str(folders["sd15"]), dtype=torch.bfloat16)
    state = load_file(folders["sd15"] / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(weight.equal(state[key].bfloat16()) for key, weight in found.unet.state_dict().items())
    assert len(maps) > 3


# ── single files ────────────────────────────────────────────────────────────────────────────────────────


def test_a_single_file_gives_the_same_model(model, single):
    found = families.load(str(single))
    assert found.family is model.family and found.name == "base"
    assert_same_model(found, model)
    assert found.sha256() == sha256(single) and found.short_hash == sha256(single)[:10]


def sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_half_precision_and_leftovers_of_training(model, single):
    state = {key: weight.half() for key, weight in load_file(single).items()}
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if model.family.name == "sdxl":
        state.pop("cond_stage_model.transformer.text_model.embeddings.position_ids")
    save_file(state, single)
    found = families.load(str(single), dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16 and found.text_encoders[0].dtype == torch.bfloat16
    assert found.family.predict(found, *tiny.inputs(found)).isfinite().all()


def test_a_merge_that_lost_a_level_of_names(folders, tmp_path):
    model = families.load(str(folders["sd15"]))
    shutil.copytree(folders["sd15"] / "tokenizer", tmp_path / "tokenizer")
    old, new = "cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."
    save_file({k.replace(old, new): w for k, w in tiny.original_state(model).items()}, tmp_path / "base.safetensors")
    assert_same_model(families.load(str(tmp_path / "base.safetensors")), model)


@pytest.mark.parametrize("name", ["modelspec.prediction_type", "modelspec.predict_key"])
def test_v_prediction_is_said_in_the_metadata(single, name):
    save_file(load_file(single), single, {name: "v"})
    assert families.load(str(single)).prediction_type == "v_prediction"


def test_v_prediction_is_marked_inside(model, single):
    save_file({**load_file(single), "v_pred": torch.empty(0), "ztsnr": torch.empty(0)}, single)
    found = families.load(str(single))
    assert found.prediction_type == "v_prediction" and found.alphas_cumprod[-1] < 1e-7
    assert model.prediction_type == "epsilon"


@pytest.mark.parametrize(
    ("line", "kind"),
    [('parameterization: "v"', "v_prediction"), ("parameterization: v # as trained", "v_prediction"),
     ("parameterization: eps", "epsilon"), ("# parameterization: v", "epsilon")],
)  # fmt: skip
def test_v_prediction_is_said_by_the_configuration_beside_it(single, line, kind):
    """As A1111 finds it: the .yaml of the same name."""
    single.with_suffix(".yaml").write_text(f"model:\n  params:\n    {line}\n    linear_start: 0.00085\n")
    assert (
        families.load(str(single)).prediction_type
        == families.noise(families.resolve(str(single)))["prediction_type"]
        == kind
    )


def test_what_a_base_does_not_say_can_be_said(folders, tmp_path):
    plain = families.load(str(folders["sd15"]))
    said = families.load(str(folders["sd15"]), prediction="v_prediction", pure_noise=True)
    assert (plain.prediction_type, plain.is_shifted) == ("epsilon", False)
    assert (said.prediction_type, said.is_shifted) == ("v_prediction", True)
    assert torch.equal(said.alphas_cumprod, schedule.zero_terminal_snr(plain.alphas_cumprod))
    folder = shutil.copytree(folders["sd15"], tmp_path / "shifted", symlinks=True)
    (folder / "scheduler").mkdir(exist_ok=True)
    noise = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(noise))
    own, again = families.load(str(folder)), families.load(str(folder), pure_noise=True)
    assert torch.equal(own.alphas_cumprod, again.alphas_cumprod) and not again.is_shifted
    assert families.load(str(folder), prediction="epsilon").prediction_type == "epsilon"


def test_a_checkpoint_of_plain_weights(model, single):
    path = single.with_suffix(".ckpt")
    torch.save({"state_dict": load_file(single), "global_step": 7}, path)
    assert_same_model(families.load(str(path)), model)
    torch.save(load_file(single), path, _use_new_zipfile_serialization=False)
    assert_same_model(families.load(str(path)), model)


@pytest.mark.parametrize("factor", ["scale_weight", "weight_scale"])
def test_weights_of_one_byte_with_a_factor_beside_them(model, single, factor):
    """Matrices in fp8 that were divided by their largest number: without the factor the model would be another one."""
    state = {}
    for key, weight in load_file(single).items():
        state[key] = weight
        if key.startswith("model.diffusion_model.") and weight.ndim == 2:
            scale = weight.abs().max() / 448
            state[key] = (weight / scale).to(torch.float8_e4m3fn)
            state[key.removesuffix("weight") + factor] = scale
    save_file(state, single)
    found = families.load(str(single), dtype=torch.bfloat16)
    for (name, ours), theirs in zip(found.unet.state_dict().items(), model.unet.state_dict().values()):
        assert torch.allclose(ours.float(), theirs, rtol=0.07, atol=0.002), name


def test_a_projection_written_the_other_way_round(folders, tmp_path):
    model, prefix = families.load(str(folders["sdxl"])), "conditioner.embedders.1.model.text_projection"
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(folders["sdxl"] / name, tmp_path / name)
    state = tiny.original_state(model)
    state[f"{prefix}.weight"] = state.pop(prefix).T.contiguous()
    save_file(state, tmp_path / "base.safetensors")
    assert_same_model(families.load(str(tmp_path / "base.safetensors")), model)
    without = {key: w for key, w in state.items() if not key.startswith("conditioner.embedders.0.")}
    save_file(without, tmp_path / "base.safetensors")
    with pytest.raises(UserError, match="without its text encoder"):
        families.load(str(tmp_path / "base.safetensors"))


def test_what_training_left_in_a_checkpoint_is_not_in_the_way(model, single, tmp_path):
    """The .ckpt files of 2022 hold their trainer's callbacks by class, and its counters as NumPy's numbers."""
    code = (
        "import sys, types, numpy, torch; from safetensors.torch import load_file\n"
        "name = 'pytorch_lightning.callbacks.model_checkpoint'\n"
        "for part in (name[:17], name[:27], name): sys.modules[part] = types.ModuleType(part)\n"
        "made = sys.modules[name].ModelCheckpoint = type('ModelCheckpoint', (), {'__module__': name})\n"
        "content = {'state_dict': load_file(sys.argv[1]), 'global_step': numpy.int64(7), 'loss': numpy.float64(0.1)}\n"
        "torch.save({**content, 'callbacks': {made: {'best_model_score': None}}}, sys.argv[2])\n"
    )
    path = single.with_suffix(".ckpt")
    subprocess.run([sys.executable, "-c", code, str(single), str(path)], check=True)
    assert_same_model(families.load(str(path)), model)


def test_a_tokenizer_of_another_model(single):
    for part in ("tokenizer", "tokenizer_2"):
        (single.parent / part / "vocab.json").unlink(missing_ok=True)
        (single.parent / part / "tokenizer.json").unlink(missing_ok=True)
    (single.parent / "tokenizer" / "vocab.json").write_text('{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}')
    with pytest.raises(UserError, match="belongs to another model"):
        families.load(str(single))


def test_a_vae_in_the_names_of_2022(folders, tmp_path):
    """stabilityai/sd-vae-ft-mse: an attention's matrices have been renamed since."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    shutil.copytree(folders["sd15"] / "vae", tmp_path / "vae")
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    state, older = load_file(file), {}
    for key, weight in state.items():
        new = next((name for name in names if f".attentions.0.{name}." in key), "")
        older[key.replace(new, names[new]) if new else key] = weight
    assert older.keys() != state.keys()
    save_file(older, file)
    for place in (tmp_path / "vae", file):
        found = families.load(str(folders["sd15"]), vae=str(place)).vae.state_dict()
        assert all(torch.equal(found[key], weight) for key, weight in state.items())


def test_a_vae_from_elsewhere(model, single, tmp_path):
    other = tiny.vae(model.family.name, seed=9)
    other.save_pretrained(tmp_path / "other")
    prefix = "first_stage_model."
    shaped = {k: w for k, w in tiny.original_state(model).items() if k.startswith(prefix)}
    save_file({k.removeprefix(prefix): w for k, w in shaped.items()}, tmp_path / "original.safetensors")
    for place in (tmp_path / "other", tmp_path / "other" / "diffusion_pytorch_model.safetensors"):
        found = families.load(str(single), vae=str(place))
        assert torch.equal(found.vae.decoder.conv_in.weight, other.decoder.conv_in.weight)
        assert found.vae.config.scaling_factor == model.vae.config.scaling_factor
        assert found.vae_path == str(place)
    found = families.load(model.path, vae=str(tmp_path / "original.safetensors"))
    assert torch.equal(found.vae.decoder.conv_in.weight, model.vae.decoder.conv_in.weight)
    with pytest.raises(UserError, match="no VAE at"):
        families.load(model.path, vae=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is not a VAE"):
        save_file({"x": torch.zeros(1000)}, tmp_path / "junk.safetensors")
        families.load(model.path, vae=str(tmp_path / "junk.safetensors"))


def test_the_tokenizer_is_looked_for_in_named_places(single, tmp_path, monkeypatch):
    offline(monkeypatch)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.move(single.parent / "tokenizer", folder / "tokenizer")
    shutil.rmtree(single.parent / "tokenizer_2", ignore_errors=True)
    with pytest.raises(UserError, match="LORA_STUDIO_TOKENIZER"):
        families.load(str(single))
    for value in (folder, folder / "tokenizer"):
        monkeypatch.setenv("LORA_STUDIO_TOKENIZER", str(value))
        found = families.load(str(single))
        assert [t.pad_token_id for t in found.tokenizers] == [found.tokenizers[0].eos_token_id, 0][
            : len(found.tokenizers)
        ]


# ── what is no base model ───────────────────────────────────────────────────────────────────────────────


class Evil:
    """What a malicious checkpoint holds: loading it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["base.ckpt", "base.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, name, zipped):
    trap, path = tmp_path / "executed", tmp_path / name
    content = {"state_dict": {"x": Evil(trap)}, "filler": "x" * 1000}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="not opened"):
        families.load(str(path))
    assert not trap.exists()


BIG = torch.zeros(200)  # files of a few bytes are refused for that alone


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "a LoRA, not a base model"),
        (["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"], "a Flux model"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "a Stable Diffusion 3 model"),
        (["conditioner.embedders.0.model.transformer.resblocks.0.ln_1.weight"], "the SDXL refiner"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (["emb_params"], "a textual inversion"),
        (["first_stage_model.decoder.conv_in.weight"], "a VAE alone"),
        (["decoder.conv_in.weight"], "a VAE alone"),
        (["down_blocks.0.resnets.0.conv1.weight"], "diffusers' naming"),
        (["input_blocks.0.0.weight"], "a UNet alone"),
        (["lora_controlnet", "input_blocks.0.0.weight"], "a ControlNet"),
        (["unet.mid.processor.to_q_lora.down.weight"], "a LoRA, not a base model"),
        (["cap_embedder.1.weight", "layers.0.attention.qkv.weight"], "a Lumina or Z-Image model"),
        (["distilled_guidance_layer.norms.0.scale", "double_blocks.0.img_attn.qkv.weight"], "a Chroma model"),
        (["transformer_blocks.0.attn.to_q.weight", "single_transformer_blocks.0.attn.to_q.weight"], "a Flux model"),
        (["body.0.rdb1.conv1.weight", "conv_first.weight"], "an upscaler"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], "a text or picture encoder alone"),
        (["model.diffusion_model.time_embed.0.weight.absmax"], "packed in 4 bits"),
        (["edm_mean", "model.diffusion_model.input_blocks.0.0.weight"], "a Playground 2.5 model"),
        (["noise_augmentor.time_embed.embed.0.weight"], "an unCLIP model"),
        (["layers.0.weight", "z"], r"something else \(its first tensor is called layers.0.weight\)"),
    ],
)
def test_other_files_are_named(tmp_path, keys, sentence):
    save_file({key: BIG.clone() for key in keys}, tmp_path / "file.safetensors")
    with pytest.raises(UserError, match=sentence) as error:
        families.load(str(tmp_path / "file.safetensors"))
    assert "toybox/sd15" in str(error.value)  # says what to give instead


def test_other_unets_in_the_original_layout(folders, tmp_path):
    state = tiny.original_state(families.load(str(folders["sd15"])))
    first = "model.diffusion_model.input_blocks.0.0.weight"
    path = tmp_path / "base.safetensors"
    save_file({**state, first: torch.cat([state[first], state[first][:, :1], state[first]], 1)}, path)
    with pytest.raises(UserError, match="an inpainting model"):
        families.load(str(path))
    save_file({key: w for key, w in state.items() if key.startswith("model.")}, path)
    with pytest.raises(UserError, match="without its text encoder"):
        families.load(str(path))
    shutil.copytree(folders["sd15"] / "tokenizer", tmp_path / "tokenizer")
    missing = "model.diffusion_model.middle_block.0.in_layers.0.weight"
    save_file({key: w for key, w in state.items() if key != missing}, path)
    with pytest.raises(UserError, match=missing):
        families.load(str(path))
    save_file({key: w for key, w in state.items() if not key.startswith("first_stage_model.")}, path)
    with pytest.raises(UserError, match="no VAE in it: set model.vae"):
        families.load(str(path))


def test_broken_files(single, tmp_path):
    content, archive = single.read_bytes(), tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model.safetensors", content[:2000])
    for name, data, sentence in [
        ("cut.safetensors", content[:-100], "cut off"),
        ("garbage.safetensors", random.Random(0).randbytes(5000), "not a whole safetensors"),
        ("empty.safetensors", b"", "only 0 bytes"),
        ("page.safetensors", b"<!DOCTYPE html>" + b" " * 1000, "web page"),
        ("page.ckpt", b"<html>" + b" " * 1000, "web page"),
        ("refused.safetensors", b'{"error": "Unauthorized"}', "server's message"),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "Git LFS pointer"),
        ("packed.safetensors", b"GGUF\3\0\0\0{" + b"\0" * 1000, "a GGUF file"),
        ("archive.ckpt", archive.read_bytes(), "an archive: unpack it"),
        ("cut.ckpt", b"PK\x03\x04" + b"\0" * 1000, "cannot be read"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=sentence):
            families.load(str(tmp_path / name))


def test_places_that_hold_nothing(tmp_path, monkeypatch):
    offline(monkeypatch)
    (tmp_path / "notes.txt").write_text("hello")
    for base, sentence in [
        ("", "model.base is empty"),
        (str(tmp_path / "none.safetensors"), "There is no base model at"),
        ("models/none.ckpt", "There is no base model at"),
        (str(tmp_path / "notes.txt"), "is not a base model"),
        ("nobody/nothing", "neither a file or folder here nor in the Hugging Face cache"),
    ]:
        with pytest.raises(UserError, match=sentence):
            families.load(base)


def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_listing_families_is_cheap():
    code = "import sys, trainer.families as f; print(sorted(f.FAMILIES), 'torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "['sd15', 'sd2', 'sdxl'] False"
