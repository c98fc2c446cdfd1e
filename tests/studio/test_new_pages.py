"""PNG info, settings, the library's shelf, uploads by zip, prompt sets, and the blind vote."""

import io
import json
import time
import zipfile
from pathlib import Path

import pytest
from comparisons import make_comparison
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio import jobs, loras, places, preferences, prompt_sets, shelf, uploads
from trainer import kohya, vote
from trainer.cells import Evaluation
from trainer.errors import UserError
from trainer.prompt_sets import read_prompts

INFOTEXT = (
    "moss, <b>hat</b>\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512"
)


def png(text: str = "") -> bytes:
    buffer, info = io.BytesIO(), PngInfo()
    if text:
        info.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def lora(path: Path, **metadata: str) -> Path:
    import torch

    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{name}.lora_down.weight": torch.zeros(4, 768),
        f"{name}.lora_up.weight": torch.zeros(320, 4),
        f"{name}.alpha": torch.tensor(4.0),
    }
    kohya.write(path, tensors, metadata)
    return path


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    commands: list[list[str]] = []
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda command, **_: commands.append(command))
    return commands


# ── PNG info ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pictures_settings_become_a_prompt(open_page, words, here):
    page = open_page("png_info")
    page.file_uploader(key="drop").upload("a.png", png(INFOTEXT), "image/png").run()
    assert "moss, <b>hat</b>" in words(page)
    page.selectbox(key="set").select("mine").run()
    page.button(key="append").click().run()
    assert not page.exception
    (prompt,) = read_prompts(here / "presets" / "prompts" / "mine.toml")
    assert prompt.seed == 5 and prompt.negative == "blurry"


def test_what_a_file_says_is_labelled_in_one_language_and_its_own_words_stay(open_page, words, here):
    preferences.save(preferences.Preferences(language="zh_CN"))
    page = open_page("png_info")
    page.file_uploader(key="drop").upload("a.png", png(INFOTEXT.replace("blurry", "no")), "image/png").run()
    said = [one.value for one in page.caption]
    assert not page.exception and {"来源", "负面提示词", "步数", "采样器", "种子"} <= set(said)
    assert [label for label in said if label.isascii()] == []
    assert "A1111 的生成信息" in words(page) and {"Euler a", "no"} <= {one.value for one in page.text}
    path = lora(here / "x.safetensors", ss_epoch="3")
    page.file_uploader(key="drop").upload("x.safetensors", path.read_bytes()).run()
    assert not page.exception
    places.MODELS.mkdir(exist_ok=True)
    path.rename(places.MODELS / "x.safetensors")
    assert "能否在 ComfyUI 中加载" in words(open_page("library"))


@pytest.mark.parametrize(("name", "content"), [("a.png", png()), ("a.png", b"<html>"), ("a.safetensors", b"x" * 99)])
def test_what_carries_nothing_says_so_without_a_traceback(open_page, here, name, content):
    page = open_page("png_info")
    page.file_uploader(key="drop").upload(name, content).run()
    assert not page.exception and page.error and "/tmp" not in page.error[0].value


def test_a_loras_settings_go_to_the_train_form(open_page, here):
    path = lora(
        here / "x.safetensors", ss_network_dim="24", ss_learning_rate="0.0002", ss_epoch="3", ss_lr_warmup="<b>"
    )
    page = open_page("png_info")
    page.file_uploader(key="drop").upload("x.safetensors", path.read_bytes()).run()
    labels, values = [one.value for one in page.caption], [one.value for one in page.text]
    assert {"Network dim", "Learning rate (UNet)"} <= {text.replace("\\", "") for text in labels}, "as the form says it"
    assert {"24", "0.0002"} <= set(values) and "adapter.rank" not in labels
    page.button(key="use").click().run()
    assert not page.exception
    draft = page.session_state["draft"]
    assert draft["adapter.rank"] == 24 and not any("<b>" in str(value) for value in draft.values())


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_linked_folder_offers_its_models_and_is_never_written(open_page, words, here, tmp_path_factory):
    other = tmp_path_factory.mktemp("webui")
    lora(other / "models" / "Lora" / "theirs.safetensors")
    preferences.save(preferences.Preferences(model_folders=[str(other), "/nowhere"]))
    assert [path.name for path in places.loras()] == ["theirs.safetensors"]
    assert "theirs" in words(open_page("library"))
    with pytest.raises(UserError, match="not in models"):
        shelf.rename(places.loras()[0], "mine")
    with pytest.raises(UserError, match="not in models"):
        shelf.describe(places.loras()[0], {"notes": "x"})


def test_the_doctors_report_is_shown_finding_by_finding(open_page, words, here):
    job = jobs.start("doctor", "--json")
    end = time.monotonic() + 300
    while job.active:
        assert time.monotonic() < end
        time.sleep(0.2)
    page = open_page("settings")
    assert "Python 3." in words(page) and "GB free here" in words(page)
    assert not page.code or "{" not in page.code[-1].value
    preferences.save(preferences.Preferences(language="zh_CN"))
    assert "此处可用空间" in words(open_page("settings"))
    # A doctor that could not work leaves its log.
    job.log.write_text("Traceback: no torch\n")
    assert "no torch" in words(open_page("settings"))


def test_damaged_settings_count_as_none(here):
    preferences.FILE.parent.mkdir()
    for text in ("[", "[]", '{"language": 3, "device": "gpu; rm", "model_folders": "x"}'):
        preferences.FILE.write_text(text)
        assert preferences.load() == preferences.Preferences()


def test_the_family_of_a_base_is_read_from_its_header(here, monkeypatch):
    import torch
    from safetensors.torch import save_file

    monkeypatch.setattr(places, "SMALLEST_BASE", 1)
    Path("models").mkdir()
    for name, key in (("xl", "conditioner.embedders.1.model.x"), ("one", "cond_stage_model.transformer.x")):
        save_file({key: torch.zeros(1)}, f"models/{name}.safetensors")
    labels = {Path(base.path).stem: base.label for base in places.bases()}
    assert labels["xl"].endswith("SDXL") and labels["one"].endswith("SD 1.5")


# ── the library ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_lora_is_renamed_with_what_lies_beside_it_and_never_over_another(here):
    path = lora(Path("models") / "moss.safetensors")
    for end in (".json", ".preview.png"):
        path.with_name("moss" + end).write_text("{}")
    lora(Path("models") / "fern.safetensors")
    with pytest.raises(UserError, match="there already"):
        shelf.rename(path, "fern")
    for name in ("../evil", "a/b", "", ".hidden"):
        with pytest.raises(UserError, match="plain name"):
            shelf.rename(path, name)
    shelf.rename(path, "moss-2")
    assert {one.name for one in Path("models").iterdir()} == {
        "moss-2.safetensors", "moss-2.json", "moss-2.preview.png", "fern.safetensors"}  # fmt: skip


def test_a_card_is_described_searched_and_keeps_what_else_it_holds(open_page, words, here):
    path = lora(Path("models") / "moss.safetensors")
    path.with_suffix(".json").write_text(json.dumps({"sd version": "SD1", "activation text": "moss"}))
    shelf.describe(path, {"description": "a <b>green</b> one", "preferred weight": 0.8})
    assert loras.card_of(path)["sd version"] == "SD1"
    page = open_page("library")
    assert "<lora:moss:0.8> moss" in words(page) and "a <b>green</b> one" in [element.value for element in page.text]
    page.text_input(key="filter").set_value("no such").run()
    assert "Nothing here" in words(page)


# ── uploads ─────────────────────────────────────────────────────────────────────────────────────────────


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_zip_is_unpacked_and_cannot_leave_the_folder(here):
    names = ["a.png", "sub/b.png", "../../evil.png", "/abs.png", "__MACOSX/._a.png", "run.exe"]
    content = zipped(**dict.fromkeys(names, png()), **{"a.txt": b"moss"})
    report = uploads.save("moss", [("set.zip", content)])
    assert {path.name for path in report.written} == {"a.png", "b.png", "evil.png", "abs.png", "a.txt"}
    assert all(path.parent == here / "datasets" / "moss" for path in here.rglob("*.png"))
    assert "run.exe" in report.refused[0]


def test_a_zip_that_is_none_or_a_bomb_is_refused(here, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_UNPACKED", 10)
    report = uploads.save("moss", [("a.zip", b"PK nonsense"), ("b.zip", zipped(**{"a.png": png()}))])
    assert len(report.refused) == 2 and not report.written


# ── prompt sets ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_prompt_set_is_kept_only_when_it_can_be_read(here):
    path = prompt_sets.save("../mine", '[[prompt]]\nname = "a"\nprompt = "moss"\n')
    assert path.parent == places.PRESETS / "prompts"
    with pytest.raises(UserError, match="promt"):
        prompt_sets.save("mine", '[[prompt]]\nname = "a"\npromt = "moss"\n')
    assert [prompt.prompt for prompt in read_prompts(path)] == ["moss"]


# ── the blind vote ──────────────────────────────────────────────────────────────────────────────────────


def test_votes_go_on_until_there_is_a_winner_that_is_exported_in_one_click(open_page, words, started):
    run = make_comparison(epochs=2)
    folder = run.evaluation_folder("character")
    page = open_page("compare")
    page.session_state["view"] = "Blind vote"
    page.run()
    for _ in range(80):
        keys = {button.key for button in page.button}
        if "vote left" not in keys:
            break
        assert "epoch 1" not in words(page).casefold().replace("epoch 1 ", "")
        pair = vote.Ballot(Evaluation.load(folder), folder, strength=1.0).next()
        page.button(key="vote left" if pair.left.epoch == 1 else "vote right").click().run()
        assert not page.exception
    assert "Epoch 1 is the clear winner" in words(page)
    assert Evaluation.load(folder).recommended["epoch"] == 1
    page.button(key="export winner").click().run()
    assert started[0][4] == "export" and "--epoch=1" in started[0] and "--name=moss-e1" in started[0]


def test_a_vote_can_be_taken_back(open_page):
    run = make_comparison(epochs=2)
    folder = run.evaluation_folder("character")
    page = open_page("compare")
    page.session_state["view"] = "Blind vote"
    page.run()
    page.button(key="vote tie").click().run()
    assert len(vote.read_votes(folder)) == 1
    page.button(key="vote undo").click().run()
    assert vote.read_votes(folder) == []


@pytest.mark.parametrize("view", ["Scores", "Viewer"])
def test_the_other_views_open(view, open_page):
    make_comparison()
    page = open_page("compare")
    page.session_state["view"] = view
    page.run()
    assert not page.exception
