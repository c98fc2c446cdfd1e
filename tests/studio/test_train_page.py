"""The train page: what it says will happen, problems and their remedies, presets, and the start."""

import json
import time

import pytest
from trainees import draw_pictures

from studio import forecast, handwork, jobs, panels, places
from trainer import presets
from trainer.config import settings
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


def test_the_first_preset_is_one_for_the_base_that_is_there(open_page, words, pictures, here):
    page = open_page("train")
    assert "miniature base at 128 px" in words(page) and field(page, "number_input", "data.resolution").value == 128
    (here / "models" / "dreamshaper").mkdir(parents=True)
    (here / "models" / "dreamshaper" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    page = open_page("train")
    assert "A character" in words(page) and field(page, "number_input", "data.resolution").value == 512


def test_steps_are_computed_and_follow_the_form(open_page, words, pictures):
    page = open_page("train")
    assert "5 pictures × 16 repeats × 10 epochs" in words(page)
    field(page, "number_input", "loop.epochs").set_value(3).run()
    assert "5 pictures × 16 repeats × 3 epochs" in words(page)
    assert "●" in field(page, "number_input", "loop.epochs").label


def test_crops_that_were_drawn_and_not_written_are_told(open_page, words, pictures):
    assert handwork.set_box(places.DATASETS / "moss-cat", sorted(pictures.glob("*.png"))[0].name, (0, 0, 32, 32))
    assert "1 crop drawn by hand not written yet" in words(open_page("train"))


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


def advanced(page, part: str) -> None:
    """AppTest has no click on an expander; its state in the session is what a click would set."""
    generation = page.session_state["draft generation"]
    page.session_state[f"advanced {generation}"] = True
    page.run()
    page.selectbox(key=f"part {generation}").select(part).run()
    assert not page.exception


def test_every_setting_has_a_widget_with_help(open_page, pictures):
    page = open_page("train")
    assert "network_dim" in field(page, "number_input", "adapter.rank").help
    field(page, "selectbox", "optimizer.name").select("Prodigy").run()
    for path, kind in {"optimizer.name": "selectbox", "optimizer.args": "text_input"}.items():
        assert "Suggested: decouple=true" in field(page, kind, path).help.replace("\\", "")
    parts = {s.path.split(".")[0] for s in settings() if "." in s.path}
    keys = set()
    for part in sorted(parts):
        advanced(page, part)
        shown = [w for kind in ("number_input", "selectbox", "text_input", "toggle") for w in page.get(kind) if w.key]
        assert all(w.help for w in shown if w.key.startswith("set "))
        keys |= {w.key for w in shown}
    missing = [
        s.path for s in settings() if s.path != "data.folder" and not any(k.endswith(f" {s.path}") for k in keys)
    ]
    assert missing == []


def test_advanced_settings_are_kept_while_another_part_is_shown(open_page, words, pictures):
    page = open_page("train")
    assert not any(w.key.endswith(" loss.min_snr_gamma") for w in page.number_input if w.key), "drawn when opened"
    advanced(page, "loss")
    field(page, "number_input", "loss.min_snr_gamma").set_value(7).run()
    assert "Changed in there: Min-SNR gamma" in words(page)
    advanced(page, "model")
    advanced(page, "loss")
    assert field(page, "number_input", "loss.min_snr_gamma").value == 7
    assert field(page, "number_input", "loss.min_snr_gamma").label.startswith("●")


def test_saved_as_a_preset_it_is_offered_and_not_written_over(open_page, pictures, here):
    page = open_page("train")
    field(page, "number_input", "adapter.rank").set_value(24).run()
    page.text_input(key="preset name").set_value("../mine").run()
    page.button(key="save preset").click().run()
    assert not page.exception
    saved = presets.load("mine")
    assert saved.values["adapter.rank"] == 24 and "data.folder" not in saved.values
    assert [path.name for path in (here / "presets").iterdir()] == ["mine.toml"]


def test_without_a_base_model_the_way_to_one_is_shown(open_page, words, pictures, here):
    said = "put a checkpoint into models/"
    assert said in words(open_page("train"))
    (here / "models").mkdir(exist_ok=True)
    with open(here / "models" / "dreamshaper.ckpt", "wb") as file:
        file.truncate(places.SMALLEST_BASE)
    assert said not in words(open_page("train"))


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


def test_repeats_of_folders_and_more_folders_are_counted(open_page, words, here):
    draw_pictures(here / "datasets" / "moss-cat" / "3_moss cat", sizes=[(64, 64)] * 2)
    draw_pictures(here / "datasets" / "hats", sizes=[(64, 64)])
    page = open_page("train", dataset="moss-cat")
    assert "2 pictures × 3 repeats × 10 epochs" in words(page)
    advanced(page, "data")
    field(page, "text_input", "data.more_folders").set_value("datasets/hats*2").run()
    assert "3 pictures × their repeats, 38 in an epoch × 10 epochs" in words(page)
    draw_pictures(here / "datasets" / "hats", sizes=[(64, 64)] * 2)  # what is in another folder counts at once
    assert "4 pictures × their repeats, 70 in an epoch × 10 epochs" in words(page.run())


GUI = {
    "LoRA_type": "Standard",
    "network_dim": 24,
    "network_alpha": 12,
    "learning_rate": 0.0002,
    "unet_lr": 0.0002,
    "epoch": 7,
    "train_data_dir": "/somewhere/img",
    "pretrained_model_name_or_path": "/somewhere/<b>base</b>.safetensors",
    "gpu_ids": "0",
    "no_such_thing_here": 5,
}


def test_kohya_settings_are_shown_and_fill_the_form(open_page, words, pictures):
    page = open_page("train")
    page.file_uploader(key="import").upload("old <b>.json", json.dumps(GUI).encode()).run()
    assert not page.exception
    text = words(page)
    assert "network_dim 24 → adapter.rank = 24" in text and "no_such_thing_here 5" in text
    assert "Ignored, because it changes nothing" in text
    page.button(key="import go").click().run()
    assert not page.exception
    assert field(page, "number_input", "adapter.rank").value == 24
    assert field(page, "number_input", "loop.epochs").value == 7
    assert "● " in field(page, "number_input", "adapter.rank").label
    # The base of the machine that it comes from is not on this one, and is not waited for until it is needed.
    assert "there is no base model at /somewhere/<b>base" in words(page) and page.button(key="later").disabled
    field(page, "selectbox", "model.base").select("toybox/sd15").run()
    page.button(key="later").click().run()
    assert not page.exception
    (run,) = find_runs()
    assert run.config.adapter.rank == 24 and run.config.data.folder == "datasets/moss-cat"


def test_an_import_that_cannot_be_read_is_named(open_page, words, pictures):
    page = open_page("train")
    page.file_uploader(key="import").upload("notes.json", b"{").run()
    assert not page.exception
    assert "notes.json is not valid JSON" in words(page) and "/tmp" not in words(page)


def test_an_import_reads_no_other_file_of_this_machine(open_page, words, pictures, here):
    (here / "secret.toml").write_text("network_dim = 6317")
    page = open_page("train")
    content = f'network_dim = 8\nconfig_file = "{(here / "secret.toml").as_posix()}"'
    page.file_uploader(key="import").upload("a.toml", content.encode()).run()
    assert "which is not part of it" in words(page) and "6317" not in words(page)


ANSWER = {
    "device": "a small card",
    "capacity": 6_000_000_000,
    "training": {"UNet": 5_000_000_000, "optimizer": 4_000_000_000, "average": 0},
    "rendering": 3_000_000_000,
    "file": 37_000_000,
    "disk": {"epochs": 370_000_000, "cache": 30_000_000},
    "peak": 9_000_000_000,
    "fits": False,
    "total_seconds": 5400.0,
    "change": {"set": {"loop.batch_size": 1}, "peak": 5_500_000_000, "rendering": 3_000_000_000},
    "problems": [
        {
            "setting": "data.resolution",
            "severity": "warning",
            "reason": "this SD 1.5 base was made for 96 px; training at 128 doubles limbs and costs memory.",
            "suggestion": 96,
        }
    ],
}


def test_what_a_run_takes_is_asked_in_another_process_and_its_change_applied(open_page, words, pictures, started):
    page = open_page("train")
    page.button(key="estimate").click().run()
    assert not page.exception
    (command,) = started
    assert command[4] == "estimate" and "--json" in command
    asked = presets.load(command[5].removeprefix("--preset=")).values
    assert asked["data.folder"] == "datasets/moss-cat" and asked["data.trigger"] == "moss"
    job = jobs.latest("estimate")
    job.log.write_text("a warning of some library\n" + json.dumps(ANSWER) + "\nanother one\n")
    (job.folder / "result.json").write_text('{"code": 0}')
    text = words(page.run())
    assert "It does not fit: 9 GB of 6 GB on a small card" in text and "1 h 30 min" in text and "400 MB" in text
    # What only the trainer can see, with the button that mends it.
    assert "was made for 96 px" in text and page.button(key="mend base 0").label == "Set Resolution to 96"
    page.button(key="make it fit").click().run()
    assert not page.exception
    assert field(page, "number_input", "loop.batch_size").value == 1
    assert "It does not fit" not in words(page)  # that was about other settings
    # Once asked for it follows the form: the changed one is asked about, and by one process at a time.
    assert len(started) == 2 and asked["loop.batch_size"] > 1
    assert "loop.batch_size" not in presets.load(started[1][5].removeprefix("--preset=")).values  # 1 is the default
    field(page, "number_input", "loop.epochs").set_value(3).run()
    assert not page.exception and len(started) == 2 and "Counting" in words(page)


def test_the_estimate_is_what_the_command_prints(here, pictures):
    if "toybox/sd15" not in panels.toybox_bases():
        pytest.skip("the toybox's weights are not installed")
    config = presets.layer({"model.base": "toybox/sd15", "data.folder": "datasets/moss-cat", "data.resolution": 64})
    said = presets.to_toml(presets.nest({p: now for p, (_, now) in presets.differences(config).items()}), "")
    (here / "asked.toml").write_text(said)
    job = jobs.start("estimate", "--preset=asked.toml", "--json")
    until = time.time() + 120
    while job.active and time.time() < until:
        time.sleep(0.2)
    assert job.state == "done", job.tail()
    answer = forecast.answer_of(job)
    assert answer["fits"] and answer["peak"] > answer["training"]["UNet"] > 0 and answer["change"] is None
    assert answer.keys() >= ANSWER.keys()
    assert [(one["setting"], one["suggestion"]) for one in answer["problems"]] == [("data.resolution", 128)]
