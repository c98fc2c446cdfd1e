"""A run as a call of sd-scripts: what it is told means the same there, and comes back the same."""

import re
import tomllib

import pytest
import trainees

from trainer import presets
from trainer.kohya.arguments import parse_override
from trainer.kohya.calls import BASH, POWERSHELL, as_kohya
from trainer.kohya.migrate import translate
from trainer.kohya.scripts import options
from trainer.kohya.sources import read_source

# What train_network.py and sdxl_train_network.py of kohya-ss/sd-scripts know (library/train_util.py,
# library/custom_train_functions.py, train_network.py), of what a run here could want to say.
THERE = set(
    "pretrained_model_name_or_path v2 v_parameterization vae clip_skip mixed_precision full_bf16 no_half_vae fp8_base "
    "torch_compile sdpa "
    "xformers gradient_checkpointing network_module network_dim network_alpha network_dropout network_args "
    "network_weights network_train_unet_only scale_weight_norms save_precision optimizer_type optimizer_args "
    "unet_lr text_encoder_lr lr_scheduler lr_scheduler_num_cycles lr_scheduler_power lr_decay_steps lr_warmup_steps "
    "min_snr_gamma loss_type huber_c huber_schedule debiased_estimation_loss v_pred_like_loss noise_offset "
    "multires_noise_iterations multires_noise_discount ip_noise_gamma min_timestep max_timestep zero_terminal_snr "
    "prior_loss_weight masked_loss max_train_epochs max_train_steps gradient_accumulation_steps max_grad_norm seed "
    "output_name output_dir dataset_config cache_latents save_model_as save_every_n_epochs max_token_length "
    "validation_split".split()
)
# What a dataset file may hold; anything else is refused (library/config_util.py).
DATASET = set("resolution batch_size min_bucket_reso max_bucket_reso bucket_reso_steps bucket_no_upscale".split())
SUBSET = set(
    "image_dir num_repeats class_tokens is_reg shuffle_caption keep_tokens keep_tokens_separator secondary_separator "
    "enable_wildcard caption_prefix caption_suffix caption_extension caption_dropout_rate caption_tag_dropout_rate "
    "caption_dropout_every_n_epochs flip_aug color_aug random_crop alpha_mask conditioning_data_dir".split()
)
EVERYTHING = {
    "name": "my moss", "model.base": "C:\\bases\\it's.safetensors", "model.vae": "v.safetensors", "model.clip_skip": 2,
    "model.full_bf16": True, "model.no_half_vae": True, "model.quantize": "fp8", "model.compile": True,
    "model.attention": "xformers", "model.gradient_checkpointing": True, "data.folder": "pictures/moss girl",
    "data.trigger": "moss", "data.class_word": "cat", "data.flip": True, "data.random_crop": True,
    "data.colour_shift": True, "data.alpha_mask": True, "data.secondary_separator": ";;;", "data.caption_prefix": "a, ",
    "data.caption_suffix": ", b", "data.wildcards": True, "data.tag_dropout": 0.1, "data.caption_dropout": 0.1,
    "data.caption_dropout_every": 3, "data.max_tokens": 150, "data.validation_split": 0.1, "data.upscale": False,
    "adapter.dropout": 0.1, "adapter.rank_dropout": 0.1, "adapter.module_dropout": 0.1,
    "adapter.scale_weight_norms": 1.0, "adapter.start_from": "a b.safetensors",
    "optimizer.args": "weight_decay=0.1 decouple=true betas=(0.9, 0.99)",
    "optimizer.text_encoder_2_learning_rate": 1e-5, "optimizer.schedule": "constant", "optimizer.warmup": 0.1,
    "optimizer.lora_plus_ratio": 4.0, "loss.kind": "huber", "loss.huber_c": 0.2, "loss.huber_schedule": "constant",
    "loss.debiased": True, "loss.v_prediction_like": 0.1, "loss.noise_offset": 0.05, "loss.multires_iterations": 6,
    "loss.input_perturbation": 0.1, "loss.min_timestep": 10, "loss.max_timestep": 900, "loss.zero_terminal_snr": True,
    "loss.prior_weight": 0.5, "loop.gradient_accumulation": 2, "loop.max_grad_norm": 0.5, "loop.max_steps": 100,
}  # fmt: skip


def call_of(script):
    return options(re.sub(r"[\\`]\n", " ", script[script.index("accelerate launch") :]))


def dataset_of(script):
    return tomllib.loads(re.search(r"(?:<<'TOML'|@')\n(.*?)\n(?:TOML|'@)", script, flags=re.DOTALL)[1])


def back(script, folder, name="again.sh"):
    (folder / name).write_text(script, encoding="utf-8")
    made = translate(read_source(folder / name))
    return presets.layer(made.values), made


@pytest.mark.parametrize("xl", [False, True])
@pytest.mark.parametrize("name", [*sorted(presets.find()), ""])
def test_nothing_is_said_that_sd_scripts_does_not_know(name, xl):
    values = {"data.folder": "x"} | presets.load(name).values if name else EVERYTHING
    script = as_kohya(presets.layer(values), family="sdxl" if xl else "sd15")
    assert call_of(script).keys() - {"num_cpu_threads_per_process"} <= THERE
    (dataset,) = dataset_of(script)["datasets"]
    assert dataset.keys() - {"subsets"} <= DATASET
    assert all(subset.keys() <= SUBSET for subset in dataset["subsets"])


@pytest.mark.parametrize("shell", [BASH, POWERSHELL])
def test_everything_comes_back_from_either_shell(shell, tmp_path):
    config = presets.layer(EVERYTHING)
    script = as_kohya(config, family="sdxl", shell=shell)
    assert call_of(script)["optimizer_args"] == ["weight_decay=0.1", "decouple=True", "betas=(0.9, 0.99)"]
    again, made = back(script, tmp_path, "again.sh" if shell is BASH else "again.ps1")
    changed = {path: value for path, value in presets.flatten(again.model_dump()).items() if path in EVERYTHING}
    assert changed == EVERYTHING | {"optimizer.args": "weight_decay=0.1 decouple=True betas=(0.9, 0.99)"}
    assert not made.unequal


@pytest.mark.parametrize("kind", ["lora", "locon", "dora", "loha", "lokr"])
@pytest.mark.parametrize("conv_rank", [0, 4])
@pytest.mark.parametrize("more", [{}, {"adapter.targets": "attention"}, {"adapter.rslora": True}])
def test_each_kind_comes_back_with_its_convolutions(kind, conv_rank, more, tmp_path):
    config = presets.layer({"adapter.kind": kind, "adapter.conv_rank": conv_rank if kind != "lora" else 0} | more)
    again, made = back(as_kohya(config, family="sd15"), tmp_path)
    ours, theirs = config.adapter, again.adapter
    if more.get("adapter.targets"):  # LyCORIS' preset for attention leaves convolutions out
        assert (theirs.kind, theirs.targets, theirs.conv_rank) == ("lora" if kind == "locon" else kind, "attention", 0)
    else:
        assert (theirs.kind, theirs.targets, theirs.rslora) == (kind, ours.targets, ours.rslora)
        assert (theirs.conv_rank or 0) == (ours.conv_rank or (ours.rank if kind == "locon" else 0))
        assert theirs.conv_alpha in (0, ours.alpha / ours.rank * theirs.conv_rank)
    assert not made.unequal


@pytest.mark.parametrize("xl", [False, True])
def test_settings_by_block_are_lists_in_kohyas_order(xl, tmp_path):
    blocks = {"adapter.block_ranks": "IN04=4, OUT00-OUT02=0", "optimizer.block_learning_rates": "MID=0.5, IN01=0"}
    config = presets.layer(blocks | {"adapter.rank": 16, "adapter.alpha": 8})
    script = as_kohya(config, family="sdxl" if xl else "sd15")
    said = dict(pair.split("=") for pair in call_of(script)["network_args"])
    dims = said["block_dims"].split(",")
    assert (len(dims), dims[5 if xl else 4]) == ((23, "4") if xl else (25, "4"))
    assert said["block_alphas"].split(",")[5 if xl else 4] == "2"  # the same share of the dim
    assert [len(said[f"{side}_lr_weight"].split(",")) for side in ("down", "mid", "up")] == (
        [9, 3, 9] if xl else [12, 1, 12]
    )
    again, made = back(script, tmp_path)
    for block in ("IN00", "IN01", "MID", "OUT03"):
        assert again.learning_rate("unet", block) == config.learning_rate("unet", block)
    assert not made.unequal


def test_what_means_something_else_there_is_written_as_it_is_meant(tmp_path):
    """A warm-up is refused for `constant`, AdaFactor sets its own rate unless told not to, CAME needs its module, and
    75 tokens are no choice."""
    values = {"optimizer.schedule": "constant", "optimizer.warmup": 0.1, "data.max_tokens": 75}
    call = call_of(as_kohya(presets.layer(values | {"optimizer.name": "AdaFactor"}), family="sd15"))
    assert call["lr_scheduler"] == "constant_with_warmup"
    assert "relative_step=False" in call["optimizer_args"]
    assert "max_token_length" not in call
    call = call_of(as_kohya(presets.layer({"optimizer.name": "CAME"}), family="sd15"))
    assert call["optimizer_type"] == "came_pytorch.CAME"
    script = as_kohya(presets.layer({"optimizer.schedule": "rex", "data.validation_split": 2}), family="sd15")
    assert "like optimizer.schedule = rex" in script and "like data.validation_split = 2" in script
    assert "lr_scheduler" not in call_of(script)
    assert "cache_latents" not in call_of(as_kohya(presets.layer({"data.random_crop": True}), family="sd15"))


@pytest.mark.parametrize(("family", "v"), [("sd2", True), ("sd2", False), ("sdxl", True), ("sd15", False)])
def test_what_sd_scripts_must_be_told_of_the_base(family, v, tmp_path):
    noise = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True} if v else {}
    script = as_kohya(presets.layer({}), family=family, noise=noise)
    call = call_of(script)
    assert call.keys() - {"num_cpu_threads_per_process"} <= THERE
    assert [name in call for name in ("v2", "v_parameterization", "zero_terminal_snr")] == [family == "sd2", v, v]
    again, _ = back(script, tmp_path)
    assert (again.model.prediction, again.loss.zero_terminal_snr) == ("v_prediction" if v else "auto", v)
    said = presets.layer({"model.prediction": "epsilon"})
    assert "v_parameterization" not in call_of(as_kohya(said, family=family, noise=noise))


def test_masks_make_another_kind_of_dataset(tmp_path):
    for name in ("moss", "cats"):
        trainees.draw_pictures(tmp_path / name, [(64, 64)])
    values = {
        "data.folder": str(tmp_path / "moss"), "data.regularisation": str(tmp_path / "cats"), "data.trigger": "moss",
        "data.mask_folder": "masks",
    }  # fmt: skip
    script = as_kohya(presets.layer(values), family="sd15")
    (subset,) = dataset_of(script)["datasets"][0]["subsets"]
    assert subset["conditioning_data_dir"] == "masks" and "class_tokens" not in subset
    assert call_of(script)["masked_loss"] is True
    assert "like data.regularisation" in script


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("mixed_precision=no", "model.precision", "fp32"),
        ("network_train_unet_only=true", "adapter.text_encoder", False),
        ("bucket_no_upscale=true", "data.upscale", False),
        ("xformers=true", "model.attention", "xformers"),
        ("v_parameterization=true", "model.prediction", "v_prediction"),
        ("resolution=512,512", "data.resolution", 512),
        ("lr_warmup=ten", "optimizer.warmup", "ten"),
        ("network_dim=16", "adapter.rank", 16),
        ("adapter.rank=16", "adapter.rank", 16),
    ],
)
def test_an_option_is_read_as_kohya_writes_it(text, path, value):
    assert parse_override(text) == (path, value)
