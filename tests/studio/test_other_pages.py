"""Home, dataset, compare and library over nothing, over something, and over what is broken."""

import json
from html import unescape
from pathlib import Path

import pytest
import tiny
from comparisons import make_comparison
from PIL import Image
from trainees import draw_pictures, make_run

from studio import comparison, jobs
from trainer import presets
from trainer.cells import Evaluation
from trainer.dataset import captions
from trainer.loop import train
from trainer.metrics import METRICS
from trainer.run import Run


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    commands: list[list[str]] = []
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda command, **_: commands.append(command))
    return commands


# ── home ────────────────────────────────────────────────────────────────────────────────────────────────


def test_home_over_nothing(open_page, words):
    assert "None yet" in words(open_page("home"))


def test_home_lists_the_runs(open_page, words):
    make_comparison()
    text = words(open_page("home"))
    assert "2 of 2 epochs · ★ 2" in text and "finished" in text


def test_home_shows_how_far_the_pictures_have_come(open_page, words, here):
    draw_pictures(here / "datasets" / "fern")
    (here / "datasets" / "fern" / "00.txt").unlink()
    text = words(open_page("home"))
    assert "fern: 5 pictures, 4 with a caption" in text and "no run yet" in text and "none yet" in text
    run = make_run(here, tiny.base_folder(here / "base", "sd15"), data__folder="datasets/fern", name="fern")
    train(run)
    lora = here / "models" / "fern.safetensors"
    lora.parent.mkdir()
    lora.write_bytes(run.epoch_path(2).read_bytes())
    draw_pictures(here / "datasets" / "ivy")  # another project, which is not mixed in
    page = open_page("home")
    text = words(page)
    assert "finished · 2 epochs" in text and "not rendered yet" in text and "\nfern\n" in text
    other = words(page.selectbox(key="select dataset").select("ivy").run())
    assert "ivy: 5 pictures, 5 with a caption" in other and "no run yet" in other and "none yet" in other


def test_home_walks_through_what_the_demo_made(open_page, words, here):
    job = here / ".studio" / "jobs" / "2026-11-22_010101-demo"
    job.mkdir(parents=True)
    (job / "job.json").write_text('{"arguments": ["demo"], "subject": "", "started": 0}')
    (job / "result.json").write_text('{"code": 0}')
    page = open_page("home")
    links = [link.proto.page for link in page.get("page_link") if link.proto.label[0].isdigit()]
    assert links == ["dataset", "runs", "compare", "library"]


def opened(page, key: str) -> None:
    """AppTest has no click on an expander; its state in the session is what a click would set."""
    page.session_state[key] = True
    page.run()
    assert not page.exception


# ── dataset ─────────────────────────────────────────────────────────────────────────────────────────────


def test_dataset_over_nothing(open_page, words):
    assert "No pictures yet" in words(open_page("dataset"))


def test_dataset_shows_pictures_tags_and_health(open_page, words, here):
    draw_pictures(here / "datasets" / "moss")
    page = open_page("dataset", dataset="moss")
    text = words(page)
    assert "5 pictures" in text and "/100" in text
    assert any("disc" in option for option in page.get("button_group")[0].options)


def test_a_bulk_edit_is_previewed_kept_over_a_reload_and_taken_back(open_page, words, here):
    folder = draw_pictures(here / "datasets" / "moss")
    before = captions.caption_of(folder / "00.png")
    page = open_page("dataset")
    page.text_input(key="bulk what").set_value("<b>new</b>").run()
    assert f"+ {before}, <b>new</b>" in words(page)
    page.button(key="bulk go").click().run()
    assert not page.exception
    assert captions.caption_of(folder / "00.png") == f"{before}, <b>new</b>"
    page = open_page("dataset")
    page.button(key="undo").click().run()
    assert captions.caption_of(folder / "00.png") == before
    page.button(key="redo").click().run()
    assert captions.caption_of(folder / "04.png").endswith("<b>new</b>")


def test_the_filter_narrows_what_a_bulk_edit_changes(open_page, here):
    folder = draw_pictures(here / "datasets" / "moss")
    captions.write_captions(folder, {folder / "03.txt": "moss, hat"}, "test")
    page = open_page("dataset")
    page.text_input(key="filter").set_value("tag:hat AND NOT tag:smile").run()
    page.text_input(key="bulk what").set_value("seen").run()
    page.button(key="bulk go").click().run()
    changed = [path.name for path in sorted(folder.glob("*.txt")) if "seen" in path.read_text()]
    assert changed == ["03.txt"]


def test_a_filter_that_cannot_be_read_is_said(open_page, words, here):
    draw_pictures(here / "datasets" / "moss")
    page = open_page("dataset")
    page.text_input(key="filter").set_value("tag:hat AND (").run()
    assert not page.exception and "The filter cannot be read at character" in words(page)


def test_reasons_of_an_edit_are_shown(open_page, words, here):
    folder = draw_pictures(here / "datasets" / "moss")
    captions.write_captions(folder, {path: "moss, blue hair, hat" for path in folder.glob("*.txt")}, "test")
    page = open_page("dataset")
    page.selectbox(key="bulk").select("Take out what describes the character").run()
    assert "blue hair: in 100% of the captions" in words(page)
    page.button(key="bulk go").click().run()
    assert not page.exception and captions.caption_of(folder / "03.png") == "moss, hat"


def test_a_finding_is_fixed_and_undone(open_page, words, here):
    folder = draw_pictures(here / "datasets" / "moss")
    (folder / "copy.png").write_bytes((folder / "00.png").read_bytes())
    (folder / "copy.txt").write_text("moss, the same")
    page = open_page("dataset")
    opened(page, "kind duplicate")
    assert "copy.png is the same file as 00.png" in words(page) and "sets aside copy.png" in words(page)
    page.button(key="show duplicate").click().run()
    assert page.text_input(key="filter").value == 'issue:"duplicate"'
    opened(page, "kind duplicate")
    page.button(key="fix duplicate").click().run()
    assert not page.exception and not (folder / "copy.png").exists() and not (folder / "copy.txt").exists()
    page.button(key="undo").click().run()
    assert not page.exception and (folder / "copy.txt").read_text() == "moss, the same"
    assert "Took back “fix duplicate”" in page.toast[0].value.replace("\\", "")
    assert page.toast[0].proto.duration == 4
    page.button(key="redo").click().run()
    assert not page.exception and not (folder / "copy.png").exists() and not (folder / "copy.txt").exists()


def test_pictures_without_a_caption_get_the_trigger_word(open_page, words, here):
    folder = draw_pictures(here / "datasets" / "moss")
    (folder / "02.txt").unlink()
    page = open_page("dataset")
    opened(page, "kind no caption")
    page.button(key="fix no caption").click().run()
    assert not page.exception and captions.caption_of(folder / "02.png") == "moss"


def test_pictures_that_show_the_same_are_set_aside_as_a_group(open_page, words, here):
    folder = draw_pictures(here / "datasets" / "moss")
    with Image.open(folder / "00.png") as picture:
        picture.resize((picture.width // 2, picture.height // 2)).save(folder / "small.png")
    page = open_page("dataset")
    opened(page, "groups")
    page.button(key="aside 0").click().run()
    assert not page.exception and not (folder / "small.png").exists() and (folder / "00.png").exists()
    page.button(key="undo").click().run()
    assert (folder / "small.png").exists()


def test_tag_tables(open_page, here):
    draw_pictures(here / "datasets" / "moss")
    page = open_page("dataset")
    assert not page.dataframe
    opened(page, "tag tables")
    assert page.dataframe[0].value.iloc[0].tolist() == ["moss", 5, 1.0]
    assert page.dataframe[1].value.iloc[0]["together"] == 5


def test_every_crop_is_shown_page_by_page_or_bucket_by_bucket(open_page, here):
    draw_pictures(here / "datasets" / "moss", [(300, 170)] * 30 + [(256, 256)] * 2)
    page = open_page("dataset")

    def shown() -> set[str]:
        text = "".join(str(element.proto.body) for element in page.get("html"))
        return {f"{number:02}.png" for number in range(32) if f'alt="{number:02}.png"' in text}

    opened(page, "crops")
    first = shown()
    page.session_state["crop page 512 None 2"] = 2
    page.run()
    assert not page.exception and not first & shown()
    assert first | shown() == {f"{number:02}.png" for number in range(30)}  # squares lose nothing
    page.session_state["crop bucket 512"] = (512, 512)
    page.run()
    assert not page.exception and shown() == {"30.png", "31.png"}


def test_broken_pictures_and_captions_are_named(open_page, words, here):
    folder = draw_pictures(here / "datasets" / "moss")
    (folder / "bad.png").write_bytes(b"nothing")
    (folder / "01.txt").write_bytes(b"\xff\xfe\x00")
    text = words(open_page("dataset"))
    assert "bad.png" in text and "01.txt" in text


def test_an_empty_folder_says_so(open_page, words, here):
    (here / "datasets" / "empty").mkdir(parents=True)
    assert "No picture in this folder" in words(open_page("dataset"))


def test_an_address_cannot_lead_out_of_the_folder(open_page, words, here):
    draw_pictures(here / "secret", trigger="hidden")
    draw_pictures(here / "datasets" / "moss")
    for name in ("../secret", str(here / "secret"), "moss/../../secret"):
        assert "hidden" not in words(open_page("dataset", dataset=name))


def test_tagging_starts_a_worker(open_page, here, started):
    draw_pictures(here / "datasets" / "moss")
    page = open_page("dataset")
    box = page.selectbox(key="tagger")
    assert box.value.startswith("wd14:SmilingWolf/"), "what is right for pictures of one's own comes first"
    box.options.append("wd14:some where; rm -rf /")  # AppTest cannot type
    box.set_value("wd14:some where; rm -rf /")
    page.button(key="tag").click().run()
    assert not page.exception
    assert started[0][4:6] == ["tag", "datasets/moss"] and "--tagger=wd14:some where; rm -rf /" in started[0]


def test_what_tagging_has_written_is_said(open_page, here, started):
    draw_pictures(here / "datasets" / "moss")
    page = open_page("dataset")
    page.button(key="tag").click().run()
    job = jobs.latest("tag")
    job.log.write_text("Wrote 5 captions in datasets/moss.\nLeft 1 captions as they are; …\n")
    (job.folder / "result.json").write_text('{"code": 0}')
    assert "Wrote 5 captions in datasets/moss" in page.run().toast[0].value.replace("\\", "")


# ── compare ─────────────────────────────────────────────────────────────────────────────────────────────


def test_compare_over_nothing(open_page, words):
    assert "Nothing to compare yet" in words(open_page("compare"))


def test_a_second_run_is_rendered_below_and_its_rows_are_called_by_their_labels(open_page, words, started):
    run, other = make_comparison(), make_comparison(1)
    page = open_page("compare", run=run.name)
    page.selectbox(key=f"against {run.name}").select(other.name).run()
    page.multiselect(key=f"against epochs {other.name}").select(1).run()
    page.button(key="render").click().run()
    assert not page.exception
    assert f"--against={other.path}" in started[0] and "--against-epochs=1" in started[0]


def test_two_runs_are_told_apart(open_page, words):
    run = make_comparison(3)
    folder = run.evaluation_folder("character")
    evaluation = Evaluation.load(folder)
    evaluation.labels = {3: "hat epoch 1"}  # as `evaluate --against` numbers a second run
    evaluation.recommended = None
    evaluation.about["Scores of hat"] = "epoch 1 is *good*"
    evaluation.save(folder)
    page = open_page("compare", run=run.name)
    table = page.get("html")[0].proto.body
    assert "hat epoch 1" in table and "epoch 2" in table and "epoch 3" not in table
    assert "Scores of hat: epoch 1 is *good*" in words(page)
    assert page.selectbox(key="export").options == ["1", "2"]  # the second run's is not this run's to export
    assert comparison.place(evaluation, 3) == {"run": "hat", "epoch": 1}
    assert comparison.place(evaluation, 2) == {"run": run.name, "epoch": 2}


def test_compare_shows_grid_and_recommendation(open_page, words):
    make_comparison()
    page = open_page("compare")
    assert "Likeness has *stopped* rising" in words(page)
    table = page.get("html")[0].proto.body
    assert table.index("no LoRA") < table.index("epoch 1") < table.index("epoch 2 ★")
    assert "<b>portrait" not in table and "data:image/webp" in table


def test_a_cell_cannot_read_outside_of_the_comparison(open_page, here):
    run = make_comparison()
    Image.new("RGB", (32, 32)).save(here / "secret.png")
    index = run.evaluation_folder("character") / "evaluation.json"
    values = json.loads(index.read_text())
    for cell in values["cells"]:
        cell["file"] = "cells/../../../../../secret.png"
    index.write_text(json.dumps(values))
    assert "data:image" not in open_page("compare").get("html")[0].proto.body


def test_a_damaged_comparison_is_named(open_page, words):
    run = make_comparison()
    (run.evaluation_folder("character") / "evaluation.json").write_text("{")
    assert "damaged" in words(open_page("compare"))


def test_a_run_that_was_not_rendered_offers_it(open_page, words, started):
    run = Run.create(presets.layer({"name": "moss"}))
    run.epoch_path(1).write_bytes(b"LoRA")
    page = open_page("compare")
    assert "Not rendered yet" in words(page)
    page.button(key="render").click().run()
    assert not page.exception
    assert started[0][4:6] == ["evaluate", f"runs/{run.name}"] and "--prompts=character" in started[0]


def test_where_nothing_is_rendered_one_click_renders_all(open_page, words, started):
    run = Run.create(presets.layer({"name": "moss", "evaluation.seeds": [3, 4], "evaluation.strengths": [0.5, 1]}))
    run.epoch_path(1).write_bytes(b"LoRA")
    page = open_page("compare")
    page.button(key="render all").click().run()
    assert not page.exception
    assert started[0][4:6] == ["evaluate", f"runs/{run.name}"]
    assert {"--prompts=character", "--strengths=0.5, 1", "--seeds=3, 4"} <= set(started[0])
    assert "Not rendered yet" not in words(page.run()), "a bar says how far it is"


def test_every_score_is_explained(open_page):
    make_comparison()
    page = open_page("compare")
    assert METRICS["likeness"].meaning in unescape("".join(one.value for one in page.get("html")))
    page.session_state["view"] = "Scores"
    helps = {one.value: one.help for one in page.run().markdown if one.help}
    assert any(METRICS["likeness"].meaning in text.replace("\\", "") for text in helps.values())


def test_export_starts_a_worker(open_page, started):
    make_comparison()
    page = open_page("compare")
    page.button(key="export go").click().run()
    assert not page.exception
    assert started[0][4] == "export" and "--epoch=2" in started[0]


# ── library ─────────────────────────────────────────────────────────────────────────────────────────────


def test_library_over_nothing(open_page, words):
    assert "No LoRA here yet" in words(open_page("library"))


def test_library_shows_what_a_file_is(open_page, words):
    import torch

    from trainer import kohya

    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{name}.lora_down.weight": torch.zeros(4, 768),
        f"{name}.lora_up.weight": torch.zeros(320, 4),
        f"{name}.alpha": torch.tensor(4.0),
    }
    metadata = {"ss_tag_frequency": json.dumps({"1_x": {"**moss**": 5}}), "ss_network_dim": "4"}
    kohya.write(Path("models") / "moss.safetensors", tensors, metadata)
    text = words(open_page("library"))
    assert "SD 1.5" in text and "<lora:moss:1>" in text


def test_a_broken_file_is_named_and_the_others_shown(open_page, words):
    Path("models").mkdir()
    (Path("models") / "bad.safetensors").write_bytes(b"nothing")
    assert "bad.safetensors" in words(open_page("library"))
