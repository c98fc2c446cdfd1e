"""A run that was killed at any moment and resumed ends with the same tensor bytes as one that was not."""

import json
import signal

import pytest
import trainees
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datasets import load_from_disk
from trainer.run import Run


def tensors_of(run: Run) -> dict[int, dict[str, bytes]]:
    return {
        epoch.number: {key: value.numpy().tobytes() for key, value in load_file(epoch.path).items()}
        for epoch in run.epochs()
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, folders):
    """The reference of each family, trained without a break: its tensors and its losses."""
    made = {}

    def of(family: str) -> Run:
        if family not in made:
            root = tmp_path_factory.mktemp(f"whole-{family}")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(root)
                made[family] = trainees.make_run(root, folders[family])
                assert trainees.train_in_process(made[family]) == 0
        return made[family]

    return of


# What the process was about to do when it died. metrics.jsonl is written once a step, one step late.
MOMENTS = [
    ("open", "pictures", 3),  # while it reads the pictures
    ("os.rename", "shard-", 1),  # while it writes the cache
    ("open", "metrics.jsonl", 1),
    ("open", "metrics.jsonl", 2),
    ("open", "metrics.jsonl", 5),
    ("os.rename", "moss-000001.safetensors", 1),  # inside the save of epoch 1
    ("os.rename", "state.pt", 1),  # epoch 1 is saved, its state is not
    ("os.rename", "status.json", 5),  # at the latest when epoch 1 is saved: a slow machine writes more of them
    ("os.rename", "moss-000002.safetensors", 1),  # inside the save of the last epoch
    ("os.rename", "state.pt", 2),  # all epochs are saved, nobody has said so
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: f"{moment[0]}-{moment[1]}-{moment[2]}")
def test_killed_and_resumed_gives_the_same_bytes(moment, tmp_path, folders, uninterrupted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    family = "sdxl" if moment[2] == 2 else "sd15"
    run = trainees.make_run(tmp_path, folders[family])
    assert trainees.train_in_process(run, kill=moment) == -signal.SIGKILL
    assert run.status.state == "interrupted"
    assert trainees.train_in_process(run) == 0
    assert run.status.state == "finished"
    assert tensors_of(run) == tensors_of(uninterrupted(family))
    assert not list(run.path.rglob("*.part"))
    wanted = {entry["step"]: entry["loss"] for entry in uninterrupted(family).metrics()}
    assert {entry["step"]: entry["loss"] for entry in run.metrics()} == wanted


def test_killed_again_and_again(tmp_path, folders, uninterrupted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trainees.make_run(tmp_path, folders["sd15"])
    for moment in (("open", "metrics.jsonl", 2), ("os.rename", "state.pt", 1), ("open", "metrics.jsonl", 3)):
        assert trainees.train_in_process(run, kill=moment) == -signal.SIGKILL
    assert trainees.train_in_process(run) == 0
    assert tensors_of(run) == tensors_of(uninterrupted("sd15"))
    # Neither record has a step twice, or has lost one.
    steps = [entry["step"] for entry in uninterrupted("sd15").metrics()]
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == steps
    shown = EventAccumulator(str(run.path / "tensorboard")).Reload().Scalars("loss")
    assert [event.step for event in shown] == steps


# Every kind of randomness and state that settings of the adapter bring with them.
ADAPTERS = {
    "dora": {"adapter.kind": "dora", "adapter.conv_rank": 2, "adapter.dropout": 0.2, "adapter.rank_dropout": 0.2,
             "adapter.module_dropout": 0.2, "model.gradient_checkpointing": True},
    "lokr": {"adapter.kind": "lokr", "adapter.rank_dropout": 0.2, "adapter.module_dropout": 0.2,
             "adapter.scale_weight_norms": 0.05, "adapter.rslora": True},
    "average": {"loop.ema_decay": 0.9, "optimizer.lora_plus_ratio": 4, "loop.gradient_accumulation": 2,
                "model.quantize": "fp8", "optimizer.block_learning_rates": "MID=0.5"},
    "halves": {"model.precision": "bf16", "model.full_bf16": True, "optimizer.name": "AdaFactor"},
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_dropouts_and_averages_resume_to_the_same_bytes(name, tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, killed = (trainees.make_run(tmp_path, folders["sd15"], **ADAPTERS[name]) for _ in range(2))
    assert trainees.train_in_process(whole) == 0
    # Inside the second epoch: what it goes on from is the state of the first.
    assert trainees.train_in_process(killed, kill=("os.rename", "moss-000002.safetensors", 1)) == -signal.SIGKILL
    assert trainees.train_in_process(killed) == 0
    assert tensors_of(killed) == tensors_of(whole)


def test_a_length_in_steps_ends_inside_an_epoch(tmp_path, folders, uninterrupted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = uninterrupted("sd15").metrics()[-1]["step"]
    whole, killed = (trainees.make_run(tmp_path, folders["sd15"], **{"loop.max_steps": steps + 1}) for _ in range(2))
    assert trainees.train_in_process(whole) == 0
    assert whole.status.state == "finished"
    assert [whole.status.progress.step, whole.metrics()[-1]["step"]] == [steps + 1, steps + 1]
    assert [epoch.number for epoch in whole.epochs()] == [1, 2, 3]
    assert trainees.train_in_process(killed, kill=("os.rename", "moss-000003.safetensors", 1)) == -signal.SIGKILL
    assert trainees.train_in_process(killed) == 0
    assert tensors_of(killed) == tensors_of(whole)


@pytest.mark.parametrize("how", ["stop", signal.SIGINT, signal.SIGTERM])
def test_stop_saves_at_the_next_step_and_resume_goes_on(how, tmp_path, folders, uninterrupted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trainees.make_run(tmp_path, folders["sd15"])
    assert trainees.train_in_process(run, kill=("open", "metrics.jsonl", 2), by=how) == 0
    assert run.status.state == "stopped" and (run.path / "state" / "state.pt").exists()
    assert trainees.train_in_process(run) == 0
    assert run.status.state == "finished"
    assert tensors_of(run) == tensors_of(uninterrupted("sd15"))


def test_stop_while_pictures_are_encoded_keeps_what_was_done(tmp_path, folders, uninterrupted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trainees.make_run(tmp_path, folders["sd15"])
    assert trainees.train_in_process(run, kill=("open", "03.png", 2), by=signal.SIGINT) == 0
    assert run.status.state == "stopped" and "before the first step" in run.status.message
    (shard,) = tmp_path.glob("runs/.cache/latents-*/shard-*")
    assert len(load_from_disk(str(shard))) == 4  # of five
    assert trainees.train_in_process(run) == 0
    assert tensors_of(run) == tensors_of(uninterrupted("sd15"))


def test_a_full_disk_is_said_and_costs_nothing_that_was_saved(tmp_path, folders, uninterrupted, monkeypatch):
    """The state has three numbers for each weight of an epoch's file: it is what does not fit."""
    monkeypatch.chdir(tmp_path)
    run = trainees.make_run(tmp_path, folders["sd15"])
    size = uninterrupted("sd15").epochs()[0].path.stat().st_size
    assert trainees.train_in_process(run, largest_file=2 * size) == 1
    assert run.status.state == "failed" and f"{run.path / 'state' / 'state.pt'} could not be" in run.status.message
    assert [epoch.number for epoch in run.epochs()] == [1] and not list(run.path.rglob("*.part"))
    assert trainees.train_in_process(run) == 0
    assert tensors_of(run) == tensors_of(uninterrupted("sd15"))


def test_a_cached_picture_that_changed_is_encoded_again(tmp_path, folders, uninterrupted, monkeypatch):
    """The cache is keyed by content: the same name with other pixels must not meet the old latents."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    first = trainees.make_run(tmp_path, folders["sd15"], loop__epochs=1)
    assert trainees.train_in_process(first) == 0
    changed = trainees.make_run(tmp_path, folders["sd15"], loop__epochs=1)
    path = tmp_path / "pictures" / "00.png"
    Image.new("RGB", (96, 96), "white").save(path)
    assert trainees.train_in_process(changed) == 0
    assert tensors_of(changed)[1] != tensors_of(first)[1]


RANDOM = {
    "data__tag_dropout": 0.3, "data__wildcards": True, "data__caption_dropout_every": 2, "data__keep_tokens": 2,
    "data__flip": True, "data__random_crop": True, "data__colour_shift": True, "data__alpha_mask": True,
    "data__validation_split": 1, "data__max_tokens": 75, "loss__mask_normalised": True, "loss__prior_weight": 0.5,
    "loop__epochs": 3, "loop__gradient_accumulation": 2,
}  # fmt: skip


def with_everything(root, folders, **changes) -> Run:
    """A run with every random option on the data's side, wildcards in its captions and regularisation pictures."""
    cats = trainees.draw_pictures(root / "cats", [(70, 60), (64, 96)], trigger="cat")
    run = trainees.make_run(root, folders["sd15"], data__regularisation=str(cats), **{**RANDOM, **changes})
    for path in sorted((root / "pictures").glob("*.txt")):
        path.write_text(path.read_text() + ", {red|green|blue} hat, outside, sitting")
    return run


def test_everything_random_about_the_data_resumes_to_the_same_bytes(tmp_path, folders, monkeypatch):
    """Killed twice: a second resume counts as the first did."""
    (tmp_path / "whole").mkdir(), (tmp_path / "broken").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    whole = with_everything(tmp_path / "whole", folders)
    assert trainees.train_in_process(whole) == 0
    monkeypatch.chdir(tmp_path / "broken")
    broken = with_everything(tmp_path / "broken", folders)
    for moment in (("open", "metrics.jsonl", 4), ("os.rename", "state.pt", 1)):
        assert trainees.train_in_process(broken, kill=moment) == -signal.SIGKILL
    assert trainees.train_in_process(broken) == 0
    assert tensors_of(broken) == tensors_of(whole)

    def figures(run):
        return [
            (entry["step"], entry["loss"], entry.get("loss/validation"), entry.get("loss/validation_trained"))
            for entry in run.metrics()
        ]

    assert figures(broken) == figures(whole)
    assert sum(entry[2] is not None for entry in figures(whole)) == 3
