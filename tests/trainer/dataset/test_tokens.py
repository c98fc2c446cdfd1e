"""Exact token counts without torch: the same as the trainer's tokenizer, and found where tools keep it."""

import random
import shutil
import string
from pathlib import Path

import pytest

from trainer import toybox
from trainer.dataset import tokens
from trainer.errors import UserError
from trainer.families.tokens import tokenizer

FOLDER = toybox.PARTS["sd15"] / "tokenizer"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the toybox is not installed")
def test_as_many_as_the_trainer_counts():
    rng = random.Random(0)
    letters = string.ascii_letters + string.digits + string.punctuation + "   \n\täÉ中文½٣🎉'"
    texts = ["", "a cat", "moss, HAT,  blue_hair, it's 100%", r"fate \(series\)", "<|endoftext|> x", "e\u0301te"]
    texts += ["".join(rng.choices(letters, k=rng.randint(1, 60))) for _ in range(300)]
    exact = tokenizer("toybox/sd15").ids
    assert tokens.Counter(FOLDER).count(texts) == [len(exact(text)) for text in texts]


def copied(to: Path) -> Path:
    to.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(FOLDER / name, to / name)
    return to


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the toybox is not installed")
def test_where_it_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv(tokens.VARIABLE, raising=False)
    assert tokens.find("toybox/sd15") == FOLDER
    assert tokens.find("") is tokens.find(str(tmp_path / "nothing.safetensors")) is tokens.find("owner/model") is None
    base = tmp_path / "models" / "dream.safetensors"
    base.parent.mkdir()
    base.write_bytes(b"x")
    assert tokens.find(str(base), [tmp_path / "ComfyUI"]) is None
    # From the last place that is looked at to the first.
    comfy = copied(tmp_path / "ComfyUI" / tokens.SHIPPED[0])
    assert tokens.find(str(base), [tmp_path / "ComfyUI"]) == comfy
    cached = copied(tmp_path / "cache/hub" / tokens.HUB / "snapshots/abc")
    assert tokens.find(str(base), [tmp_path / "ComfyUI"]) == cached
    monkeypatch.setenv(tokens.VARIABLE, str(copied(tmp_path / "named")))
    assert tokens.find(str(base)) == tmp_path / "named"
    beside = copied(base.parent / "tokenizer")
    assert tokens.find(str(base)) == beside
    inside = copied(tmp_path / "diffusers" / "tokenizer")
    assert tokens.find(str(tmp_path / "diffusers")) == inside
    hub = copied(tmp_path / "cache/hub/models--owner--model/snapshots/1/tokenizer")
    assert tokens.find("owner/model") == hub


def test_files_that_are_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokens.holds(tmp_path)
    with pytest.raises(UserError, match="no usable CLIP tokenizer"):
        tokens.Counter(tmp_path).count(["a"])
