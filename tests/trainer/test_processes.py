"""Several processes are one trainer: the same losses, one writer, stop, and resume with another number of them.

And one renderer: a comparison's cells are divided, and one process writes grid, scores and report.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trainees
from accelerate.state import AcceleratorState
from PIL import Image, ImageChops
from safetensors.torch import load_file

from trainer import kohya, presets, processes
from trainer.cells import Evaluation
from trainer.errors import UserError
from trainer.evaluate import evaluate
from trainer.run import Run, find_runs

EXACT = {"abs": 1e-5, "rel": 1e-4}  # sums of gradients in another order


def losses_of(run: Run) -> list[float]:
    return [entry["loss"] for entry in run.metrics()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, folders):
    """One process with twice the accumulation; pictures are held back and measured."""
    root = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run = made(root, folders, loop__gradient_accumulation=2)
        assert trainees.train_in_process(run) == 0
    return run


def made(root, folders, **changes) -> Run:
    return trainees.make_run(root, folders["sd15"], data__repeats=3, data__validation_split=1, **changes)


def bytes_of(run: Run) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in load_file(run.epochs()[-1].path).items()}


EARLY = {"kill": ("open", "metrics.jsonl", 1), "by": "stop"}  # two updates later all of them stop


def same_weights(run: Run, other: Run) -> bool:
    ours, theirs = load_file(run.epochs()[-1].path), load_file(other.epochs()[-1].path)
    return all((value - theirs[key]).abs().max() < 1e-3 for key, value in ours.items())


def test_two_processes_are_one_with_twice_the_accumulation(alone, tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = made(tmp_path, folders)
    assert trainees.train_in_processes(run, 2) == [0, 0]
    assert run.status.state == "finished" and len(run.epochs()) == 2
    assert losses_of(run) == pytest.approx(losses_of(alone), **EXACT)
    assert same_weights(run, alone)
    for name in ("loss/validation", "loss/validation_trained"):
        ours, theirs = ([entry[name] for entry in one.metrics() if name in entry] for one in (run, alone))
        assert len(ours) == 2 and ours == pytest.approx(theirs, **EXACT)
    metadata = [kohya.read_header(one.epochs()[-1].path).metadata for one in (run, alone)]
    assert metadata[0]["ss_total_batch_size"] == metadata[1]["ss_total_batch_size"] == "4"
    # One writer: each step stands in the file once.
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(list((run.path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("counts", [(2, 1), (1, 2)])
def test_stopped_and_resumed_with_another_number(counts, alone, tmp_path, folders, monkeypatch):
    """The run goes on as it began, whatever it is given to go on with."""
    monkeypatch.chdir(tmp_path)
    run = made(tmp_path, folders, loop__gradient_accumulation=2 // counts[0])

    assert trainees.train_in_processes(run, counts[0], **EARLY) == [0] * counts[0]
    assert run.status.state == "stopped"
    assert trainees.train_in_processes(run, counts[1]) == [0] * counts[1]
    assert run.status.state == "finished"
    assert losses_of(run) == pytest.approx(losses_of(alone), **EXACT)
    assert same_weights(run, alone)


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}


def test_a_base_that_is_shared_out_gives_the_same_losses(alone, tmp_path, folders, monkeypatch):
    """Stopped, and gone on with in one process that holds all of the base."""
    monkeypatch.chdir(tmp_path)
    run = made(tmp_path, folders)
    assert trainees.train_in_processes(run, 2, **EARLY, **FSDP) == [0, 0]
    assert run.status.state == "stopped"
    assert trainees.train_in_processes(run, 1) == [0]
    assert losses_of(run) == pytest.approx(losses_of(alone), **EXACT)
    assert same_weights(run, alone)


def test_each_process_holds_its_share_of_the_base_alone(tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (whole, _), parts = (trainees.held_in_processes(made(tmp_path, folders), 2, **how) for how in ({}, FSDP))
    assert sum(parts) == whole and max(parts) < 0.6 * whole


@pytest.mark.parametrize("config", [{}, FSDP], ids=["whole", "shared"])
def test_several_killed_and_resumed_end_with_the_same_bytes(config, tmp_path, folders, monkeypatch):
    """With all that draws, and what reads the base's weights or goes through them another time."""
    monkeypatch.chdir(tmp_path)
    options = {"adapter__kind": "dora", "adapter__conv_rank": 2, "adapter__dropout": 0.1, "loop__ema_decay": 0.9,
               "model__gradient_checkpointing": True, "data__tag_dropout": 0.2}  # fmt: skip
    whole, killed = (trainees.make_run(tmp_path, folders["sd15"], **options) for _ in range(2))
    assert trainees.train_in_processes(whole, 2, **config) == [0, 0]
    moment = ("os.rename", "moss-000002.safetensors", 1)
    assert trainees.train_in_processes(killed, 2, kill=moment, **config)[0] == -signal.SIGKILL
    assert killed.status.state == "interrupted"
    assert trainees.train_in_processes(killed, 2, **config) == [0, 0]
    assert bytes_of(killed) == bytes_of(whole)
    lines = (killed.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(whole.metrics()) + 1))


def test_the_loss_of_another_process_before_there_is_a_run_is_one_sentence(tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainees.draw_pictures(tmp_path / "pictures", trainees.SIZES[:1])
    train = ["train", "--preset", "toybox", "--base", folders["sd15"], "--data", "pictures"]
    assert trainees.command_in_processes(train, 2, LOST="1") == [2, 9]  # and not 1, a traceback's


def test_the_loss_of_another_process_is_said(alone, tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = made(tmp_path, folders)
    codes = trainees.train_in_processes(run, 2, kill=("os.rename", "shard-", 1), VICTIM="1")
    assert codes == [1, -signal.SIGKILL]
    assert run.status.state == "failed" and "Another process of this run has ended" in run.status.message
    # Another number of them goes on as the run began, although no state had been saved yet.
    assert trainees.train_in_processes(run, 1) == [0]
    assert losses_of(run) == pytest.approx(losses_of(alone), **EXACT)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "version 1"),
        (FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
    ],
)
def test_what_accelerates_config_asks_for_in_vain_is_said(asked, said, monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    for variable, value in asked.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"asks for .*{said}, which is not supported"):
        processes.joined("fp32")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):  # one of them speaks
        processes.joined("fp32")


def test_settings_decide_and_not_accelerates_config(tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = made(tmp_path, folders, model__precision="bf16").config
    same = {"MIXED_PRECISION": "bf16", "DYNAMO_BACKEND": "no", "GRADIENT_ACCUMULATION_STEPS": "1"}
    for variable, value in same.items():
        monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    assert processes.without_effect(config) == []
    asked = {"MIXED_PRECISION": "fp16", "DYNAMO_BACKEND": "INDUCTOR", "GRADIENT_ACCUMULATION_STEPS": "4"}
    for variable, value in asked.items():
        monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    said = " ".join(processes.without_effect(config))
    assert all(f"{name}={own} decides" in said for name, own in (
        ("model.precision", "bf16"), ("model.compile", "false"), ("loop.gradient_accumulation", "1")
    ))  # fmt: skip
    # accelerate would divide every loss by four.
    AcceleratorState._reset_state(reset_partial_state=True)
    assert processes.joined("fp32").gradient_accumulation_steps == 1


def test_settings_that_need_the_whole_base_are_refused(tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = made(tmp_path, folders, adapter__module_dropout=0.1)
    assert trainees.train_in_processes(run, 2, **FSDP) == [1, 1]
    assert run.status.state == "failed" and "adapter.module_dropout does not go with FSDP" in run.status.message


PROMPTS = """
[[prompt]]
name = "one"
prompt = "[trigger], disc"
[[prompt]]
name = "two"
prompt = "disc, plain"
width = 96
height = 64
leak = true
"""


def test_two_processes_render_one_comparison(alone, tmp_path, monkeypatch):
    shutil.copytree(alone.path.parent.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "runs" / alone.name)
    for name in ("set", "other"):
        (tmp_path / f"{name}.toml").write_text(PROMPTS)
    options = {"sampler": "Euler", "steps": 2, "batch_size": 2, "seeds": (5, 6, 7), "loss_pictures": 2}
    config = run.config
    changed = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=options)})
    (run.path / "config.toml").write_text(presets.to_toml(changed.model_dump()))
    assert trainees.command_in_processes(["evaluate", run.path, "--prompts", "set.toml"], 2) == [0, 0]
    folder = run.evaluation_folder("set")
    found = Evaluation.load(folder)
    rendered = [set((tmp_path / f"rendered-{rank}.txt").read_text().split()) for rank in range(2)]
    assert len(found.cells) == 18 and all(rendered)
    assert rendered[0] | rendered[1] == {Path(cell.file).stem for cell in found.cells}
    assert len(rendered[0] & rendered[1]) <= 2  # at most the last batch, where one helped the other
    # What two made is what one makes.
    settings = changed.evaluation.model_copy(update={"prompts": "other.toml"})
    lone = evaluate(run, settings)
    for cell in found.cells:
        with Image.open(folder / cell.file) as ours, Image.open(lone.folder / cell.file) as theirs:
            assert max(high for _, high in ImageChops.difference(ours, theirs).getextrema()) <= 2
    for ours, theirs in zip(found.rows, lone.evaluation.rows, strict=True):
        assert "loss" in ours.scores and ours.scores == pytest.approx(theirs.scores, abs=2e-3)
    assert (
        json.loads((folder / "losses.json").read_text()).keys()
        == json.loads((lone.folder / "losses.json").read_text()).keys()
    )
    assert (folder / "grid.png").exists() and (folder / "report.html").exists()
    # Nothing is missing: nothing is rendered again. What one of them cannot read ends all.
    assert trainees.command_in_processes(["evaluate", run.path, "--prompts", "set.toml"], 2) == [0, 0]
    assert [set((tmp_path / f"rendered-{rank}.txt").read_text().split()) for rank in range(2)] == rendered
    assert trainees.command_in_processes(["evaluate", run.path, "--epochs", "9"], 2) == [2, 2]


# With --cpu accelerate starts one process, however many were asked for; without it, and without a card, they are two.
@pytest.mark.parametrize("way", ["--multi_gpu", "--use_fsdp --fsdp_version 2"])
def test_accelerates_own_launcher_makes_one_run(way, tmp_path, folders):
    trainees.draw_pictures(tmp_path / "pictures")
    options = {
        "data.resolution": 64, "data.bucket_step": 32, "data.bucket_min": 32, "data.repeats": 1, "loop.epochs": 1,
        "loop.batch_size": 1, "adapter.rank": 2, "adapter.alpha": 1, "adapter.text_encoder": "false",
    }  # fmt: skip
    sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "accelerate.commands.launch", *way.split(), "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "trainer", "train", "--preset", "toybox", "--base", str(folders["sd15"]), "--data", "pictures"]
    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    # The launcher leaves a folder of logs behind.
    variables = os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(tmp_path)}
    done = subprocess.run([*command, *sets], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = find_runs(tmp_path / "runs")
    assert run.status.state == "finished" and len(run.epochs()) == 1
    assert done.stdout.count("Next:") == 1  # one of them speaks
    assert run.status.progress.steps == 3 and "= 3 steps (3 per epoch)" in done.stdout  # of two batches each
    assert kohya.read_header(run.epochs()[-1].path).metadata["ss_total_batch_size"] == "2"
