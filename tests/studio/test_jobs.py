"""Workers: started by argument list, found again from disk, alive as long as their lock is held."""

import io
import socket
import time

import pytest
from comparisons import make_comparison
from PIL import Image

from studio import jobs, language, uploads
from studio.text import escape
from trainer import vote
from trainer.cells import Evaluation
from trainer.errors import UserError

PATIENCE = 120.0  # seconds, for a busy machine


def wait(job: jobs.Job) -> str:
    until = time.time() + PATIENCE
    while job.active and time.time() < until:
        time.sleep(0.2)
    return job.state


def test_a_command_runs_to_its_end_and_is_found_again(here):
    job = jobs.start("presets", subject="x; touch hacked")
    assert wait(job) == "done"
    found = jobs.latest("presets", "x; touch hacked")
    assert found == job and "toybox" in found.tail(50)
    assert not (here / "hacked").exists()


def test_a_command_that_fails_says_why(here):
    job = jobs.start("stop", "no such run")
    assert wait(job) == "failed"
    assert "no such run" in job.tail(1)


def test_a_worker_that_died_is_lost_and_one_that_comes_up_is_starting(here, monkeypatch):
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda *_, **__: None)
    job = jobs.start("demo")
    assert job.state == "starting" and 0 <= job.age < 60
    (job.folder / "lock").touch()  # made, and in the next moment held
    assert job.state == "starting"
    (job.folder / "pid").touch()  # it had come up
    assert job.state == "lost"
    (job.folder / "pid").unlink()
    monkeypatch.setattr(jobs, "STARTING", -1.0)
    assert job.state == "lost"


def test_a_port_is_one_that_nobody_has_and_no_connection_gets(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        drawn = iter([taken.getsockname()[1], (free := jobs.free_port())])
        monkeypatch.setattr(jobs.random, "randrange", lambda *_: next(drawn))
        assert jobs.free_port() == free < 32_768


def test_damaged_job_files_break_nothing(here):
    folder = here / jobs.JOBS / "2026-demo"
    folder.mkdir(parents=True)
    for name in ("job.json", "progress.json", "result.json"):
        (folder / name).write_text("[")
    job = jobs.latest("demo")
    assert job.state == "lost" and job.progress.total == 0 and job.tail() == ""


def test_a_redrawn_line_of_a_log_counts_once(tmp_path):
    (tmp_path / "log").write_bytes(b"one\n1 %\r2 %\r3 %\nend\n")
    assert jobs.tail(tmp_path / "log") == "one\n3 %\nend"


def test_what_a_worker_writes_speaks_the_language_of_its_page(here, monkeypatch):
    run = make_comparison()
    folder = run.evaluation_folder("character")
    ballot = vote.Ballot(Evaluation.load(folder), folder)
    ballot.cast(ballot.next(), "left")
    monkeypatch.setattr(language, "current", lambda: "zh_CN")
    job = jobs.start("vote", str(run.path))  # with nobody to answer, it counts the votes there are
    assert wait(job) == "done", job.tail()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert '"language":"zh-CN"' in page and '"epoch {n}":"第 {n} 轮"' in page


# ── what is dropped in ──────────────────────────────────────────────────────────────────────────────────


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_and_captions_are_taken(here):
    report = uploads.save("moss", [("a.png", png()), ("a.txt", b"moss")])
    assert [path.name for path in report.written] == ["a.png", "a.txt"] and not report.refused


@pytest.mark.parametrize("name", ["../x", "/etc", "", ".hidden", "a/b", "a\\b", "..", "a\0b"])
def test_a_folder_name_is_a_plain_name(name, here):
    with pytest.raises(UserError, match="plain name"):
        uploads.save(name, [("a.png", png())])


def test_file_names_stay_in_the_folder(here):
    uploads.save("moss", [("../../evil.png", png()), ("..\\other.png", png())])
    assert {path.name for path in here.rglob("*.png")} == {"evil.png", "other.png"}
    assert all(path.parent.name == "moss" for path in here.rglob("*.png"))


def test_what_is_no_picture_is_refused_and_nothing_is_written_over(here):
    uploads.save("moss", [("a.png", png())])
    files = [("a.png", png()), ("b.png", b"<html>"), ("c.exe", b"MZ"), ("d.txt", b"x" * 200_000)]
    assert len(uploads.save("moss", files).refused) == 4
    # Beside it only the record by which the upload can be taken back.
    folder = here / "datasets" / "moss"
    kept = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    assert sorted(kept) == [".originals", ".originals/moves.jsonl", ".originals/moves.jsonl.lock", "a.png"]


def test_escaped_text_has_no_markup_left():
    assert escape("**a** [b](c)\n<d>") == r"\*\*a\*\* \[b\]\(c\) \<d\>"
