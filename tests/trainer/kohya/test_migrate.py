"""Moving in from kohya: every argument is accounted for, and what goes out comes back the same."""

import json
import shlex
import sys
import tomllib

import pytest
import torch
import trainees
from hypothesis import given
from hypothesis import strategies as st

from trainer import __main__ as command_line
from trainer import blocks, kohya, presets
from trainer.config import settings
from trainer.errors import UserError
from trainer.examples import load_examples
from trainer.kohya import arguments as known
from trainer.kohya.calls import as_kohya
from trainer.kohya.migrate import translate
from trainer.kohya.sources import read_source
from trainer.loop import train

GUI = {
    "LoRA_type": "Standard",
    "bucket_no_upscale": True,
    "cache_latents": True,
    "caption_extension": "",
    "clip_skip": "2",
    "conv_dim": 32,
    "enable_bucket": False,
    "epoch": 8,
    "keep_tokens": "1",
    "learning_rate": 0.0005,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup": 10,
    "max_resolution": "512,768",
    "max_train_epochs": "",
    "max_train_steps": "",
    "min_snr_gamma": 0,
    "mixed_precision": "no",
    "multires_noise_discount": 0,
    "network_alpha": 8,
    "network_dim": 16,
    "noise_offset_type": "Original",
    "optimizer": "prodigy",
    "optimizer_args": "weight_decay=0.01 betas=0.9,0.99",
    "save_precision": "float",
    "seed": "1234",
    "text_encoder_lr": 0,
    "train_batch_size": 4,
    "train_data_dir": "./img",
    "unet_lr": 0.0001,
    "wandb_api_key": "hunter2",
    "weighted_captions": True,
    "xformers": "xformers",
    "additional_parameters": "--v_pred_like_loss 0.1",
    "something_new": 3,
}


def imported(folder, name, text):
    path = folder / name
    path.write_text(text)
    return translate(read_source(path))


def test_a_gui_file_is_read_as_the_gui_reads_it(tmp_path):
    made = imported(tmp_path, "mine.json", json.dumps(GUI))
    assert made.values == {
        "adapter.alpha": 8.0,
        "adapter.rank": 16,
        "adapter.save_precision": "fp32",
        "adapter.text_encoder": False,  # a text encoder's rate of 0 leaves it out
        "data.bucket_max": 1024,  # not said, and sd-scripts' own default
        "data.folder": "./img",
        "data.keep_tokens": 1,
        "data.resolution": 624,  # the side of the square of that area
        "data.shuffle_tags": False,
        "data.upscale": False,
        "loop.batch_size": 4,
        "loop.epochs": 8,
        "loop.seed": 1234,
        "loss.min_snr_gamma": 0.0,
        "loss.v_prediction_like": 0.1,
        "model.attention": "xformers",
        "model.clip_skip": 2,
        "model.precision": "fp32",
        "optimizer.args": "weight_decay=0.01 betas=0.9,0.99",
        "optimizer.learning_rate": 0.0001,
        "optimizer.name": "Prodigy",
        "optimizer.schedule": "constant",
        "optimizer.warmup": 0.1,
    }
    assert {line.name for line in made.unequal} == {"enable_bucket", "weighted_captions", "something_new"}


def test_nothing_is_dropped_and_no_secret_is_told(tmp_path):
    made = imported(tmp_path, "mine.json", json.dumps(GUI))
    told = {line.name for line in (*made.mapped, *made.ignored, *made.unequal)}
    assert GUI.keys() - told == {"additional_parameters"}  # told by the names of what is in it
    assert "hunter2" not in str(made)
    assert all(line.what for line in (*made.mapped, *made.ignored, *made.unequal))


TRAINING = """
[model_arguments]
pretrained_model_name_or_path = "model.safetensors"
[training_arguments]
max_train_steps = 1600
learning_rate = 2e-4
lr_warmup_steps = 85
optimizer_type = "AdamW8bit"
optimizer_args = ["weight_decay=0.1", "betas=.9,.99"]
network_dim = 5000
network_args = ["conv_dim=4"]
dataset_config = "data.toml"
"""
DATASET = """
[general]
shuffle_caption = true
[[datasets]]
resolution = [768, 768]
batch_size = 3
[[datasets.subsets]]
image_dir = "pictures/moss"
class_tokens = "moss cat"
num_repeats = 4
[[datasets.subsets]]
image_dir = "pictures/fern"
class_tokens = "moss cat"
num_repeats = 6
"""


def test_a_training_file_with_its_dataset(tmp_path):
    (tmp_path / "data.toml").write_text(DATASET)
    made = imported(tmp_path, "train.toml", TRAINING)
    assert made.values["optimizer.learning_rate"] == made.values["optimizer.text_encoder_learning_rate"] == 2e-4
    assert made.values["optimizer.warmup"] == 85
    assert made.values["loss.min_snr_gamma"] == 0  # left out there, and that is off
    assert made.values["data.resolution"] == 768
    assert made.values["loop.batch_size"] == 3
    assert (made.values["data.trigger"], made.values["data.class_word"]) == ("moss", "cat")
    assert (made.values["data.folder"], made.values["data.repeats"]) == ("pictures/moss", 4)
    assert made.values["data.more_folders"] == ("pictures/fern*1.5",)
    reasons = {line.name: line.what for line in made.unequal}
    assert made.values["loop.max_steps"] == 1600
    assert "1024" in reasons["network_dim"]
    assert "num_repeats" not in reasons


SUBSETS = """
[general]
caption_extension = ".txt"
bucket_reso_steps = 32
min_bucket_reso = 32
[[datasets]]
resolution = 64
  [[datasets.subsets]]
  image_dir = "10_moss girl"
  num_repeats = 3
  [[datasets.subsets]]
  image_dir = "hats"
  num_repeats = 7
  keep_tokens = 2
  [[datasets.subsets]]
  image_dir = "5_two"
  num_repeats = 5
  [[datasets.subsets]]
  image_dir = "regular"
  is_reg = true
  [[datasets]]
  resolution = 64
  [[datasets.subsets]]
  image_dir = "hats"
  num_repeats = 2
"""


def test_every_folder_of_a_dataset_counts_as_often_as_there(tmp_path, monkeypatch):
    """Also where a folder's name says other repeats: it counts here, and not in a dataset file."""
    monkeypatch.chdir(tmp_path)
    for name in ("10_moss girl", "hats", "5_two", "regular"):
        trainees.draw_pictures(tmp_path / name, [(64 + 8 * len(name), 64)])
    made = imported(tmp_path, "data.toml", SUBSETS)
    config = presets.layer(made.values)
    assert {e.folder: e.repeats for e in load_examples(config.data) if e.role == "training"} == {
        "hats": 9, "10_moss girl": 3, "5_two": 5
    }  # fmt: skip
    assert made.values["data.regularisation"] == "regular"
    (one,) = made.unequal
    assert (one.name, one.value) == ("keep_tokens", "left out, 2, left out, left out")
    assert imported(tmp_path, "again.sh", as_kohya(config, family="sd15")).values["data.more_folders"] == (
        config.data.more_folders
    )


def test_a_folder_whose_name_contradicts_its_file_is_told(tmp_path):
    one = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "img/10_moss"\nnum_repeats = 3\n'
    made = imported(tmp_path, "data.toml", one)
    assert "data.repeats" not in made.values
    assert "says 10 here: rename" in next(line.what for line in made.unequal if line.name == "num_repeats")


def test_a_dataset_file_that_the_gui_names_is_read(tmp_path):
    (tmp_path / "data.toml").write_text(SUBSETS)
    made = imported(tmp_path, "mine.json", json.dumps(GUI | {"dataset_config": "data.toml", "train_data_dir": ""}))
    assert made.values["data.folder"] == "hats" and len(made.values["data.more_folders"]) == 2
    assert made.values["adapter.rank"] == 16


def test_sub_folders_in_kohyas_way_are_folders_of_the_dataset_file(tmp_path):
    for name in ("10_moss girl", "3_hat"):
        trainees.draw_pictures(tmp_path / "img" / name, [(64 + 8 * len(name), 64)])
    script = as_kohya(presets.layer({"data.folder": str(tmp_path / "img"), "model.quantize": "nf4"}), family="sd15")
    assert script.count("[[datasets.subsets]]") == 2
    subsets = tomllib.loads(script.split("<<'TOML'\n")[1].split("\nTOML")[0])["datasets"][0]["subsets"]
    assert [(s["num_repeats"], s["class_tokens"]) for s in subsets] == [(10, "moss girl"), (3, "hat")]
    assert "like model.quantize = nf4" in script and "fp8_base" not in script


def test_a_dataset_alone_says_nothing_about_training(tmp_path):
    made = imported(tmp_path, "data.toml", DATASET)
    assert {path.partition(".")[0] for path in made.values} == {"data", "loop"}
    assert "loop.epochs" not in made.values


def test_a_script_of_any_shell(tmp_path):
    call = "accelerate launch sdxl_train_network.py {0}\n  --network_dim=8 {0}\n  --sdpa --learning_rate 1e-3 {0}\n"
    for name, mark in {"a.sh": "\\", "b.bat": "^", "c.ps1": "`"}.items():
        made = imported(tmp_path, name, call.format(mark) + '  --output_name "my moss" --network_train_unet_only\n')
        assert made.values["adapter.rank"] == 8
        assert made.values["model.attention"] == "sdpa"
        assert made.values["adapter.text_encoder"] is False
        assert made.values["name"] == "my moss"


def test_our_own_file_tells_its_settings(tmp_path, folders):
    """The metadata of a LoRA that was trained here, which is what sd-scripts writes."""
    args = "weight_decay=0.1 betas=0.9,0.99"
    run = trainees.make_run(tmp_path, folders["sd15"], loop__epochs=1, optimizer__args=args)
    train(run)
    values = translate(read_source(run.epochs()[0].path)).values
    config = presets.flatten(run.config.model_dump())
    same = [path for path in values if path != "data.bucket_min"]  # the file has it as it is used at this size
    assert {path: values[path] for path in same} == {path: config[path] for path in same}
    told = {"adapter.rank", "optimizer.args", "optimizer.name", "data.repeats", "loop.epochs", "loss.min_snr_gamma"}
    assert told <= values.keys()


CHANGED = {
    "name": "moss",
    "model.base": "models/my base.safetensors",
    "model.clip_skip": 2,
    "model.precision": "fp32",
    "data.folder": "pictures/moss",
    "data.trigger": "moss",
    "data.class_word": "cat",
    "data.upscale": False,
    "data.repeats": 3,
    "data.more_folders": ["pictures/10_fern*0.3", "more"],
    "model.quantize": "fp8",
    "data.caption_dropout": 0.05,
    "adapter.text_encoder": False,
    "adapter.save_precision": "fp32",
    "optimizer.name": "Prodigy",
    "optimizer.args": "weight_decay=0.1 betas=0.9,0.99",
    "optimizer.learning_rate": 1.0,
    "optimizer.warmup": 0.1,
    "optimizer.text_encoder_2_learning_rate": 1.0,
    "loss.kind": "l1",
    "loss.debiased": True,
    "loss.min_snr_gamma": 0.0,
    "loss.zero_terminal_snr": True,
    "loop.batch_size": 3,
    "loop.max_grad_norm": 0.0,
}


@pytest.mark.parametrize("name", [*sorted(presets.find()), ""])
def test_out_and_in_again_is_the_same(name, tmp_path):
    config = presets.layer(presets.load(name).values if name else {}, CHANGED if not name else {"data.folder": "x"})
    made = imported(tmp_path, "train.sh", as_kohya(config, family="sd15"))
    back = presets.flatten(presets.layer(made.values).model_dump())
    there = {entry.path for entry in settings() if entry.kohya} - {"model.attention"} | {
        "data.more_folders"
    }  # auto is sdpa there
    ours = presets.flatten(config.model_dump())
    assert {path: back[path] for path in there} == {path: ours[path] for path in there}
    assert not made.unequal


@pytest.mark.parametrize("xl", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        {"optimizer.text_encoder_learning_rate": 1e-5, "optimizer.text_encoder_2_learning_rate": 2e-5},
        {"optimizer.block_learning_rates": "IN04=0.5,MID=0,OUT00-OUT05=2"},
        {"data.mask_folder": "masks"},
        {"adapter.kind": "lokr", "adapter.targets": "attention"},
        {"adapter.kind": "loha"},
        {"adapter.kind": "dora", "adapter.conv_rank": 4, "adapter.conv_alpha": 2.0},
        {"optimizer.schedule": "cosine", "optimizer.schedule_floor": 0.1},
        {"optimizer.schedule": "warmup_stable_decay", "optimizer.schedule_floor": 0.1},
        {"loss.noise_prediction_like": True, "loss.min_snr_gamma": 0.0},
    ],
)
def test_a_setting_in_words_of_its_own_goes_out_and_in_again(values, xl, tmp_path):
    config = presets.layer({"data.folder": "x"} | values)
    script = as_kohya(config, family="sdxl" if xl else "sd15")
    assert "Nothing in sd-scripts is like" not in script
    back = imported(tmp_path, "train.sh", script)
    found = presets.flatten(presets.layer(back.values).model_dump())
    rates = "optimizer.block_learning_rates"
    for path, value in values.items():
        if path == rates:
            wanted, read = (blocks.parse(text, path) for text in (value, found[path]))
            assert {name: rate for name, rate in read.items() if rate != 1} == wanted
        else:
            assert found[path] == value
    assert found["adapter.conv_rank"] == config.adapter.conv_rank and not back.unequal


def test_the_loss_is_masked_there_too():
    assert "--masked_loss" in as_kohya(presets.layer({"data.folder": "x", "data.mask_folder": "masks"}), family="sd15")
    assert "--masked_loss" not in as_kohya(presets.layer({"data.folder": "x"}), family="sd15")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--use_8bit_adam", {"optimizer.name": "AdamW8bit"}),
        ("--use_lion_optimizer", {"optimizer.name": "Lion"}),
        ("--fp8_base_unet", {"model.quantize": "fp8"}),
        ("--text_encoder_lr 1e-5 2e-5", {"optimizer.text_encoder_2_learning_rate": 2e-5}),
        ("--network_args up_lr_weight=1,1,0.5",
         {"optimizer.block_learning_rates": ", ".join(
             f"{name}={'0.5' if name == 'OUT02' else 1}" for name in blocks.NAMES)}),
        ("--lr_scheduler cosine_with_min_lr --lr_scheduler_min_lr_ratio 0.1",
         {"optimizer.schedule": "cosine", "optimizer.schedule_floor": 0.1}),
        ("--network_module lycoris.kohya --network_args algo=loha",
         {"adapter.kind": "loha", "adapter.conv_rank": 16, "adapter.conv_alpha": 8.0}),
        ("--network_module lycoris.kohya --network_args algo=loha preset=attn-mlp",
         {"adapter.kind": "loha", "adapter.conv_rank": 0}),
        ("--network_module lycoris.kohya --network_args algo=lora preset=attn-only",
         {"adapter.kind": "lora", "adapter.targets": "attention"}),
        ("--network_module lycoris.kohya --network_args algo=lokr --network_dim 100000",
         {"adapter.kind": "lokr", "adapter.rank": 1024}),
    ],
)  # fmt: skip
def test_what_people_write_for_sd_scripts_is_read(words, expected, tmp_path):
    made = imported(tmp_path, "train.sh", f"python train_network.py --network_dim 16 --network_alpha 8 {words}")
    assert {path: made.values[path] for path in expected if made.values.get(path)} == {
        path: value for path, value in expected.items() if value
    }
    assert not made.unequal


def test_block_rates_that_are_no_numbers_are_told(tmp_path):
    made = imported(
        tmp_path, "train.sh", "python train_network.py --network_dim 4 --network_args down_lr_weight=cosine+.25"
    )
    assert [line.name for line in made.unequal] == ["down_lr_weight"]


def test_what_sd_scripts_cannot_say_is_said():
    script = as_kohya(presets.layer({"loss.p2_gamma": 1.0, "name": "a b"}), family="sdxl")
    assert "# Nothing in sd-scripts is like loss.p2_gamma = 1.0" in script
    assert "sdxl_train_network.py" in script
    assert "cat > a-b-dataset.toml" in script
    call = shlex.split(script[script.index("accelerate launch") :])
    assert "--output_name=a b" in call


def test_every_exception_names_a_setting_that_is_there():
    paths = {entry.path for entry in settings()}
    assert {path for path, _ in known.READ.values()} <= paths
    assert known.WRITE.keys() <= paths
    names = {alias for entry in settings() for alias in entry.kohya}
    assert known.DEFAULTS.keys() <= names | known.READ.keys()


# ── whatever the file holds ─────────────────────────────────────────────────────────────────────────────

NAMES = sorted({alias for entry in settings() for alias in entry.kohya} | known.READ.keys() | known.NEEDLESS.keys())
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANY = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
WILD = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=12), ANY, max_size=12)


def whole_or_one_sentence(path):
    """Either every argument is accounted for and the preset loads, or a UserError with one sentence."""
    try:
        made = translate(read_source(path))
    except UserError as error:
        assert "\n" not in str(error).strip()
        return
    presets.layer(made.values)
    path.with_suffix(".made.toml").write_text(made.as_toml("x"), encoding="utf-8")
    presets.load(str(path.with_suffix(".made.toml")))


@given(values=WILD)
def test_no_json_crashes(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("wild") / "a.json"
    path.write_text(json.dumps(values))
    whole_or_one_sentence(path)


@given(values=st.dictionaries(st.sampled_from(NAMES), PLAIN.map(str), max_size=12))
def test_no_metadata_crashes(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("wild") / "a.safetensors"
    tensors = {"lora_unet_x.lora_down.weight": torch.zeros(1, 1)}
    try:
        kohya.write(path, tensors, {f"ss_{name}": value for name, value in values.items()})
    except Exception:  # a text that no safetensors file can hold
        return
    whole_or_one_sentence(path)


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
@pytest.mark.parametrize("suffix", [".json", ".toml", ".safetensors", ".sh", ""])
def test_no_bytes_crash(suffix, content, tmp_path_factory):
    path = tmp_path_factory.mktemp("wild") / f"a{suffix}"
    path.write_bytes(content)
    whole_or_one_sentence(path)


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.json", '{"workflow": {"nodes": []}}', "no setting of kohya's"),
        ("a.json", "[1, 2]", "no settings of the kohya_ss GUI"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.toml", "[project]\nversion = '1'", "no setting of kohya's"),
        ("a.toml", "[adapter]\nrank = 4", "a preset already"),
        ("a.toml", "network_dim = 4\ndataset_config = 'gone.toml'", "gone.toml"),
        ("a.txt", "Dear diary", "no settings file"),
    ],
)
def test_a_foreign_file_gets_one_sentence(name, text, word, tmp_path):
    with pytest.raises(UserError, match=word):
        imported(tmp_path, name, text)


def test_the_command_writes_a_preset_and_never_over_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps(GUI))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["lora-studio", "import", *words])
        command_line.main()
        return " ".join(capsys.readouterr().out.split())

    assert "presets/mine.toml" in call("mine.json")
    assert presets.load("mine").values["adapter.rank"] == 16
    before = (tmp_path / "presets" / "mine.toml").read_bytes()
    with pytest.raises(SystemExit):
        call("mine.json")
    assert (tmp_path / "presets" / "mine.toml").read_bytes() == before
    assert "Without equal" in call("mine.json", "--to", "presets/other.toml")
