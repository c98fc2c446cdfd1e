"""No setting without effect: each one, changed alone, changes what a small real run leaves behind."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import tiny
import torch
import trainees
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from trainer import kohya, presets
from trainer.cells import Prompt
from trainer.config import settings
from trainer.errors import UserError
from trainer.loop import Trainer
from trainer.places import make_cell
from trainer.record import Listener, Recorder
from trainer.run import Run

MASKED, REGULAR = {"data.mask_folder": "masks"}, {"data.regularisation": "regular"}
HUBER = {"loss.kind": "huber", "loss.huber_schedule": "snr"}

# setting -> (another value, what must be set for it to matter)
CHANGES: dict[str, tuple] = {
    "name": ("fern", {}),
    "model.base": ("sdxl", {}),
    "model.vae": ("vae", {}),
    "model.prediction": ("v_prediction", {}),
    "model.clip_skip": (2, {}),
    "model.precision": ("bf16", {}),
    "model.full_bf16": (True, {"model.precision": "bf16"}),
    "model.quantize": ("fp8", {}),
    "data.folder": ("other", {}),
    "data.more_folders": (["other"], {}),
    "data.regularisation": ("regular", {}),
    "data.trigger": ("fern", {}),
    "data.class_word": ("cat", REGULAR),
    "data.resolution": (96, {}),
    "data.repeats": (2, {}),
    "data.bucket_step": (64, {}),
    "data.bucket_min": (64, {}),
    "data.bucket_max": (64, {}),
    "data.upscale": (False, {}),
    "data.flip": (True, {}),
    "data.random_crop": (True, {}),
    "data.colour_shift": (True, {}),
    "data.variants": (2, {"data.colour_shift": True}),
    "data.alpha_mask": (True, {}),
    "data.mask_folder": ("masks", {}),
    "data.shuffle_tags": (False, {}),
    "data.keep_tokens": (3, {"data.keep_tokens_separator": ""}),
    "data.keep_tokens_separator": ("", {}),
    "data.secondary_separator": (";;;", {}),
    "data.caption_prefix": ("good,", {}),
    "data.caption_suffix": (", good", {}),
    "data.caption_extension": (".tags", {}),
    "data.wildcards": (True, {}),
    "data.tag_dropout": (0.5, {}),
    "data.caption_dropout": (0.9, {}),
    "data.caption_dropout_every": (2, {"loop.epochs": 3}),
    "data.max_tokens": (75, {}),
    "data.validation_split": (1, {}),
    "adapter.kind": ("loha", {}),
    "adapter.rank": (8, {}),
    "adapter.alpha": (4, {}),
    "adapter.rslora": (True, {}),
    "adapter.conv_rank": (2, {"adapter.kind": "locon"}),
    "adapter.conv_alpha": (2, {"adapter.kind": "locon", "adapter.conv_rank": 2}),
    "adapter.lokr_factor": (4, {"adapter.kind": "lokr"}),
    "adapter.text_encoder": (False, {}),
    "adapter.targets": ("attention", {}),
    "adapter.only": ("MID", {}),
    "adapter.block_ranks": ("MID=2", {}),
    "adapter.block_alphas": ("MID=1", {}),
    "adapter.dropout": (0.5, {}),
    "adapter.rank_dropout": (0.5, {}),
    "adapter.module_dropout": (0.5, {}),
    "adapter.scale_weight_norms": (1e-4, {}),
    "adapter.start_from": ("start.safetensors", {}),
    "adapter.start_resize": (True, {"adapter.start_from": "start.safetensors", "adapter.rank": 2}),
    "adapter.save_precision": ("fp16", {}),
    "optimizer.name": ("Lion", {}),
    "optimizer.args": ("weight_decay=0.5", {}),
    "optimizer.learning_rate": (1e-2, {}),
    "optimizer.text_encoder_learning_rate": (1e-2, {}),
    "optimizer.text_encoder_2_learning_rate": (1e-2, {"model.base": "sdxl"}),
    "optimizer.block_learning_rates": ("MID=0.1", {}),
    "optimizer.lora_plus_ratio": (16, {}),
    "optimizer.schedule": ("constant", {}),
    "optimizer.schedule_cycles": (2, {"optimizer.schedule": "cosine_with_restarts"}),
    "optimizer.schedule_power": (2, {"optimizer.schedule": "polynomial"}),
    "optimizer.schedule_decay": (0.9, {"optimizer.schedule": "warmup_stable_decay"}),
    "optimizer.schedule_floor": (0.5, {}),
    "optimizer.warmup": (2, {}),
    "loss.min_snr_gamma": (1, {}),
    "loss.kind": ("huber", {}),
    "loss.huber_c": (0.5, HUBER),
    "loss.huber_schedule": ("constant", HUBER),
    "loss.debiased": (True, {"loss.min_snr_gamma": 0}),
    "loss.v_prediction_like": (1, {}),
    "loss.noise_prediction_like": (True, {"model.base": "sd2", "loss.min_snr_gamma": 0}),
    "loss.p2_gamma": (1, {}),
    "loss.p2_k": (3, {"loss.p2_gamma": 1}),
    "loss.noise_offset": (0.1, {}),
    "loss.multires_iterations": (4, {}),
    "loss.multires_discount": (0.8, {"loss.multires_iterations": 4}),
    "loss.input_perturbation": (0.1, {}),
    "loss.min_timestep": (900, {}),
    "loss.max_timestep": (100, {}),
    "loss.zero_terminal_snr": (True, {"model.base": "sd2", "loss.min_snr_gamma": 0}),
    "loss.prior_weight": (0.1, REGULAR),
    "loss.mask_normalised": (True, MASKED),
    "loop.epochs": (2, {}),
    "loop.max_steps": (1, {}),
    "loop.batch_size": (1, {}),
    "loop.gradient_accumulation": (2, {}),
    "loop.max_grad_norm": (1e-3, {"optimizer.name": "SGD"}),
    "loop.seed": (7, {}),
    "loop.ema_decay": (0.5, {}),
}
# Those that change no number of the file -> the test that fails when they are ignored.
ELSEWHERE = {
    "model.no_half_vae": "test_precision.py::test_no_half_vae_is_obeyed",
    "model.compile": "test_precision.py::test_a_compiled_run_has_the_same_losses",
    "model.cuda_graphs": "test_precision.py::test_recorded_steps_are_the_same_and_are_asked_for",
    "model.attention": "test_every_setting.py::test_xformers_is_asked_and_its_absence_said",
    "model.gradient_checkpointing": "test_every_setting.py::test_checkpointing_recomputes_and_changes_nothing",
    "evaluation.prompts": "test_evaluate.py::test_the_grid_has_the_base_first_and_every_epoch_from_its_file",
    "evaluation.strengths": "test_evaluate.py::test_a_chosen_epoch_strength_and_seed",
    "evaluation.seeds": "test_evaluate.py::test_a_chosen_epoch_strength_and_seed",
    "evaluation.batch_size": "test_evaluate.py::test_epochs_and_strengths_share_a_batch_and_each_picture_is_the_one_"
    "rendered_alone",
    "evaluation.sampler": "test_evaluate.py::test_every_picture_says_how_it_was_made",
    "evaluation.steps": "test_evaluate.py::test_every_picture_says_how_it_was_made",
    "evaluation.cfg_scale": "test_evaluate.py::test_every_picture_says_how_it_was_made",
    "evaluation.noise_source": "test_evaluate.py::test_noise_eta_and_emphasis_are_another_picture_and_are_written",
    "evaluation.size": "test_every_setting.py::test_the_size_of_pictures_is_the_one_set_or_the_one_trained_at",
    "evaluation.loss_pictures": "test_against.py::test_losses_are_measured_as_the_settings_say",
    "evaluation.held_out": "test_against.py::test_losses_are_measured_as_the_settings_say",
    "evaluation.model_folders": "test_evaluate.py::test_loras_and_embeddings_that_a_prompt_names",
    "evaluation.embedding_folders": "test_evaluate.py::test_loras_and_embeddings_that_a_prompt_names",
}


def test_every_setting_has_a_test_that_fails_when_it_is_ignored():
    paths = {entry.path for entry in settings()}
    assert CHANGES.keys() | ELSEWHERE.keys() == paths and not CHANGES.keys() & ELSEWHERE.keys()
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert re.search(rf"^def {name}\(", (Path(__file__).parent / file).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def place(folders, tmp_path_factory):
    """A folder with everything that the values name."""
    root = tmp_path_factory.mktemp("place")
    for family, folder in folders.items():
        shutil.copytree(folder, root / family)
    tiny.vae("sd15", seed=9).save_pretrained(root / "vae")
    words = (
        "disc, round ||| number {one|two}, hat;;;bow, plain, a long caption of many letters, and of still more of them"
    )
    for name, sizes in {
        "pictures": [(96, 96), (150, 80), (40, 40)],
        "other": [(100, 90)],
        "regular": [(90, 96)],
    }.items():
        trainees.draw_pictures(root / name, sizes)
        for number, file in enumerate(sorted((root / name).glob("*.png"))):
            file.with_suffix(".txt").write_text(f"moss, {words} {number}")
            file.with_suffix(".tags").write_text(f"other words {number}")
    (root / "regular" / "00.txt").unlink()
    (root / "masks").mkdir()
    for file in (root / "pictures").glob("*.png"):
        picture = Image.open(file).convert("RGB")
        mask = Image.linear_gradient("L").resize(picture.size)
        mask.save(root / "masks" / file.name)
        picture.putalpha(mask)
        picture.save(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run = trained({"adapter.only": "MID"})
        shutil.copy(run.epochs()[0].path, root / "start.safetensors")
        yield {}


def made(changes: dict, listener: Listener | None = None) -> Trainer:
    AcceleratorState._reset_state(reset_partial_state=True)  # one process has one precision, but for tests
    values = {
        "name": "moss",
        "model.base": "sd15",
        "model.precision": "fp32",
        "data.folder": "pictures",
        "data.trigger": "moss",
        "data.resolution": 64,
        "data.bucket_step": 32,
        "data.bucket_min": 32,
        "data.caption_dropout": 0.1,
        "adapter.rank": 4,
        "adapter.alpha": 2,
        "adapter.save_precision": "fp32",
        "optimizer.name": "AdamW",
        "optimizer.learning_rate": 1e-3,
        "loop.epochs": 1,
        "loop.batch_size": 2,
    }
    config = presets.layer(values, changes)
    mixed = {"fp32": "no"}.get(config.model.precision, config.model.precision)
    run = Run.create(config)
    return Trainer(run, config, Accelerator(mixed_precision=mixed), Recorder(run, True, listener), set())


def trained(changes: dict) -> Run:
    trainer = made(changes)
    trainer.train()
    return trainer.run


def left_behind(changes: dict) -> list:
    """File names and every tensor of the epochs, or the sentence with which the run was refused."""
    try:
        run = trained(changes)
    except UserError as error:
        return [str(error)]
    return [
        (epoch.path.name, key, tensor.dtype, hashlib.sha256(tensor.view(torch.uint8).numpy()).hexdigest())
        for epoch in run.epochs()
        for key, tensor in kohya.read(epoch.path).tensors.items()
        if tensor.ndim
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", CHANGES)
def test_changed_alone_it_changes_the_run(path, place):
    """`place` remembers what is left behind without the change."""
    value, needed = CHANGES[path]
    before = place.setdefault(str(needed), None) or left_behind(needed)
    place[str(needed)] = before
    after = left_behind({**needed, path: value})
    assert after != before
    assert len(after) > 1, after  # it was not refused


def test_xformers_is_asked_and_its_absence_said(place):
    messages = []
    trainer = made({"model.attention": "xformers"}, lambda state, message, progress: messages.append(message))
    kinds = {type(processor).__name__ for processor in trainer.model.unet.attn_processors.values()}
    assert ("XFormers" in str(kinds)) != any("xformers cannot be used" in message for message in messages)
    plain = {type(processor).__name__ for processor in made({}).model.unet.attn_processors.values()}
    assert plain == {"AttnProcessor2_0"}  # torch's own SDPA


def test_the_size_of_pictures_is_the_one_set_or_the_one_trained_at():
    config = presets.layer({"data.resolution": 96})
    for size, expected in ((0, 96), (128, 128)):
        settings_ = config.evaluation.model_copy(update={"size": size})
        cell = make_cell(config, settings_, Prompt("x", "moss"), 5, "")
        assert (cell.width, cell.height) == (expected, expected)


def test_checkpointing_recomputes_and_changes_nothing(place):
    calls, files = {}, {}
    for on in (False, True):
        trainer = made({"model.gradient_checkpointing": on, "data.shuffle_tags": False})
        count = []
        trainer.model.unet.up_blocks[-1].resnets[0].register_forward_pre_hook(lambda *_, count=count: count.append(1))
        trainer.train()
        calls[on], files[on] = len(count), kohya.read(trainer.run.epochs()[0].path).tensors
    assert calls[True] == 2 * calls[False]
    assert all(torch.allclose(value, files[True][key], atol=1e-5) for key, value in files[False].items())
