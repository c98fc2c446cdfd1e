"""The runs page over nothing, over a run of every state, and over broken folders."""

import json

import pytest
from PIL import Image

from studio import charts, jobs, listing
from trainer import presets
from trainer.run import COMMANDS, Progress, Run


def make(name: str, state: str, message: str = "") -> Run:
    run = Run.create(presets.layer({"name": name}))
    run.write_status(state, message, Progress(epoch=1, epochs=3, step=4, steps=12))
    return run


def test_nothing_yet_says_what_to_do(open_page, words):
    assert "No runs yet" in words(open_page("runs"))


@pytest.mark.parametrize("state", ["queued", "stopped", "finished", "failed"])
def test_every_state_is_shown(state, open_page, words):
    run = make("moss", state, "because of this")
    text = words(open_page("runs"))
    assert run.name in text and state in text and "because of this" in text


def test_a_dead_trainer_is_shown_as_interrupted_and_can_be_resumed(open_page, words, monkeypatch):
    started = []
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda command, **_: started.append(command))
    make("moss", "training")
    page = open_page("runs")
    assert "interrupted" in words(page)
    page.button(key="resume").click().run()
    assert started[0][-2] == "resume" and "moss" in started[0][-1]
    assert "Starting" in words(page)


def test_a_living_trainer_shows_its_progress_and_obeys(open_page, words):
    run = make("moss", "training")
    figures = Progress(epoch=1, epochs=3, step=4, steps=12, memory=5_800_000_000, learning_rate=1e-4)
    run.write_status("training", "", figures)
    with run.lock():
        page = open_page("runs")
        text = words(page)
        assert "training" in text and "4/12" in text and "5.8 GB" in text and "0.0001" in text
        for command in COMMANDS:
            page.button(key=command if command == "stop" else f"{command} now").click().run()
            assert run.take_request(command)


def test_the_newest_samples_are_shown_with_their_step(open_page, words):
    run = make("moss", "training")
    lora = run.sample_path(512)
    lora.parent.mkdir()
    Image.new("RGB", (40, 40), "red").save(lora.with_name("step00000512-1-portrait.png"))
    with run.lock():
        assert "step 512 · portrait" in words(open_page("runs"))


def test_out_of_memory_comes_with_a_remedy(open_page, words):
    make("moss", "failed", "CUDA out of memory")
    assert "batch size" in words(open_page("runs"))


def test_names_and_messages_are_text_not_markup(open_page):
    make("**bold** <b>x</b>", "failed", "[link](http://x) <script>alert(1)</script>")
    page = open_page("runs")
    assert "\\<script\\>" in page.error[0].value
    assert any("bold" in element.value for element in page.text)


def test_a_broken_run_folder_breaks_nothing(open_page, words):
    broken = [make(name, "finished") for name in ("moss", "fern", "ivy")]
    for run, file in zip(broken, ("status.json", "config.toml", "metrics.jsonl")):
        (run.path / file).write_text("]{")
    for run in broken:
        assert run.name in words(open_page("runs", run=run.name))


def test_older_runs_are_drawn_only_where_somebody_looks(open_page):
    for number in range(listing.LISTED + 3):
        Run.create(presets.layer({"name": f"moss-{number:02}"}))
    page = open_page("runs")
    shown = [one for one in page.button if one.key and one.key.startswith("open ")]
    assert len(shown) == listing.LISTED
    page.session_state["older runs"] = True
    assert len([one for one in page.run().button if one.key and one.key.startswith("open ")]) == listing.LISTED + 3


def test_the_loss_is_drawn_for_several_runs(open_page):
    for name in ("moss", "fern"):
        run = make(name, "finished")
        for step in range(1, 30):
            run.append_metrics({"step": step, "loss": 1 / step, "lr": 1e-4})
    page = open_page("runs")
    page.multiselect(key="overlaid").select(page.multiselect(key="overlaid").options[0]).run()
    assert not page.exception
    assert page.get("arrow_vega_lite_chart") or page.get("vega_lite_chart")


def test_duplicate_opens_the_train_page_with_the_runs_settings(open_page):
    Run.create(presets.layer({"name": "moss", "adapter.rank": 7}))
    page = open_page("runs")
    page.button(key="duplicate").click().run()
    assert not page.exception
    assert page.session_state["draft"]["adapter.rank"] == 7


def test_validation_is_one_chart_with_both_kinds(open_page):
    run = make("moss", "finished")
    lines = [{"step": step, "epoch": 1, "loss": 0.1} for step in range(1, 501)]
    for step in (100, 200):  # long before the newest entries
        lines[step - 1] |= {"loss/validation": 0.2, "loss/validation_trained": 0.15}
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = open_page("runs")
    curve = page.segmented_control(key="curve")
    assert curve.options == ["loss", "loss/validation"]
    curve.set_value("loss/validation").run()
    assert not page.exception
    (chart,) = page.get("arrow_vega_lite_chart") or page.get("vega_lite_chart")
    assert "strokeDash" in chart.proto.spec
    rows = [(row["kind"], row["step"], row["smoothed"]) for row in charts.rows_of({"a": lines}, "loss/validation", 0.9)]
    assert rows == [
        (kind, step, pytest.approx(value))
        for kind, value in (("held-back pictures", 0.2), ("trained pictures", 0.15))
        for step in (100, 200)
    ]
    assert len(charts.rows_of({"a": lines}, "loss", 0.9)) == 500
