"""What a picture was made with, shown and carried into a prompt set."""

import io
import json
import sys

import pytest
from PIL import Image

from trainer import __main__ as cli
from trainer import hires, pnginfo
from trainer.cells import Hires
from trainer.errors import UserError
from trainer.prompt_sets import read_prompts
from trainer.webui import infotext, samplers
from trainer.webui.infotext import Infotext, parse

TEXT = """moss, (hat:1.2), <lora:moss-000004:0.8>
Negative prompt: blurry, "bad" \\ hands
Steps: 24, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 123456789, Size: 512x768, \
Model hash: a074b8864e, Clip skip: 2, Version: v1.10.1"""


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "moss.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=infotext.pnginfo(infotext.parse(TEXT)))
    return path


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["lora-studio", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0
    return 0


def test_json_has_the_settings_in_order_and_as_text(picture, monkeypatch, capsys):
    assert run(monkeypatch, "png-info", picture, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value) == ["source", "prompt", "negative_prompt", "settings"]
    assert value["source"] == "a1111"
    assert value["settings"]["Size"] == "512x768"
    assert list(value["settings"])[:3] == ["Steps", "Sampler", "Schedule type"]


def test_pasted_text_and_text_beside_a_picture(picture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT))
    assert run(monkeypatch, "png-info", "-", "--json", "--to", tmp_path / "set.toml") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == pnginfo.read(picture).as_json() and read_prompts(tmp_path / "set.toml")[0].name == "pasted"
    (tmp_path / "moss.txt").write_text(TEXT, encoding="utf-8-sig")
    assert pnginfo.read(tmp_path / "moss.txt").as_json() == shown
    monkeypatch.setattr(sys, "stdin", io.StringIO(" "))
    assert run(monkeypatch, "png-info", "-") == 2 and "There is no text" in capsys.readouterr().err


def test_a_picture_becomes_an_entry_and_the_set_keeps_its_text(picture, tmp_path, monkeypatch, capsys):
    path = tmp_path / "set.toml"
    before = '# mine\nabout = "x"\n\n[[prompt]]\nname = "moss"   # keep\nprompt = "a [trigger]"'
    path.write_bytes(before.encode())
    assert run(monkeypatch, "png-info", picture, "--to", path) == 0
    assert path.read_text().startswith(before + "\n\n[[prompt]]\n")
    added = read_prompts(path, "moss")[1]
    assert (added.name, added.prompt, added.negative) == ("moss 2", "moss, (hat:1.2)", 'blurry, "bad" \\ hands')
    assert (added.seed, added.width, added.height, added.steps) == (123456789, 512, 768, 24)
    assert (added.sampler, added.cfg_scale, added.clip_skip) == ("DPM++ 2M", 6.5, 2)  # Karras is its own schedule
    out = " ".join(capsys.readouterr().out.split())
    assert "Taken out of the prompt: <lora:moss-000004:0.8>" in out and "Model hash" in out
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_a_new_set_is_made_and_read_back(picture, tmp_path):
    path = tmp_path / "new.toml"
    info = pnginfo.read(picture).info
    assert [pnginfo.append(info, path, "a").name for _ in range(3)] == ["a", "a 2", "a 3"]
    assert len(read_prompts(path)) == 3


@pytest.mark.parametrize("label", samplers.SAMPLERS)
def test_every_sampler_with_every_schedule_is_carried_exactly(label):
    for schedule in samplers.SCHEDULES:
        entry, _ = pnginfo.entry_of(Infotext("x", "", {"Sampler": label, "Schedule type": schedule}))
        wanted = samplers.resolve(label, schedule)
        assert samplers.resolve(entry["sampler"]) == wanted


def test_what_cannot_come_along_is_said(tmp_path):
    settings = {"Steps": "20", "Sampler": "Wavy", "Seed": "-1", "Size": "515x770"}
    settings |= {"CFG scale": "x", "Clip skip": "40", "Hires upscale": "2", "Mask blur": "4"}
    entry, notes = pnginfo.entry_of(Infotext("x", "", settings))
    hires = {"upscaler": "Latent", "upscale": 2.0}
    assert entry == {"prompt": "x", "width": 512, "height": 768, "steps": 20, "hires": hires}
    said = " ".join(notes)
    for word in ("Wavy", "Seed -1", "512x768", "CFG scale 'x'", "clip_skip = 40", "Mask blur"):
        assert word in said


def test_the_hires_fix_comes_along_and_back(tmp_path):
    """What users write: hires fix, denoise 0.5, by 2, R-ESRGAN 4x+ Anime6B, a sampler of its own."""
    text = (
        "cat\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 1, Size: 64x64, "
        "Denoising strength: 0.5, Hires upscale: 2, Hires steps: 10, Hires upscaler: R-ESRGAN 4x+ Anime6B, "
        "Hires sampler: Euler"
    )
    pnginfo.append(parse(text), tmp_path / "set.toml", "one")
    prompt = read_prompts(tmp_path / "set.toml")[0]
    wanted = Hires(upscaler="R-ESRGAN 4x+ Anime6B", denoise=0.5, steps=10, sampler="Euler Karras")
    assert prompt.hires == wanted
    written = hires.settings(wanted, prompt.sampler)
    assert {key: value for key, value in written.items() if value is not None} == {
        "Denoising strength": 0.5, "Hires upscale": 2.0, "Hires steps": 10,
        "Hires upscaler": "R-ESRGAN 4x+ Anime6B", "Hires sampler": "Euler",
    }  # fmt: skip
    resized = parse("cat\nSteps: 20, Sampler: Euler, Seed: 1, Size: 64x64, Hires resize: 128x0, Hires upscaler: None")
    assert pnginfo.entry_of(resized)[0]["hires"] == {"upscaler": "None", "width": 128}
    too_much = parse("cat\nSteps: 20, Sampler: Euler, Seed: 1, Hires upscale: 40")
    entry, notes = pnginfo.entry_of(too_much)
    assert "hires" not in entry and "upscale = 40" in " ".join(notes)


def test_the_hires_fix_has_its_own_words_and_cfg(tmp_path):
    """As A1111 and Forge write them: quoted, with the LoRA that the epochs take the place of."""
    text = (
        "a cat <lora:moss-000004:0.8>\nNegative prompt: dog\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, "
        "Size: 64x64, Denoising strength: 0.5, Hires upscale: 2, Hires prompt: "
        '"a cat, (fur:1.2) <lora:moss-000004:0.8>", '
        'Hires negative prompt: "dog, blurry", Hires CFG Scale: 5, Version: f2'
    )
    added = pnginfo.append(parse(text), tmp_path / "set.toml", "one")
    assert added.notes == ("Taken out of the prompt: <lora:moss-000004:0.8>; the epochs take its place.",)
    found = read_prompts(tmp_path / "set.toml")[0]
    assert found.prompt == "a cat"
    assert found.hires == Hires(
        prompt="a cat, (fur:1.2)", negative="dog, blurry", cfg_scale=5.0, denoise=0.5, sampler=""
    )
    # What is written is read the same.
    settings = {"Steps": 20, "Sampler": "Euler", "Seed": 1} | hires.settings(found.hires, "Euler", " <lora:moss:1>")
    again = parse(infotext.write(Infotext("a cat", "dog", infotext.ordered(settings))))
    assert again.settings["Hires prompt"] == "a cat, (fur:1.2) <lora:moss:1>"
    assert Hires(**pnginfo.entry_of(again)[0]["hires"]) == found.hires
    # Nothing of its own is nothing to write.
    same = parse(text.replace("a cat, (fur:1.2) <", "a cat <"))
    assert "prompt" not in pnginfo.entry_of(same)[0]["hires"]


def test_noise_eta_and_emphasis_come_along():
    settings = {
        "Steps": "20",
        "Sampler": "Euler a",
        "ENSD": "31337",
        "RNG": "CPU",
        "Eta": "0.67",
        "Emphasis": "No norm",
    }
    entry, notes = pnginfo.entry_of(Infotext("x", "", settings))
    wanted = {"ensd": 31337, "noise_source": "CPU", "eta": 0.67, "emphasis": "No norm"}
    assert wanted.items() <= entry.items() and notes == ()
    entry, notes = pnginfo.entry_of(Infotext("x", "", settings | {"RNG": "TPU", "Eta": "9"}))
    assert "noise_source" not in entry and "eta" not in entry
    assert "noise_source = TPU" in " ".join(notes) and "eta = 9" in " ".join(notes)


def test_a_picture_without_settings_and_a_broken_set(picture, tmp_path):
    plain = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(plain)
    with pytest.raises(UserError, match="carries no settings"):
        pnginfo.read(plain)
    with pytest.raises(UserError, match="no picture"):
        pnginfo.read(tmp_path / "none.png")
    info = pnginfo.read(picture).info
    for text in ("prompt = []\n", "[[prompt\n"):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(UserError, match=r"bad\.toml"):
            pnginfo.append(info, tmp_path / "bad.toml", "a")
        assert (tmp_path / "bad.toml").read_text() == text
    with pytest.raises(UserError, match=r"\.toml file"):
        pnginfo.append(info, tmp_path / "set.txt", "a")


def test_line_ends_of_windows_stay(picture, tmp_path):
    path = tmp_path / "set.toml"
    path.write_bytes(b'[[prompt]]\r\nname = "a"\r\nprompt = "b"\r\n')
    pnginfo.append(pnginfo.read(picture).info, path, "a")
    assert b"\n" not in path.read_bytes().replace(b"\r\n", b"")
