"""The run folder: truth on disk, liveness by lock, nothing half-written."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock

from trainer import files, locks, presets
from trainer.errors import UserError
from trainer.record import Recorder
from trainer.run import Progress, Run, find_runs, slug
from trainer.terminal import print_run


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(presets.layer({"name": "moss"}), tmp_path / "runs")


def test_a_new_run_is_queued_and_keeps_its_config(run):
    assert run.status.state == "queued"
    assert run.config.name == "moss"
    assert run.name.endswith("-moss")


def test_steps_that_suddenly_take_much_longer_raise_an_alarm(run, capsys):
    recorder = Recorder(run)
    recorder.state("training", epochs=1, steps=200)

    def alarm_after(seconds: float) -> str:
        for _ in range(20):
            recorder.step(seconds, step=1)
        recorder.state("training")
        return run.recorded_status().progress.alarm

    assert alarm_after(1.0) == alarm_after(1.5) == ""  # another bucket
    assert "Steps take 8 times as long as before" in alarm_after(8.0)
    print_run(run)
    assert "8 times" in capsys.readouterr().out
    assert alarm_after(1.2) == ""


def test_the_loss_that_is_shown_is_the_mean_of_a_short_run(run):
    recorder = Recorder(run)
    for step, loss in enumerate((0.8, 0.2, 0.2, 0.2), 1):
        recorder.metrics(step, {"loss": loss})
    assert recorder.progress.loss == pytest.approx(0.35)
    recorder.close()
    resumed = Recorder(run)  # begins anew, and far from the start moves slowly
    for step, loss in ((900, 0.2), (901, 1.2)):
        resumed.metrics(step, {"loss": loss})
    assert resumed.progress.loss == pytest.approx(0.22)
    resumed.close()


def test_a_newer_trainers_status_is_read_as_far_as_it_is_known(run):
    run.write_status("stopped", "at step 3", Progress(step=3))
    path = run.path / "status.json"
    values = json.loads(path.read_text())
    values["progress"]["temperature"] = 71
    path.write_text(json.dumps(values))
    assert (run.status.state, run.status.progress.step) == ("stopped", 3)


def test_two_runs_in_one_minute_get_two_folders(tmp_path):
    config = presets.layer({"name": "moss"})
    first, second = Run.create(config, tmp_path), Run.create(config, tmp_path)
    assert first.path != second.path
    assert {found.name for found in find_runs(tmp_path)} == {first.name, second.name}


def test_an_active_state_without_a_lock_is_interrupted(run):
    run.write_status("training", progress=Progress(step=3, steps=9))
    with run.lock():
        assert run.status.state == "training"
    status = run.status
    assert (status.state, status.progress.step) == ("interrupted", 3)
    assert "esume" in status.message


def test_a_killed_process_leaves_an_interrupted_run(run):
    code = (
        "import sys, time; from trainer.run import Run; run = Run(sys.argv[1])\n"
        "with run.lock():\n    run.write_status('training'); print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline().strip() == b"up"
        assert run.status.state == "training"
    finally:
        process.kill()
    # Not waited for on purpose: an unreaped child still answers to its pid, and the lock must not care.
    deadline = time.time() + 10
    while run.is_locked() and time.time() < deadline:
        time.sleep(0.05)
    assert run.status.state == "interrupted"
    process.wait()


def test_a_second_trainer_is_refused(run):
    with run.lock(), pytest.raises(UserError, match="already being worked on"), run.lock():
        pass


def test_who_only_looks_keeps_nobody_from_a_run(run, monkeypatch):
    """A page looks several times a second, and to look at a lock is to hold it for a moment: here for a long one."""
    monkeypatch.setattr("trainer.run.LOOKED_AT", 30.0)
    monkeypatch.setattr(locks, "GLANCE", 1.0)
    look = FileLock(run.path / "lock", thread_local=False)
    look.acquire()
    threading.Timer(0.05, look.release).start()
    with run.lock():
        assert not look.is_locked and run.is_locked()
    look.acquire()
    threading.Timer(0.05, look.release).start()
    assert not run.is_locked()


def test_a_request_is_taken_once(run):
    assert not run.take_request("stop")
    run.request("stop")
    assert run.take_request("stop")
    assert not run.take_request("stop")


def test_metrics_survive_a_line_cut_in_two_and_steps_done_twice(run):
    for step, loss in ((1, 0.5), (2, 0.4), (2, 0.3)):
        run.append_metrics({"step": step, "loss": loss})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert run.metrics() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.3}]
    run.append_metrics({"step": 3, "loss": 0.2})
    assert run.metrics()[-1] == {"step": 3, "loss": 0.2}


def test_a_broken_status_is_a_failed_run_not_a_crash(run):
    (run.path / "status.json").write_text("{")
    assert run.status.state == "failed"


def test_an_unknown_run_names_the_nearest(run):
    with pytest.raises(UserError, match=run.name):
        Run.open(run.name[:-1] + "z", run.path.parent)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("moss cat", "moss-cat"),
        ("a/b\\c:d", "a-b-c-d"),
        ("<lora:x:1>", "lora-x-1"),
        ("..", "lora"),
        ("CON", "CON-lora"),
        ("aux.v2", "aux-lora.v2"),
        ("console", "console"),
        ("苔", "苔"),
    ],
)
def test_names_become_safe_file_names(name, safe):
    assert slug(name) == safe


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = files.write_text(tmp_path / "a.txt", "old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        files.write_with(path, fail)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_that_is_being_read_is_replaced_a_moment_later(tmp_path, monkeypatch):
    """Windows replaces no file that another program has open; the page reads each run's status every second."""
    path, replace, refused = files.write_text(tmp_path / "status.json", "old"), os.replace, []

    def busy(source, target):
        if len(refused) < 3:
            refused.append(target)
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    with pytest.raises(UserError, match="cannot be written"):
        files.write_text(path, "new")
    monkeypatch.setattr(files, "PATIENCE", 2.0)
    files.write_text(path, "new")
    assert len(refused) == 3 and path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_status_is_json_that_others_can_read(run):
    assert json.loads((run.path / "status.json").read_text())["state"] == "queued"


def test_a_trained_run_says_its_memory_and_learning_rate(tmp_path, folders, monkeypatch):
    import trainees

    from trainer.loop import train

    monkeypatch.chdir(tmp_path)
    run = trainees.make_run(tmp_path, folders["sd15"])
    train(run)
    progress = run.status.progress
    assert progress.learning_rate == run.metrics()[-1]["lr/unet"]
    assert progress.memory > 50_000_000  # torch alone takes more
