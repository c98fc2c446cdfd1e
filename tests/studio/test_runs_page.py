"""The runs page over nothing, over a run of every state, and over broken folders."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from trainer import presets
from trainer.run import Progress, Run

PAGE = str(Path(__file__).parent.parent.parent / "studio" / "app.py")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(name: str = "moss") -> tuple[AppTest, str]:
    page = AppTest.from_file(PAGE, default_timeout=30).run()
    assert not page.exception
    elements = [*page.text, *page.caption, *page.error, *page.info, *page.title]
    return page, "\n".join(element.value for element in elements)


def make(name: str, state: str, message: str = "") -> Run:
    run = Run.create(presets.layer({"name": name}))
    run.write_status(state, message, Progress(epoch=1, epochs=3, step=4, steps=12))
    return run


def test_nothing_yet_says_what_to_do(here):
    assert "lora-studio train" in shown()[1]


@pytest.mark.parametrize("state", ["queued", "stopped", "finished", "failed"])
def test_every_state_is_shown(state, here):
    run = make("moss", state, "because of this")
    text = shown()[1]
    assert run.name in text and state in text and "because of this" in text


def test_a_dead_trainer_is_shown_as_interrupted(here):
    make("moss", "training")
    assert "interrupted" in shown()[1]


def test_a_living_trainer_shows_its_progress(here):
    run = make("moss", "training")
    with run.lock():
        page, text = shown()
    assert "training" in text and "step 4/12" in text


def test_names_and_messages_are_text_not_markup(here):
    make("**bold** <b>x</b>", "failed", "[link](http://x) <script>alert(1)</script>")
    page, text = shown()
    assert "bold" in text
    assert "\\<script\\>" in page.error[0].value


def test_a_broken_run_folder_breaks_nothing(here):
    (make("moss", "finished").path / "status.json").write_text("{")
    make("fern", "finished")
    text = shown()[1]
    assert "fern" in text and "status.json" in text.replace("\\", "")
