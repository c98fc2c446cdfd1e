"""A prompt taken apart."""

import json
import sys

import pytest
import tiny
import torch
from safetensors.torch import save_file

from trainer import __main__ as cli
from trainer import explain
from trainer.errors import UserError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a base that has nothing but a tokenizer, a LoRA and two embeddings."""
    monkeypatch.chdir(tmp_path)
    tiny.write_tokenizer(tmp_path / "base" / "tokenizer")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Moss.safetensors").touch()
    (tmp_path / "embeddings").mkdir()
    save_file({"emb_params": torch.zeros(3, 8)}, tmp_path / "embeddings" / "soft.safetensors")
    torch.save({"string_to_param": {"*": torch.zeros(2, 8)}}, tmp_path / "embeddings" / "old.pt")
    return tmp_path


def test_the_json_has_the_agreed_shape(here, monkeypatch, capsys):
    text = "(cat:1.2) [a:b:0.5] <lora:moss:0.8> AND dog :0.5"
    monkeypatch.setattr(sys, "argv", ["lora-studio", "prompt", text, "--steps", "10", "--base", "base", "--json"])
    cli.main()
    value = json.loads(capsys.readouterr().out)
    assert value["networks"] == [{"kind": "lora", "name": "moss", "args": ["0.8"]}]
    first, second = value["branches"]
    assert [entry["until"] for entry in first["schedule"]] == [5, 10]
    assert first["schedule"][0]["attention"][0] == ["cat", 1.2]
    assert (second["weight"], second["schedule"][0]["until"]) == (0.5, 10)
    assert value["chunks"] == [{"tokens": 4, "text": "cat a"}, {"tokens": 3, "text": "dog"}]


def test_files_that_a_prompt_names_are_found_or_missing(here):
    found = explain.explain("soft cat, old, embedding:gone <lora:moss:1> <lora:none:1>", base="base")
    assert found.networks["moss"].name == "Moss.safetensors" and found.networks["none"] is None
    assert {one.name: one.vectors for one in found.embeddings} == {"soft": 3, "old": 2, "gone": None}
    said = dict(explain.lines(found))
    assert found.chunks[0][0].embeddings[0] == (1, "soft")
    assert said["Embedding"] == "gone: missing in embeddings/"
    assert "missing in models/" in said["Network"]


def test_a_long_prompt_and_an_empty_one(here):
    found = explain.explain(", ".join(["cat"] * 50), base="base")
    assert len(found.chunks[0]) == 3 and sum(chunk.count for chunk in found.chunks[0]) == 199
    assert [chunk.count for chunk in explain.explain("", base="base").chunks[0]] == [0]


def test_without_a_tokenizer_words_and_marks_are_counted(here, monkeypatch):
    monkeypatch.setattr(explain, "DEFAULT_BASE", "toybox/none")
    found = explain.explain("a cat's hat, 2 dogs")
    assert found.counted_by == explain.ESTIMATE
    assert found.chunks[0][0].count == 7
    assert "no tokenizer" in dict(explain.lines(found))["Counting"]


def test_what_makes_no_sense_is_said(here):
    with pytest.raises(UserError, match="at least 1"):
        explain.explain("cat", 0, base="base")
    with pytest.raises(UserError, match="no base model"):
        explain.explain("cat", base="nowhere.safetensors")
    (here / "embeddings" / "soft.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"soft\.safetensors"):
        explain.explain("soft", base="base")


def test_a_hires_pass_reads_its_own_half_of_the_schedule(here):
    schedule = explain.explain("[a:b:1.5]", 20, 10, base="base").prompt.branches[0].schedule
    assert [(entry.until, entry.text) for entry in schedule] == [(5, "a"), (10, "b")]
