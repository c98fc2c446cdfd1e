"""The queue's order and its process, the trash, the device that one worker has at a time, TensorBoard."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from studio import jobs, line, preferences, trash, worker
from trainer import presets
from trainer.errors import UserError
from trainer.run import Run

PATIENCE = 120.0  # seconds, for a busy machine
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    commands: list[list[str]] = []
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda command, **_: commands.append(command))
    return commands


def make(name: str) -> Run:
    return Run.create(presets.layer({"name": name}))


def wait_for(what) -> None:
    until = time.time() + PATIENCE
    while not what() and time.time() < until:
        time.sleep(0.2)
    assert what()


# ── the queue ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_order_is_on_disk_and_can_be_changed(here, started):
    runs = [make(name) for name in ("a", "b", "c")]
    for run in runs:
        line.add(run)
    a, b, c = (run.name for run in runs)
    assert line.names() == [a, b, c]
    line.move(c, -1)
    line.move(a, -1)
    assert line.names() == [a, c, b]
    line.remove(c)
    assert json.loads(line.FILE.read_text()) == [a, b]
    assert sum(command[-1] == "line" for command in started) == 1


def test_the_first_of_the_queue_starts_when_nothing_trains(here, started):
    first, second = make("a"), make("b")
    line.change(lambda _: [first.name, second.name])
    with first.lock():
        assert line.busy()
    assert not line.busy()
    line.start_first()
    assert started[0][-2:] == ["resume", f"runs/{first.name}"]
    assert line.names() == [second.name] and line.busy()


def test_a_queue_is_taken_up_again_after_its_process_died(open_page, here, started):
    run = make("a")
    line.change(lambda _: [run.name])
    open_page("home")
    assert started[-1][-1] == "line"


def test_queued_runs_are_shown_and_re_ordered(open_page, words, here, started):
    runs = [make(name) for name in ("a", "b")]
    line.change(lambda _: [run.name for run in runs])
    page = open_page("runs")
    page.button(key=f"up {runs[1].name}").click().run()
    assert not page.exception and line.names() == [runs[1].name, runs[0].name]
    page.button(key=f"out {runs[1].name}").click().run()
    assert line.names() == [runs[0].name]


def test_a_broken_queue_file_is_an_empty_queue(here):
    line.FILE.parent.mkdir()
    line.FILE.write_text('{"a":')
    assert line.names() == []


def test_the_queues_process_ends_when_the_queue_is_empty(here):
    job = jobs.start("line")
    wait_for(lambda: job.state == "done")


# ── the device ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_a_worker_waits_for_the_device_and_can_be_cancelled(here, handler):
    # SIG_IGN is what a studio inherits that a script started in the background.
    worker.DEVICE.parent.mkdir(exist_ok=True)
    with FileLock(worker.DEVICE):
        before = signal.signal(signal.SIGINT, handler)
        job = jobs.start("evaluate", "no such run")
        signal.signal(signal.SIGINT, before)
        wait_for(lambda: job.progress.text == worker.WAITING)
        job.cancel()
        wait_for(lambda: job.state == "cancelled")


def test_a_worker_can_be_killed(here):
    worker.DEVICE.parent.mkdir(exist_ok=True)
    with FileLock(worker.DEVICE):
        job = jobs.start("evaluate", "no such run")
        wait_for(lambda: job.progress.text == worker.WAITING)
        job.kill()
        wait_for(lambda: job.state == "lost")


@pytest.mark.parametrize(("device", "seen"), [("auto", None), ("cpu", ""), ("1", "1")])
def test_the_chosen_device_is_what_a_process_sees(here, monkeypatch, device, seen):
    preferences.save(preferences.Preferences(device=device))
    environments = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda _command, env, **_rest: environments.append(env))
    jobs.start("demo")
    assert environments[0].get("CUDA_VISIBLE_DEVICES") == seen


def test_tensorboard_is_started_for_this_machine_only(here, started):
    jobs.start_tensorboard(Path("runs"))
    (command,) = started
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert jobs.address(jobs.latest("tensorboard")) == ""


# ── the trash ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_deleted_run_comes_back_until_the_trash_is_emptied(here):
    run, other = make("a"), make("b")
    run.epoch_path(1).write_bytes(b"LoRA")
    trash.throw(run)
    assert not run.path.exists() and [thrown.name for thrown in trash.runs()] == [run.name]
    trash.restore(run.name)
    assert run.epoch_path(1).read_bytes() == b"LoRA"
    trash.throw(run)
    assert trash.empty() == 1 and trash.runs() == []
    assert other.path.exists()


def test_a_run_at_work_and_a_name_from_elsewhere_are_refused(here):
    run = make("a")
    with run.lock(), pytest.raises(UserError, match="being worked on"):
        trash.throw(run)
    for name in ("../../etc", run.name):
        with pytest.raises(UserError, match="not in the trash"):
            trash.restore(name)


def test_delete_and_restore_on_the_page(open_page, here):
    run = make("a")
    make("b")
    page = open_page("runs", run=run.name)
    page.button(key="delete").click().run()
    assert not page.exception and not run.path.exists()
    page.button(key=f"restore {run.name}").click().run()
    assert run.path.exists()


# ── who may open the studio ─────────────────────────────────────────────────────────────────────────────


def test_listening_to_other_machines_needs_a_password(tmp_path):
    command = [sys.executable, "-m", "trainer", "ui", "--listen=0.0.0.0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LORA_STUDIO_PASSWORD": "short"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2 and "password" in done.stderr + done.stdout
