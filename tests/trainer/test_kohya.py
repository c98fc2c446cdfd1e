"""The LoRA file format: round trips, hashes computed another way, metadata, and what `describe` says."""

import hashlib
import json
import struct
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from trainer import kohya
from trainer.config import validate
from trainer.errors import UserError
from trainer.families import FAMILIES

# Every ss_ entry that sd-scripts writes for a plain LoRA, but those about a VAE and the old hash of a base file.
ENTRIES = """session_id training_started_at training_finished_at output_name learning_rate text_encoder_lr unet_lr
num_train_images num_reg_images num_batches_per_epoch num_epochs epoch steps max_train_steps batch_size_per_device
total_batch_size gradient_checkpointing gradient_accumulation_steps lr_warmup_steps lr_scheduler network_module
network_dim network_alpha network_dropout network_args mixed_precision full_fp16 v2 base_model_version clip_skip
max_token_length cache_latents seed lowram noise_offset multires_noise_iterations multires_noise_discount
adaptive_noise_scale zero_terminal_snr training_comment optimizer max_grad_norm caption_dropout_rate
caption_tag_dropout_rate min_snr_gamma scale_weight_norms ip_noise_gamma debiased_estimation loss_type huber_schedule
huber_c prior_loss_weight datasets dataset_dirs reg_dataset_dirs tag_frequency bucket_info enable_bucket
bucket_no_upscale min_bucket_reso max_bucket_reso resolution color_aug flip_aug random_crop shuffle_caption keep_tokens
sd_model_name new_sd_model_hash""".split()  # noqa: SIM905

CONFIG = validate(
    {
        "name": "moss-cat",
        "data": {"trigger": "moss", "repeats": 3, "folder": "datasets/moss"},
        "adapter": {"rank": 8, "alpha": 4},
        "optimizer": {"name": "AdamW", "args": "weight_decay=0.1 betas=0.9,0.99", "warmup": 0.1},
        "model": {"clip_skip": 2, "precision": "fp32"},
    },
    "test",
)


def facts(family="sd15", **changes):
    values = {
        "family": FAMILIES[family],
        "base_name": "dreamshaper_8",
        "base_sha256": "ab" * 32,
        "tag_frequency": {"moss": {"moss": 4, "hat": 2, "blau äöü": 1}},
        "images": {"moss": kohya.FolderFacts(4, 3, 12)},
        "buckets": {(512, 512): 9, (448, 576): 3},
        "run": "2026-11-21_1432-moss-cat",
        "batches_per_epoch": 12,
        "epoch": 3,
        "step": 36,
        "steps": 120,
        "started": 1_700_000_000.0,
        "finished": 1_700_000_360.0,
        "optimizer": "torch.optim.adamw.AdamW",
    }
    return kohya.Facts(**{**values, **changes})


def module(name, rank=4, inputs=768, outputs=320, alpha=2.0):
    tensors = {
        f"{name}.lora_down.weight": torch.randn(rank, inputs),
        f"{name}.lora_up.weight": torch.randn(outputs, rank),
    }
    return tensors if alpha is None else {**tensors, f"{name}.alpha": torch.tensor(alpha)}


TO_K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
XL_TO_K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


def saved(tmp_path, tensors, metadata=None):
    save_file(tensors, tmp_path / "lora.safetensors", metadata)
    return tmp_path / "lora.safetensors"


# ── write and read ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip(tmp_path, dtype):
    tensors = {key: value.to(dtype) for key, value in (module(TO_K) | module("lora_te_x")).items()}
    tensors["strided"] = torch.arange(12, dtype=dtype).view(3, 4).T  # safetensors itself refuses these
    metadata = kohya.training_metadata(CONFIG, facts())
    path = kohya.write(tmp_path / "new folder" / "lora.safetensors", tensors, metadata)
    found = kohya.read(path)
    assert all(
        torch.equal(found.tensors[key], value) and found.tensors[key].dtype == dtype for key, value in tensors.items()
    )
    assert metadata.items() <= found.metadata.items()
    assert found.metadata.keys() - metadata.keys() == {
        "sshs_model_hash",
        "sshs_legacy_hash",
        "modelspec.hash_sha256",
    }
    assert list(path.parent.iterdir()) == [path]


def test_same_tensors_same_bytes_behind_the_header(tmp_path):
    tensors, bodies = module(TO_K) | module("lora_te_x"), set()
    for number, order in enumerate((list(tensors), list(tensors)[::-1])):
        path = tmp_path / f"{number}.safetensors"
        kohya.write(path, {key: tensors[key] for key in order}, {"ss_epoch": str(number)})
        bodies.add(path.read_bytes()[kohya.read_header(path).start :])
    assert len(bodies) == 1


def test_hashes_as_computed_by_hand(tmp_path):
    tensors = module(TO_K, rank=512)  # more than 1 MiB, so that the legacy hash has something to read
    path = kohya.write(tmp_path / "lora.safetensors", tensors, {"ss_epoch": "1", "modelspec.title": "x"})
    content = path.read_bytes()
    body = content[8 + int.from_bytes(content[:8], "little") :]
    save_file(tensors, tmp_path / "plain.safetensors", {"ss_epoch": "1"})  # as sd-scripts saves it before hashing
    with open(tmp_path / "plain.safetensors", "rb") as file:
        file.seek(0x100000)
        legacy = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    metadata = kohya.read(path).metadata
    assert metadata["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert metadata["sshs_legacy_hash"] == legacy
    assert kohya.describe(path).model_hash == hashlib.sha256(body).hexdigest()[:12]
    assert kohya.describe(path).sha256 == hashlib.sha256(content).hexdigest()


def test_an_old_file_survives_a_failed_write(tmp_path, monkeypatch):
    path = kohya.write(tmp_path / "lora.safetensors", module(TO_K), {})
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        kohya.write(path, module(TO_K), {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not a safetensors file"),
        (b"\xff" * 100, "cut off"),
        (struct.pack("<Q", 2) + b"[]", "not a safetensors file"),
        (struct.pack("<Q", 4) + b"nope", "not a safetensors file"),
        (struct.pack("<Q", 9) + b'{"a": 12}', "not a safetensors file"),
        (struct.pack("<Q", 21) + b'{"__metadata__": "me"}', "not a safetensors file"),
    ],
)
def test_broken_files_are_said_to_be(tmp_path, content, sentence):
    path = tmp_path / "lora.safetensors"
    path.write_bytes(content)
    for reader in (kohya.read, kohya.describe):
        with pytest.raises(UserError, match=sentence):
            reader(path)


def test_a_cut_off_file_and_a_missing_one(tmp_path):
    path = kohya.write(tmp_path / "lora.safetensors", module(TO_K), {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is not whole"):
        kohya.read(path)
    with pytest.raises(UserError, match="No such file"):
        kohya.read(tmp_path / "none.safetensors")


# ── metadata ────────────────────────────────────────────────────────────────────────────────────────────


def test_metadata_is_complete_and_readable(tmp_path):
    metadata = kohya.training_metadata(CONFIG, facts())
    assert {f"ss_{name}" for name in ENTRIES} == {key for key in metadata if key.startswith("ss_")}
    path = kohya.write(tmp_path / "lora.safetensors", module(TO_K), metadata)
    with safe_open(path, "pt") as file:
        stored = file.metadata()
    assert all(isinstance(value, str) for value in stored.values())
    assert json.loads(stored["ss_tag_frequency"]) == {"moss": {"moss": 4, "hat": 2, "blau äöü": 1}}
    assert json.loads(stored["ss_dataset_dirs"]) == {"moss": {"n_repeats": 3, "img_count": 4}}
    assert json.loads(stored["ss_bucket_info"])["buckets"]["1"] == {"resolution": [512, 512], "count": 9}
    assert json.loads(stored["ss_datasets"])[0]["subsets"][0]["num_repeats"] == 3
    wanted = {
        "ss_output_name": "moss-cat",
        "ss_num_train_images": "12",
        "ss_network_dim": "8",
        "ss_network_alpha": "4.0",
        "ss_network_module": "networks.lora",
        "ss_base_model_version": "sd_v1",
        "ss_clip_skip": "2",
        "ss_mixed_precision": "no",
        "ss_lr_warmup_steps": "12",
        "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.1,betas=0.9,0.99)",
        "ss_resolution": "(512, 512)",
        "ss_sd_model_name": "dreamshaper_8",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "moss-cat",
        "modelspec.date": "2023-11-14T22:19:20",
        "modelspec.resolution": "512x512",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": "moss",
        "modelspec.encoder_layer": "2",
    }
    assert wanted.items() <= stored.items()


@pytest.mark.parametrize(
    ("setting", "value", "entry", "off", "on"),
    [
        ("noise_offset", 0.05, "ss_noise_offset", "None", "0.05"),
        ("multires_iterations", 6, "ss_multires_noise_iterations", "None", "6"),
        ("multires_discount", 0.8, "ss_multires_noise_discount", "0.3", "0.8"),
        ("input_perturbation", 0.1, "ss_ip_noise_gamma", "None", "0.1"),
        ("zero_terminal_snr", True, "ss_zero_terminal_snr", "False", "True"),
        ("min_snr_gamma", 0, "ss_min_snr_gamma", "5.0", "None"),
        ("debiased", True, "ss_debiased_estimation", "False", "True"),
        ("kind", "huber", "ss_loss_type", "l2", "huber"),
        ("huber_schedule", "constant", "ss_huber_schedule", "snr", "constant"),
        ("huber_c", 0.2, "ss_huber_c", "0.1", "0.2"),
        ("max_timestep", 500, "modelspec.timestep_range", None, "0,500"),
        ("min_timestep", 200, "modelspec.timestep_range", None, "200,1000"),
    ],
)
def test_metadata_says_what_the_loss_was(setting, value, entry, off, on):
    changed = CONFIG.model_copy(update={"loss": CONFIG.loss.model_copy(update={setting: value})})
    assert kohya.training_metadata(CONFIG, facts()).get(entry) == off
    assert kohya.training_metadata(changed, facts())[entry] == on


def test_metadata_of_sdxl():
    metadata = kohya.training_metadata(
        CONFIG, facts("sdxl", prediction_type="v_prediction", vae_name="x", vae_sha256="y")
    )
    assert metadata["ss_base_model_version"].startswith("sdxl_")
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["ss_clip_skip"] == "None" and "modelspec.encoder_layer" not in metadata
    assert metadata["ss_vae_name"] == "x" and metadata["ss_new_vae_hash"] == "y"


def test_all_epochs_of_a_run_share_its_session():
    one, two = (kohya.training_metadata(CONFIG, facts(epoch=epoch))["ss_session_id"] for epoch in (1, 2))
    other = kohya.training_metadata(CONFIG, facts(run="another"))["ss_session_id"]
    assert one == two != other and one.isdigit()


# ── describe ────────────────────────────────────────────────────────────────────────────────────────────


def test_describe_our_own(tmp_path):
    tensors = module(TO_K) | module("lora_te_text_model_encoder_layers_0_mlp_fc1", rank=8)
    half = {key: value.half() for key, value in tensors.items()}
    info = kohya.describe(kohya.write(tmp_path / "lora.safetensors", half, kohya.training_metadata(CONFIG, facts())))
    assert (info.family, info.kind, info.naming, info.dtype) == ("SD 1.5", "LoRA", "kohya", "F16")
    assert info.modules == {"UNet": 1, "text encoder": 1}
    assert info.ranks == {4: 1, 8: 1} and info.alphas == {2.0: 2}
    assert info.triggers == ("moss",) and info.tags[0] == ("moss", 4)
    assert set(info.tools.values()) == {"yes"} and not info.warnings
    lines = dict(info.lines())
    assert lines["Base model"] == "dreamshaper_8" and lines["Rank"] == "4 (1 modules), 8 (1 modules)"


def peft_names(prefix, down, up):
    name = f"{prefix}down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    return {f"{name}.{down}": torch.randn(4, 768), f"{name}.{up}": torch.randn(320, 4)}


@pytest.mark.parametrize(
    ("tensors", "family", "kind", "naming", "loads"),
    [
        (module(XL_TO_K, inputs=2048), "SDXL", "LoRA", "kohya", ("yes", "yes", "yes")),
        (module(TO_K, inputs=1024), "SD 2.x", "LoRA", "kohya", ("yes", "yes", "yes")),
        (
            module(TO_K, inputs=2048),
            "SDXL",
            "LoRA",
            "kohya, diffusers blocks",
            ("all but one convolution", "yes", "yes"),
        ),
        (
            {**module(TO_K), f"{TO_K[:20]}_conv.lora_down.weight": torch.randn(4, 320, 3, 3)},
            "SD 1.5",
            "LoCon",
            "kohya",
            ("yes", "yes", "yes"),
        ),
        (
            {**module(TO_K), f"{TO_K}.dora_scale": torch.ones(1, 768)},
            "SD 1.5",
            "DoRA",
            "kohya",
            ("yes", "yes", "yes, but without its magnitudes: another picture"),
        ),
        (
            {
                f"{TO_K}.hada_w{i}_{side}": torch.randn(*size)
                for i in (1, 2)
                for side, size in (("a", (320, 4)), ("b", (4, 768)))
            },
            "SD 1.5",
            "LoHa",
            "kohya",
            ("yes", "yes", "no"),
        ),
        (
            {f"{XL_TO_K}.lokr_w1": torch.randn(4, 4), f"{XL_TO_K}.lokr_w2": torch.randn(80, 512)},
            "SDXL",
            "LoKr",
            "kohya",
            ("yes", "yes", "no"),
        ),
        (
            peft_names("unet.", "lora_A.weight", "lora_B.weight"),
            "SD 1.5",
            "LoRA",
            "diffusers",
            ("no", "about half of it", "yes"),
        ),
        (
            peft_names("base_model.model.", "lora_A.weight", "lora_B.weight"),
            "SD 1.5",
            "LoRA",
            "PEFT",
            ("no", "no", "no"),
        ),
        (
            {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.randn(4, 3072)},
            "Flux",
            "LoRA",
            "kohya",
            ("not known", "not known", "not known"),
        ),
    ],
)
def test_describe_any_kind(tmp_path, tensors, family, kind, naming, loads):
    info = kohya.describe(saved(tmp_path, tensors))
    assert (info.family, info.kind, info.naming) == (family, kind, naming)
    assert (info.tools["A1111, Forge"], info.tools["ComfyUI"], info.tools["diffusers"]) == loads
    assert sum(info.modules.values()) >= 1 and "other" not in info.modules
    assert list(info.lines())


@pytest.mark.parametrize(
    ("tensors", "metadata", "warning"),
    [
        (module(TO_K, alpha=None), {}, "no alpha"),
        ({**module(TO_K), "lora_unet_x.lora_down.weight": torch.randn(4, 8)}, {}, "lacks its lora_up"),
        ({**module(TO_K), f"{TO_K}.dora_scale": torch.ones(320, 1)}, {}, "10 % off"),
        (module(TO_K), {"sshs_model_hash": "0" * 64}, "changed afterwards"),
        (module(XL_TO_K, inputs=2048), {"ss_base_model_version": "sd_v1"}, "another base"),
    ],
)
def test_describe_warns(tmp_path, tensors, metadata, warning):
    info = kohya.describe(saved(tmp_path, tensors, metadata))
    assert any(warning in sentence for sentence in info.warnings)


def test_metadata_of_strangers_never_breaks_describe(tmp_path):
    for value in ("", "null", "[1, 2]", "{", '{"a": [1]}', '{"a": {"b": "c", "img_count": "many"}}', "7"):
        metadata = dict.fromkeys(("ss_tag_frequency", "ss_dataset_dirs", "ss_bucket_info"), value)
        info = kohya.describe(saved(tmp_path, module(TO_K), metadata))
        assert info.triggers == ()


def test_triggers_are_the_tags_of_every_picture(tmp_path):
    metadata = kohya.training_metadata(validate({"name": "x"}, "test"), facts())
    assert kohya.describe(saved(tmp_path, module(TO_K), metadata)).triggers == ("moss",)


def test_what_is_no_lora(tmp_path):
    with pytest.raises(UserError, match="is not a LoRA"):
        kohya.describe(saved(tmp_path, {"first_stage_model.decoder.conv_in.weight": torch.zeros(3)}))
    with pytest.raises(UserError, match="is not a LoRA"):
        kohya.describe(saved(tmp_path, {}))


def test_describe_needs_no_torch(tmp_path):
    path = saved(tmp_path, module(TO_K))
    code = f"import sys, trainer.kohya as k; print(k.describe({str(path)!r}).kind, 'torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "LoRA False"
