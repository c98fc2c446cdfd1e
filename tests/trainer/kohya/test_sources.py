"""Settings files as people keep them: each value is read as the tool that the file is made for would read it."""

import json

import pytest
import torch

from trainer import kohya, presets
from trainer.errors import UserError
from trainer.kohya.calls import as_kohya
from trainer.kohya.migrate import translate
from trainer.kohya.sources import read_source
from trainer.optimizers import check_args


def imported(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    made = translate(read_source(path))
    presets.layer(made.values)
    return made


def reasons(lines):
    return {line.name: line.what for line in lines}


# ── the GUI ─────────────────────────────────────────────────────────────────────────────────────────────

RATES = {"learning_rate": 1e-4, "unet_lr": 1e-4, "text_encoder_lr": 5e-5}
# What every JSON of the GUI holds, whatever the kind.
FIELDS = RATES | {
    "conv_dim": 8, "conv_alpha": 1, "factor": -1, "unit": 1, "use_cp": False, "train_on_input": True,
    "LyCORIS_preset": "full", "network_dim": 16, "network_alpha": 8, "dora_wd": False, "block_dims": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Standard", ("lora", 0)),
        ("Kohya LoCon", ("locon", 8)),
        ("LyCORIS/LoCon", ("locon", 8)),
        ("LyCORIS/LoHa", ("loha", 8)),
        ("LyCORIS/LoKr", ("lokr", 8)),
        ("LoRA-FA", ("lora", 0)),
    ],
)
def test_each_kind_of_the_gui_with_the_fields_that_it_looks_at(kind, expected, tmp_path):
    made = imported(tmp_path, "gui.json", FIELDS | {"LoRA_type": kind})
    config = presets.layer(made.values)
    assert (config.adapter.kind, config.adapter.conv_rank) == expected
    assert config.adapter.lokr_factor == 0
    lost = reasons(made.unequal)
    assert lost == ({"LoRA_type": "there is no such kind here; a plain LoRA is trained"} if kind == "LoRA-FA" else {})


def test_steps_outdo_the_guis_epochs_and_0_is_another_seed_each_time(tmp_path):
    more = {"epoch": 10, "max_train_epochs": 0, "max_train_steps": 1600, "seed": 0}
    made = imported(tmp_path, "gui.json", FIELDS | {"LoRA_type": "Standard"} | more)
    assert made.values["loop.max_steps"] == 1600
    assert "loop.epochs" not in made.values and "loop.seed" not in made.values
    assert reasons(made.ignored)["epoch"] == "max_train_steps says it"


def test_no_number_of_cycles_is_one_each_epoch_in_the_gui(tmp_path):
    more = {"epoch": 7, "lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": ""}
    made = imported(tmp_path, "gui.json", RATES | more)
    assert made.values["optimizer.schedule_cycles"] == 7


def test_a_preset_of_the_gui_with_a_few_fields_takes_the_others_from_the_gui(tmp_path):
    made = imported(tmp_path, "gui.json", {"LoRA_type": "Standard", "learning_rate": 1.0, "optimizer": "Prodigy"})
    assert made.values["model.precision"] == made.values["adapter.save_precision"] == "fp16"
    assert made.values["adapter.rank"] == 8
    assert "loop.max_steps" not in made.values


def test_a_lokr_of_full_dim_is_one_here(tmp_path):
    """100000 is how the field asks for a second factor that is whole; it has no alpha then."""
    more = {"LoRA_type": "LyCORIS/LoKr", "network_dim": 100000, "conv_dim": 100000, "network_alpha": 1, "factor": 6}
    made = imported(tmp_path, "gui.json", FIELDS | more | {"bucket_reso_steps": 1})
    adapter = presets.layer(made.values).adapter
    assert (adapter.rank, adapter.alpha, adapter.conv_rank, adapter.conv_alpha) == (1024, 1024, 1024, 1024)
    assert adapter.lokr_factor == 6
    assert made.values["data.bucket_step"] == 8  # the nearest that latents can be cut into


def test_quotation_marks_and_additional_parameters_of_the_gui(tmp_path):
    more = {
        "optimizer_args": '"d0=1e-5" "decouple=True"',
        "additional_parameters": '--lr_scheduler_type "CosineAnnealingLR" --lr_scheduler_args "T_max=1000"',
    }
    made = imported(tmp_path, "gui.json", RATES | {"optimizer": "Prodigy"} | more)
    assert made.values["optimizer.args"] == "d0=1e-5 decouple=True"
    assert made.values["optimizer.schedule"] == "cosine"


def test_arguments_that_the_optimizer_calls_otherwise_here(tmp_path):
    made = imported(
        tmp_path, "gui.json", RATES | {"optimizer": "DAdaptation", "optimizer_args": "decouple=True d0=1e-5"}
    )
    config = presets.layer(made.values)
    assert config.optimizer.args == "weight_decouple=True d0=1e-5"
    check_args(config.optimizer.name, config.optimizer.args)
    assert "decouple=True d0=1e-5" in as_kohya(config, family="sd15")


def test_weights_by_block_are_factors_here(tmp_path):
    side = ",".join(["0"] * 6 + ["1"] * 6)
    more = {"LoRA_type": "Standard", "down_lr_weight": side, "block_dims": ",".join(["8"] * 25), "network_alpha": 4}
    made = imported(tmp_path, "gui.json", RATES | more)
    config = presets.layer(made.values)
    assert config.learning_rate("unet", "IN05") == 0
    assert config.learning_rate("unet", "OUT03") == 1e-4
    assert config.adapter.block_alphas == ",".join(["4"] * 25)  # the network's there, a share of each dim here
    assert not made.unequal


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("flux.json", FIELDS | {"LoRA_type": "Flux1"}, "Flux1"),
        ("flux.json", FIELDS | {"flux1_checkbox": True}, "flux1_checkbox"),
        ("flux.sh", "python flux_train_network.py --network_dim 4", "flux_train_network.py"),
        ("x.toml", 'network_module = "networks.lora_sd3"\nnetwork_dim = 4', "networks.lora_sd3"),
        ("o.json", {"training_method": "LORA", "model_type": "FLUX_DEV_1", "lora_rank": 4}, "FLUX_DEV_1"),
        ("o.json", {"training_method": "FINE_TUNE", "model_type": "STABLE_DIFFUSION_15"}, "only LoRAs"),
        ("s.json", {"data_backend_config": "x.json", "learning_rate": 1e-4}, "SimpleTuner"),
        ("a.yaml", "config:\n  process:\n    - type: 'sd_trainer'\n      network: {linear: 16}", "ai-toolkit"),
    ],
)
def test_settings_of_another_kind_of_model_or_trainer_are_refused(name, content, kind, tmp_path):
    with pytest.raises(UserError, match=kind) as caught:
        imported(tmp_path, name, content)
    assert "\n" not in str(caught.value)


# ── sd-scripts ──────────────────────────────────────────────────────────────────────────────────────────

EASY = """
[[subsets]]
name = "a label"
num_repeats = 10
shuffle_caption = true
image_dir = "data/10_atla"
[general_args.args]
max_train_epochs = 2
mixed_precision = "bf16"
[general_args.dataset_args]
resolution = 768
batch_size = 2
[network_args.args]
network_dim = 8
network_alpha = 1.0
network_module = "lycoris.kohya"
[network_args.args.network_args]
conv_dim = 4
algo = "loha"
[optimizer_args.args]
optimizer_type = "LoraEasyCustomOptimizer.came.CAME"
lr_scheduler_type = "LoraEasyCustomOptimizer.RexAnnealingWarmRestarts.RexAnnealingWarmRestarts"
learning_rate = 0.0001
warmup_ratio = 0.05
[optimizer_args.args.optimizer_args]
weight_decay = 0.1
betas = "0.9,0.99"
"""


def test_a_file_of_lora_easy_training_scripts(tmp_path):
    config = presets.layer(imported(tmp_path, "easy.toml", EASY).values)
    assert (config.data.folder, config.data.repeats, config.data.shuffle_tags) == ("data/10_atla", 10, True)
    assert (config.data.resolution, config.loop.batch_size, config.loop.epochs) == (768, 2, 2)
    assert (config.adapter.kind, config.adapter.rank, config.adapter.conv_rank) == ("loha", 8, 4)
    assert (config.optimizer.name, config.optimizer.args) == ("CAME", "weight_decay=0.1 betas=0.9,0.99")
    assert (config.optimizer.schedule, config.optimizer.warmup) == ("rex", 0.05)
    assert config.name == ""


LYCORIS = 'network_module = "lycoris.kohya"\nnetwork_dim = 16\nnetwork_alpha = 8\nlearning_rate = 1e-4\n'


@pytest.mark.parametrize(
    ("arguments", "kind", "convolutions", "targets"),
    [
        ([], "locon", 0, "all"),  # its own LoRA, all convolutions with the network's dim
        (["algo=loha"], "loha", 16, "all"),
        (["algo=loha", "preset=attn-mlp"], "loha", 0, "all"),
        (["algo=lora", "preset=attn-only", "conv_dim=4"], "lora", 0, "attention"),
        (["algo=lora", "dora_wd=True", "conv_dim=4"], "dora", 4, "all"),
        (["algo=lokr", "factor=-1"], "lokr", 16, "all"),
    ],
)
def test_lycoris_learns_convolutions_unless_a_preset_leaves_them_out(arguments, kind, convolutions, targets, tmp_path):
    made = imported(tmp_path, "train.toml", LYCORIS + f"network_args = {json.dumps(arguments)}")
    adapter = presets.layer(made.values).adapter
    assert (adapter.kind, adapter.conv_rank, adapter.targets) == (kind, convolutions, targets)
    assert not made.unequal


def test_no_number_of_epochs_or_steps_is_1600_steps(tmp_path):
    assert imported(tmp_path, "a.toml", LYCORIS).values["loop.max_steps"] == 1600
    assert "loop.max_steps" not in imported(tmp_path, "a.toml", LYCORIS + "max_train_epochs = 3").values


def test_a_template_with_a_few_arguments_says_nothing_of_the_others(tmp_path):
    """Under section names that are ours by chance."""
    made = imported(tmp_path, "t.toml", '[data]\nresolution = "768,768"\nmin_bucket_reso = 256\nenable_bucket = true')
    assert made.values == {"data.resolution": 768, "data.bucket_min": 256}


def test_arguments_of_an_optimizer_that_is_not_there_go_with_it(tmp_path):
    made = imported(tmp_path, "a.toml", LYCORIS + 'optimizer_type = "Wonder"\noptimizer_args = ["d_coef=2"]')
    assert "optimizer.args" not in made.values
    assert {"optimizer_type", "optimizer_args"} <= reasons(made.unequal).keys()


def test_old_flags_for_optimizers(tmp_path):
    made = imported(tmp_path, "a.sh", "python train_network.py --network_dim 8 --use_8bit_adam --caption_extension=txt")
    assert made.values["optimizer.name"] == "AdamW8bit"
    assert made.values["data.caption_extension"] == ".txt"


BASH = """
network_dim=32   # network dim | 常用 4~128
unet_lr="1e-4"
steps="${STEPS:-900}"
case "$1" in
  women) name=a ;;
esac
name=b; name=c
data=$(mktemp -d)
extArgs=()
if [[ $clip_skip == 1 ]]; then extArgs+=("--clip_skip 2"); fi
git clone --depth 1 https://example.com/x
accelerate launch --mixed_precision=no "./sd-scripts/train_network.py" \\
  --network_dim=$network_dim --network_alpha ${network_dim} --unet_lr=$unet_lr --max_train_steps "$steps" \\
  --output_name=$name --train_data_dir="$data" \\
  --mixed_precision="fp16" --shuffle_caption "${extArgs[@]}" \\
  2>&1 | tee log.txt
"""
POWERSHELL = """
$network_dim = 32 # network dim
$unet_lr = "1e-4"
$steps = 900
$ext_args = [System.Collections.ArrayList]::new()
if ($lowram) { [void]$ext_args.Add("--clip_skip=2") }
accelerate launch --num_cpu_threads_per_process=8 "./sd-scripts/train_network.py" `
  --network_dim=$network_dim --network_alpha $network_dim --unet_lr=$unet_lr --max_train_steps $steps `
  --output_name=$name --train_data_dir="$data" `
  --mixed_precision="fp16" --shuffle_caption $ext_args
Write-Output "Train finished"
"""
BATCH = """
rem --network_dim 5
set "RANK=32"
set RATE=1e-4
set STEPS=900
if "%1"=="x" (
accelerate config --clip_skip 2
)
accelerate launch %cd%\\train_network.py ^
  --network_dim=%RANK% --network_alpha %RANK% --unet_lr=%RATE% --max_train_steps %STEPS% ^
  --output_name=%name% --train_data_dir="%data%" ^
  --mixed_precision="fp16" --shuffle_caption

pause
"""


@pytest.mark.parametrize(("name", "text"), [("a.sh", BASH), ("b.ps1", POWERSHELL), ("c.bat", BATCH)])
def test_a_script_with_variables(name, text, tmp_path):
    made = imported(tmp_path, name, text)
    assert (made.values["adapter.rank"], made.values["adapter.alpha"]) == (32, 32)
    assert made.values["optimizer.learning_rate"] == 1e-4
    assert made.values["loop.max_steps"] == 900
    assert (made.values["model.precision"], made.values["data.shuffle_tags"]) == ("fp16", True)
    lost = reasons(made.unequal)
    assert "does not say what" in lost["output_name"] and "does not say what" in lost["train_data_dir"]
    assert "outside of the call" in lost["clip_skip"]
    assert lost.keys() == {"output_name", "train_data_dir", "clip_skip"}


def test_a_dataset_that_a_script_writes_first(tmp_path):
    made = imported(
        tmp_path, "a.sh",
        'IMG=pictures\nCFG=$(mktemp)\ncat > "$CFG" <<EOF\n[[datasets]]\nresolution = 768\n[[datasets.subsets]]\n'
        'image_dir = "$IMG"\nnum_repeats = 10\nEOF\n'
        'python sdxl_train_network.py --dataset_config "$CFG" --network_dim 8',
    )  # fmt: skip
    assert (made.values["data.folder"], made.values["data.repeats"]) == ("pictures", 10)
    assert made.values["data.resolution"] == 768


# ── the metadata of a LoRA ──────────────────────────────────────────────────────────────────────────────


def test_a_lora_that_was_made_with_a_dataset_file(tmp_path):
    """Its metadata says of the pictures only what stands under ss_datasets."""
    subset = {"img_count": 20, "num_repeats": 5, "shuffle_caption": True, "keep_tokens": 2, "image_dir": "moss"}
    dataset = {
        "is_dreambooth": True, "batch_size_per_device": 3, "resolution": [768, 768], "max_bucket_reso": 1536,
        "enable_bucket": True, "tag_frequency": {}, "bucket_info": {}, "subsets": [subset],
    }  # fmt: skip
    metadata = {
        "ss_network_module": "networks.lora", "ss_network_dim": "8", "ss_network_alpha": "4.0",
        "ss_unet_lr": "0.0001", "ss_text_encoder_lr": "[5e-05, 1e-05]", "ss_num_epochs": "7", "ss_epoch": "3",
        "ss_datasets": json.dumps([dataset]), "ss_max_token_length": "225",
    }  # fmt: skip
    path = tmp_path / "moss.safetensors"
    kohya.write(path, {"lora_te1_x.lora_down.weight": torch.zeros(1, 1)}, metadata)
    made = translate(read_source(path))
    config = presets.layer(made.values)
    assert (config.data.repeats, config.data.keep_tokens, config.data.shuffle_tags) == (5, 2, True)
    assert (config.data.resolution, config.data.bucket_max, config.loop.batch_size) == (768, 1536, 3)
    assert (config.learning_rate("text_encoder"), config.learning_rate("text_encoder_2")) == (5e-5, 1e-5)
    assert (config.loop.epochs, config.data.folder) == (7, "")
    assert not made.unequal


# ── OneTrainer ──────────────────────────────────────────────────────────────────────────────────────────

ONETRAINER = {
    "__version": 6,
    "training_method": "LORA",
    "model_type": "STABLE_DIFFUSION_XL_10_BASE",
    "base_model_name": "models/sdxl.safetensors",
    "output_model_destination": "C:\\loras\\moss.safetensors",
    "output_dtype": "BFLOAT_16",
    "train_dtype": "BFLOAT_16",
    "gradient_checkpointing": "CPU_OFFLOADED",
    "concepts": [
        {
            "path": "pictures/moss", "balancing": 10.0, "enabled": True, "type": "STANDARD",
            "text": {"enable_tag_shuffling": True, "keep_tags_count": 1}, "image": {"enable_random_flip": False},
        },
        {
            "path": "pictures/fern", "balancing": 5.0,
            "text": {"enable_tag_shuffling": True, "keep_tags_count": 1}, "image": {"enable_random_flip": False},
        },
        {"path": "pictures/off", "enabled": False},
    ],
    "resolution": "1024",
    "learning_rate": 1e-4,
    "learning_rate_scheduler": "COSINE",
    "learning_rate_warmup_steps": 100,
    "epochs": 12,
    "loss_weight_fn": "MIN_SNR_GAMMA",
    "loss_weight_strength": 4.0,
    "max_noising_strength": 0.9,
    "ema": "OFF",
    "ema_decay": 0.999,
    "unet": {"train": True, "learning_rate": None, "stop_training_after": 10000, "weight_dtype": "FLOAT_16"},
    "text_encoder": {
        "train": True, "learning_rate": 3e-5, "stop_training_after": 5, "stop_training_after_unit": "EPOCH"
    },
    "text_encoder_2": {"train": False, "learning_rate": None},
    "lora_rank": 32,
    "lora_alpha": 16.0,
    "lora_decompose": True,
    "masked_training": False,
    "unmasked_weight": 0.1,
    "optimizer": {
        "optimizer": "ADAMW_8BIT", "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.01, "eps": 1e-8, "fused": False
    },
    "secrets": {"huggingface_token": "hunter2"},
}  # fmt: skip


def test_settings_of_onetrainer(tmp_path):
    made = imported(tmp_path, "o.json", ONETRAINER)
    config = presets.layer(made.values)
    assert (config.model.base, config.name) == ("models/sdxl.safetensors", "moss")
    assert (config.model.precision, config.adapter.save_precision) == ("bf16", "bf16")
    assert config.model.gradient_checkpointing
    assert (config.data.folder, config.data.repeats) == ("pictures/moss", 10)
    assert config.data.more_folders == ("pictures/fern*0.5",)
    assert (config.data.shuffle_tags, config.data.keep_tokens, config.data.flip) == (True, 1, False)
    assert (config.adapter.kind, config.adapter.rank, config.adapter.alpha) == ("dora", 32, 16)
    assert config.learning_rate("unet") == 1e-4
    assert (config.learning_rate("text_encoder"), config.learning_rate("text_encoder_2")) == (3e-5, 0)
    assert (config.optimizer.name, config.optimizer.args) == ("AdamW8bit", "weight_decay=0.01 betas=0.9,0.99")
    assert (config.optimizer.schedule, config.optimizer.warmup) == ("cosine", 100)
    assert (config.loss.min_snr_gamma, config.loss.max_timestep, config.loop.ema_decay) == (4, 900, 0)
    assert reasons(made.unequal) == {
        "text_encoder.stop_training_after": "it learns to the end here: take a lower learning rate",
        "optimizer.eps": "add it to optimizer.args where the optimizer takes it",
    }
    assert "hunter2" not in str(made)


def test_what_a_preset_of_onetrainer_leaves_out_is_its_own_default(tmp_path):
    few = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "learning_rate": 3e-4}
    made = imported(tmp_path, "o.json", few | {"resolution": "512,768"})
    config = presets.layer(made.values)
    assert (config.adapter.rank, config.adapter.alpha, config.loop.epochs) == (16, 1, 100)
    assert (config.optimizer.name, config.optimizer.schedule, config.loss.min_snr_gamma) == ("AdamW", "constant", 0)
    assert config.learning_rate("text_encoder") == 3e-4
    assert reasons(made.unequal) == {"resolution": "a run has one resolution"}


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "auto"])
def test_onetrainer_says_what_a_base_predicts(kind, tmp_path):
    said = {f"force_{word}_prediction": kind.startswith(word) for word in ("v", "epsilon")}
    made = imported(tmp_path, "o.json", ONETRAINER | said)
    assert presets.layer(made.values).model.prediction == kind
    assert not [line for line in made.unequal if "force" in line.name]


def test_the_flat_names_of_older_versions_of_onetrainer(tmp_path):
    old = {
        "training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "optimizer": "ADAMW", "weight_decay": 0.02,
        "train_text_encoder": False, "text_encoder_learning_rate": 3e-4, "unet_learning_rate": 2e-4,
        "learning_rate": 1e-4, "train_unet": True, "lora_rank": 8, "text_encoder_layer_skip": 1,
    }  # fmt: skip
    config = presets.layer(imported(tmp_path, "o.json", old).values)
    assert (config.learning_rate("unet"), config.adapter.text_encoder) == (2e-4, False)
    assert (config.optimizer.args, config.model.clip_skip) == ("weight_decay=0.02", 2)
