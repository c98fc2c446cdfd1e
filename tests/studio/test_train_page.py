"""The train page: what it says will happen, problems and their remedies, presets, and the start."""

import pytest
from trainees import draw_pictures

from studio import jobs
from trainer import presets
from trainer.run import Run, find_runs


@pytest.fixture
def pictures(here):
    return draw_pictures(here / "datasets" / "moss-cat")


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    commands: list[list[str]] = []
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda command, **_: commands.append(command))
    return commands


def field(page, kind: str, path: str):
    """The widget of a setting, whatever generation the form is in."""
    return next(widget for widget in page.get(kind) if widget.key and widget.key.endswith(f" {path}"))


def test_without_pictures_it_points_to_the_dataset_page(open_page, words):
    assert "No folder in datasets/" in words(open_page("train"))


def test_steps_are_computed_and_follow_the_form(open_page, words, pictures):
    page = open_page("train")
    assert "5 pictures × 10 repeats × 10 epochs" in words(page)
    field(page, "number_input", "loop.epochs").set_value(3).run()
    assert "5 pictures × 10 repeats × 3 epochs" in words(page)
    assert "●" in field(page, "number_input", "loop.epochs").label


def test_a_problem_is_mended_by_its_button(open_page, words, pictures):
    page = open_page("train")
    field(page, "number_input", "adapter.alpha").set_value(64.0).run()
    assert "burns it" in words(page)
    assert page.button[[b.label for b in page.button].index("Start training")].disabled
    page.button(key="mend 0").click().run()
    assert "burns it" not in words(page)
    assert field(page, "number_input", "adapter.alpha").value == 16


def test_start_makes_a_run_and_hands_it_to_a_worker(open_page, pictures, started):
    page = open_page("train")
    next(button for button in page.button if button.label == "Start training").click().run()
    assert not page.exception
    (run,) = find_runs()
    assert run.config.name == "moss-cat" and run.config.data.trigger == "moss"
    assert run.config.data.folder == "datasets/moss-cat"
    (command,) = started
    assert isinstance(command, list) and command[-2:] == ["resume", f"runs/{run.name}"]


def test_every_setting_has_a_widget_with_help(open_page, pictures):
    page = open_page("train")
    keys = {w.key for kind in ("number_input", "selectbox", "text_input", "toggle") for w in page.get(kind) if w.key}
    from trainer.config import settings

    missing = [
        s.path for s in settings() if s.path != "data.folder" and not any(k.endswith(f" {s.path}") for k in keys)
    ]
    assert missing == []
    assert "network_dim" in field(page, "number_input", "adapter.rank").help


def test_saved_as_a_preset_it_is_offered_and_not_written_over(open_page, pictures, here):
    page = open_page("train")
    field(page, "number_input", "adapter.rank").set_value(24).run()
    page.text_input(key="preset name").set_value("../mine").run()
    page.button(key="save preset").click().run()
    assert not page.exception
    saved = presets.load("mine")
    assert saved.values["adapter.rank"] == 24 and "data.folder" not in saved.values
    assert [path.name for path in (here / "presets").iterdir()] == ["mine.toml"]


def test_a_broken_picture_is_named(open_page, words, pictures):
    (pictures / "bad.png").write_bytes(b"nothing")
    assert "bad.png" in words(open_page("train"))


def test_a_broken_preset_is_named(open_page, words, pictures, here):
    (here / "presets").mkdir()
    (here / "presets" / "a-broken.toml").write_text("rank = ]")
    page = open_page("train")
    page.selectbox(key="preset 0").select("a-broken").run()
    assert "a-broken.toml" in words(page)


def test_while_something_trains_a_new_run_waits_in_the_queue(open_page, words, pictures, started, here):
    from studio import line

    busy = Run.create(presets.layer({"name": "busy"}))
    with busy.lock():
        page = open_page("train")
        assert "would wait in the queue" in words(page)
        page.button(key="start").click().run()
        assert not page.exception
        (waiting,) = line.names()
    assert waiting.endswith("moss-cat") and started[0][-1] == "line"


def test_a_run_can_be_made_without_starting_it(open_page, pictures, started):
    page = open_page("train")
    page.button(key="later").click().run()
    assert not page.exception and not started
    (run,) = find_runs()
    assert run.status.state == "queued"
