"""What the trainer says is shown in the reader's language, made from the patterns that stand in its source."""

import json
import re

import pytest
from comparisons import make_comparison
from trainees import draw_pictures

from studio import fullsize, language, sentences, text
from trainer import checks, doctor, presets, report, toybox
from trainer.cells import Evaluation, Row
from trainer.dataset import health
from trainer.errors import UserError
from trainer.families import folder, sources
from trainer.recommend import recommend


@pytest.fixture
def chinese(monkeypatch):
    monkeypatch.setattr(language, "current", lambda: "zh_CN")


def reads_chinese(said: str) -> bool:
    return any("\u4e00" <= letter <= "\u9fff" for letter in said)


def test_problems_come_with_their_numbers(chinese):
    config = presets.layer(
        {"adapter.rank": 4, "adapter.alpha": 64, "optimizer.learning_rate": 2, "data.bucket_max": 256}
    )
    problems = checks.check(config, [])
    assert len(problems) >= 3
    for problem in problems:
        assert reads_chinese(sentences.said(problem.reason)), problem.reason
    alpha = next(problem.reason for problem in problems if problem.setting == "adapter.alpha")
    assert sentences.said(alpha) == "alpha 64 大于 dim 4，会把 LoRA 放大 16 倍并烧坏它。"


def test_findings_of_a_real_folder(chinese, here):
    folder = draw_pictures(here / "moss")
    (folder / "00.txt").unlink()
    (folder / "01.txt").write_text("hat")
    (folder / "02.png").write_bytes((folder / "03.png").read_bytes())
    found = health.check(folder, trigger="moss").findings
    assert {"few pictures", "no caption", "trigger missing", "duplicate"} <= {finding.kind for finding in found}
    for finding in found:
        if finding.kind in ("few pictures", "no caption", "trigger missing", "duplicate"):
            assert reads_chinese(sentences.said(finding.what)), finding.what
            assert reads_chinese(sentences.said(finding.remedy)), finding.remedy


def test_a_recommendation_is_put_together_from_its_parts(chinese):
    values = [(0.1, 0.0), (0.5, 0.02), (0.9, 0.02), (0.9, 0.5), (0.9, 0.6)]
    rows = [
        Row(at, 1.0, {"likeness": like, "bleed": bleed, "diversity": 0.6}) for at, (like, bleed) in enumerate(values)
    ]
    for losses in (None, [0.3, 0.2, 0.1, 0.1, 0.1], [0.3, 0.2, 0.1, 0.15, 0.3]):
        for row, loss in zip(rows, losses or ()):
            row.scores["loss"] = loss
        said = sentences.said(recommend(rows)["reason"])
        assert said.startswith("第 2 轮：") and not any(letter.isalpha() and letter.isascii() for letter in said), said


def test_errors_are_translated_where_they_are_shown_and_unknown_ones_stay(chinese):
    assert "没有提示词" in text.escape(
        UserError("my.toml holds no prompts: write each as a [[prompt]] table with name and prompt.")
    )
    assert sentences.said("Nobody ever wrote this sentence down.") == "Nobody ever wrote this sentence down."
    assert sentences.said("moss and fern") == "moss and fern", "what people write is not translated"


def test_what_is_filled_into_an_error_is_translated_as_well(chinese, here):
    (here / "index").mkdir()
    found = []
    for fails in (
        lambda: sources.resolve(""),
        lambda: presets.parse_override("adapter.rnak=4"),
        lambda: folder.detect(here / "index"),
    ):
        with pytest.raises(UserError) as raised:
            fails()
        found.append(sentences.said(raised.value))
    assert "请给出 SD 1.5、SD 2.x 或 SDXL 的模型文件" in found[0]
    assert "你是指 'adapter.rank' 吗？" in found[1] or "你是指 adapter.rank 吗？" in found[1]
    assert "不是 diffusers 模型文件夹" in found[2]


def test_the_doctors_report_reads_chinese(chinese, monkeypatch):
    monkeypatch.setattr(toybox, "PARTS", {"sd15": toybox.PARTS["sd15"] / "nowhere"})
    findings = doctor.examine()
    assert any("toybox" in finding.what and finding.level == "problem" for finding in findings)
    for finding in findings:
        if finding.level != "ok":  # those are names and versions
            assert reads_chinese(sentences.said(finding.what)), finding.what
            assert reads_chinese(sentences.said(finding.remedy)), finding.remedy


def test_what_can_be_taken_back(chinese):
    assert sentences.done("add files") == "添加文件"
    assert sentences.done("edit 01.png") == "编辑 01.png"
    assert sentences.done("fix duplicate") == "修复重复文件"
    assert sentences.done("no mask Remove.png") == "去掉 Remove.png 的蒙版"
    assert sentences.done("Remove: hat: a {b}") == "移除：hat: a {b}"
    assert sentences.done("by hand elsewhere") == "by hand elsewhere"


def test_the_report_speaks_the_readers_language(chinese, here, monkeypatch):
    monkeypatch.setattr(report, "words", report.in_english)  # as without a studio
    folder = make_comparison(3).evaluation_folder("character")
    evaluation = Evaluation.load(folder)
    evaluation.recommended = recommend(evaluation.rows)
    page = fullsize.page(evaluation, folder)
    found = words_in(page)
    assert found["language"] == "zh-CN" and found["texts"]["epoch {n}"] == "第 {n} 轮"
    said = [found["texts"][text] for text in report.texts_about(evaluation)]
    assert len(said) > 6 and all(map(reads_chinese, said))
    # Whoever wrote the file: the command line in English, the studio in its reader's language.
    assert words_in((folder / "report.html").read_text(encoding="utf-8")) == report.NO_WORDS
    monkeypatch.setattr(report, "words", sentences.of_report)
    assert words_in(report.write_report(evaluation, folder).read_text(encoding="utf-8")) == found


def words_in(page):
    return json.loads(re.search('id="words">(.*?)</script>', page)[1])


def test_what_an_export_prints_and_how_lists_end(chinese):
    for said in (
        "Exported to models/moss.safetensors (1.86 MB)",
        "Checked: loaded again, it draws the comparison's 'portrait' to within one step of 255.",
        "In your prompt: <lora:moss:1> moss",
        "00.jpg, 01.jpg, 02.jpg and 1 more",
    ):
        assert reads_chinese(sentences.said(said)), said


def test_times_are_said_in_the_readers_units(chinese):
    said = [sentences.duration(seconds) for seconds in (5, 75, 700, 5400)]
    assert said == ["5 秒", "1 分 15 秒", "12 分钟", "1 小时 30 分"]
    assert sentences.said("moss s") == "moss s"


def test_english_is_left_alone():
    assert sentences.said("alpha 64 is above dim 4") == "alpha 64 is above dim 4"


def test_patterns_are_read_from_the_source():
    import ast

    source = """
def rule(a):
    "Not this."
    return f"{a.rank:g} of {sum(a.b)} is {{odd}}, and {a.rank} stays", "key.only"
"""
    assert list(sentences.patterns(ast.parse(source), True)) == ["{rank} of {sum} is {{odd}}, and {rank2} stays"]
    source = """
HOW = "give a file"
OTHER = "not this one"
def fails(name):
    why = f"it is {name}" if name else "there is none"
    raise UserError(f"{why}: {HOW}")
"""
    assert set(sentences.patterns(ast.parse(source), False)) == {"it is {name}", "there is none", "give a file"}
