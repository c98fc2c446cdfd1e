import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.cells import Cell, Evaluation, Hires, Prompt, Rendered, Row
from trainer.errors import UserError
from trainer.prompt_sets import read_prompts

CELL = Cell("moss", "", 1, 3, 0.8, 512, 512, "Euler a", 20, 7.0, 1, base="b" * 64, lora="c" * 64)


def test_a_cells_key_is_its_content_and_not_its_label():
    assert CELL.key == replace(CELL, epoch=9).key
    assert len(CELL.key) == 16


@pytest.mark.parametrize(
    "change",
    [{"prompt": "moss, hat"}, {"negative": "blurry"}, {"seed": 2}, {"strength": 1.0}, {"width": 768}, {"steps": 21}]
    + [{"sampler": "Euler"}, {"cfg_scale": 7.5}, {"clip_skip": 2}, {"base": "d" * 64}, {"lora": "e" * 64}],
)
def test_everything_that_decides_about_pixels_changes_the_key(change):
    assert CELL.key != replace(CELL, **change).key


def test_the_base_has_one_picture_for_all_strengths():
    base = replace(CELL, lora="", epoch=0)
    assert base.key == replace(base, strength=0.2).key
    assert base.key != CELL.key


def test_an_evaluation_comes_back_as_it_was_saved(tmp_path):
    evaluation = Evaluation(
        run="run",
        title="猫 “moss”",
        about={"Sampler": "Euler a"},
        prompts=[Prompt("portrait", "moss"), Prompt("leak", "a dog", leak=True, seed=7, width=512, height=768)],
        seeds=[1, 2],
        strengths=[0.8, 1.0],
        epochs=[0, 4],
        cells=[Rendered("portrait", 4, 0.8, 1, "cells/a.png", "moss\nSteps: 20", {"likeness": 0.5})],
        rows=[Row(4, 0.8, {"likeness": 0.5})],
        recommended={"epoch": 4, "strength": 0.8, "reason": "Epoch 4: …"},
        settings="[loop]\n",
    )
    evaluation.save(tmp_path)
    assert Evaluation.load(tmp_path) == evaluation


def test_a_missing_evaluation_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="lora-studio evaluate"):
        Evaluation.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"prompts": [{"nonsense": 1}]}', '{"prompts": 3}'])
def test_a_damaged_evaluation_names_the_file(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(UserError, match=r"evaluation\.json"):
        Evaluation.load(tmp_path)


def prompt_set(tmp_path, text):
    path = tmp_path / "prompts.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_prompts_are_filled_in_from_the_run(tmp_path):
    path = prompt_set(tmp_path, '[[prompt]]\nname = "a"\nprompt = "[trigger], [class], sitting"\nseed = 3\n')
    assert read_prompts(path, "moss", "cat") == [Prompt("a", "moss, cat, sitting", seed=3)]


def test_without_a_trigger_no_comma_is_left_over(tmp_path):
    path = prompt_set(tmp_path, '[[prompt]]\nname = "a"\nprompt = "[trigger], sitting, [class]"\n')
    assert read_prompts(path)[0].prompt == "sitting"


def test_a_prompt_that_needs_no_filling_is_left_exactly_as_it_is(tmp_path):
    path = prompt_set(tmp_path, '[[prompt]]\nname = "a"\nprompt = "a ,, b,"\n')
    assert read_prompts(path, "moss")[0].prompt == "a ,, b,"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no prompts"),
        ('[[prompt]]\nprompt = "x"\n', "prompt 1 has no name"),
        ('[[prompt]]\nname = "x"\n', "prompt 1 has no prompt"),
        ('[[prompt]]\nname = "x"\nprompt = "y"\nsede = 1\n', "did you mean 'seed'"),
        ('[prompt]\nname = "x"\nprompt = "y"\n', "single brackets"),
        ('prompt = "x"\n', "not a list of tables"),
        ("prompt = [1]\n", "not a list of tables"),
        ('abuot = "x"\n[[prompt]]\nname = "x"\nprompt = "y"\n', "did you mean 'about'"),
        ('[[prompt]]\nname = "x"\nprompt = "y"\n[[prompt]]\nname = "x"\nprompt = "z"\n', "two prompts called 'x'"),
    ],
)
def test_a_wrong_prompt_set_is_answered_with_file_entry_and_remedy(tmp_path, text, says):
    path = prompt_set(tmp_path, text)
    with pytest.raises(UserError, match=says) as caught:
        read_prompts(path)
    assert "prompts.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('seed = "1"', "seed = '1' is not a whole number"),
        ("seed = true", "seed = True is not"),
        ("seed = 1.5", "seed = 1.5 is not"),
        ("seed = -2", "-1 to have one drawn"),
        ("width = 500", "multiple of 8"),
        ("height = 0", "multiple of 8"),
        ("steps = 0", "from 1 to 150"),
        ("cfg_scale = nan", "from 1 to 30"),
        ('cfg_scale = "7"', "from 1 to 30"),
        ("clip_skip = 0", "from 1 to 12"),
        ('sampler = "Wavy"', "no sampler 'Wavy'"),
        ("sampler = 3", "text in quotes"),
        ("negative = 3", "text in quotes"),
        ('leak = "yes"', "true or false"),
        ('noise_source = "gpu0"', "one of NV, CPU, GPU"),
        ("ensd = -1", "whole number from 0"),
        ("eta = 2", "from 0 to 1"),
        ('emphasis = "Loud"', "one of Original, No norm, Ignore, None"),
        ("hires = { cfg_scale = 0.5 }", "hires: cfg_scale = 0.5 is not a number from 1 to 30"),
    ],
)
def test_a_wrong_value_is_answered_with_what_would_be_right(tmp_path, line, says):
    path = prompt_set(tmp_path, f'[[prompt]]\nname = "x"\nprompt = "y"\n{line}\n')
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        read_prompts(path)
    assert "prompts.toml, prompt 1" in str(caught.value)


def test_a_seed_of_minus_one_is_drawn_once_from_the_content(tmp_path):
    entry = '[[prompt]]\nname = "{}"\nprompt = "{}"\nseed = -1\n'
    first = read_prompts(prompt_set(tmp_path, entry.format("a", "moss") + entry.format("b", "hat")))
    assert first[0].seed != first[1].seed and all(0 <= prompt.seed < 2**32 for prompt in first)
    again = read_prompts(prompt_set(tmp_path, entry.format("other name", "moss")))
    assert again[0].seed == first[0].seed


def keys(path):
    """Cells of every prompt of a set as a comparison makes them: text -> key."""
    prompts = read_prompts(path, "moss", "cat")
    return {p.prompt: replace(CELL, prompt=p.prompt, negative=p.negative, seed=p.seed or 1).key for p in prompts}


def test_adding_removing_and_reordering_prompts_leaves_other_cells_alone(tmp_path):
    entries = [f'[[prompt]]\nname = "{n}"\nprompt = "[trigger] {n}"\nseed = {s}\n' for n, s in zip("abc", (-1, 3, -1))]
    before = keys(prompt_set(tmp_path, "".join(entries)))
    assert keys(prompt_set(tmp_path, "".join(reversed(entries)))) == before
    assert keys(prompt_set(tmp_path, entries[0] + entries[2])).items() <= before.items()
    more = entries[0] + '[[prompt]]\nname = "d"\nprompt = "d"\n' + "".join(entries[1:])
    assert before.items() <= keys(prompt_set(tmp_path, more)).items()


def test_a_word_that_is_not_there_leaves_no_gap(tmp_path):
    path = prompt_set(tmp_path, '[[prompt]]\nname = "a"\nprompt = "a [trigger] [class] in the snow"\n')
    assert read_prompts(path, "moss", "cat")[0].prompt == "a moss cat in the snow"
    assert read_prompts(path, "moss")[0].prompt == "a moss in the snow"
    assert read_prompts(path)[0].prompt == "a in the snow"


SHIPPED = sorted((Path(__file__).parents[2] / "presets" / "prompts").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_set_can_be_read_and_says_what_it_is_for(path):
    prompts = read_prompts(path, "moss", "cat")
    assert tomllib.loads(path.read_text(encoding="utf-8"))["about"].strip()
    for prompt in prompts:
        assert ("moss" in prompt.prompt) != prompt.leak  # a leak prompt asks for what is not the subject
        assert "[" not in prompt.prompt


@pytest.mark.parametrize("name", ["dreambooth-object", "dreambooth-live"])
def test_dreambooths_protocol_has_25_prompts_of_each_kind(name):
    prompts = read_prompts(SHIPPED[0].with_name(f"{name}.toml"), "moss", "cat")
    assert len(prompts) == len({prompt.prompt for prompt in prompts}) == 25
    assert all("moss cat" in prompt.prompt for prompt in prompts)


def test_a_hires_table_and_styles(tmp_path):
    (tmp_path / "styles.csv").write_text('name,prompt,negative_prompt\nphoto,"photo of {prompt}, sharp",blurry\n')
    text = '[[prompt]]\nname="a"\nprompt="[trigger]"\nstyles=["photo"]\nhires={upscale=1.5, denoise=0.5}\n'
    (tmp_path / "set.toml").write_text(text)
    (found,) = read_prompts(tmp_path / "set.toml", "moss")
    assert (found.prompt, found.negative) == ("photo of moss, sharp", "blurry")
    assert found.hires == Hires(upscale=1.5, denoise=0.5) and found.hires.upscaler == "Latent"
    evaluation = Evaluation("run", "moss", {}, [found], [1], [1.0], [0, 3], [], labels={3: "fern epoch 1"})
    evaluation.save(tmp_path)
    assert Evaluation.load(tmp_path) == evaluation
    for wrong, message in (
        (text.replace('["photo"]', '["foto"]'), "no style 'foto'"),
        (text.replace("denoise", "denose"), "hires: there is no key 'denose'"),
        (text.replace("0.5}", "5}"), "hires: denoise = 5 is not a number from 0 to 1"),
        (text.replace("0.5}", '0.5, sampler="Wavy"}'), "no sampler"),
    ):
        (tmp_path / "set.toml").write_text(wrong)
        with pytest.raises(UserError, match=message):
            read_prompts(tmp_path / "set.toml", "moss")
    (tmp_path / "set.toml").write_text(text)
    (tmp_path / "styles.csv").unlink()
    with pytest.raises(UserError, match="no styles.csv"):
        read_prompts(tmp_path / "set.toml", "moss")


def test_the_hires_fixs_own_words_are_filled_in_and_styled(tmp_path):
    (tmp_path / "styles.csv").write_text('name,prompt,negative_prompt\nphoto,"photo of {prompt}",blurry\n')
    fix = 'hires={prompt="[trigger], close"}'
    (tmp_path / "set.toml").write_text(f'[[prompt]]\nname="a"\nprompt="[trigger]"\nstyles=["photo"]\n{fix}\n')
    (found,) = read_prompts(tmp_path / "set.toml", "moss")
    assert (found.hires.prompt, found.hires.negative) == ("photo of moss, close", "")
    cell = replace(CELL, prompt=found.prompt, negative=found.negative, hires=found.hires)
    second = cell.second_pass
    assert (second.prompt, second.negative, second.cfg_scale) == ("photo of moss, close", "blurry", CELL.cfg_scale)
    assert replace(CELL, hires=Hires(cfg_scale=3.0)).second_pass.cfg_scale == 3.0 and CELL.second_pass == CELL


def test_the_hires_fix_and_named_files_are_part_of_a_cells_key():
    large = replace(CELL, hires=Hires())
    lora, other = (replace(CELL, files=(("lora", "hat", digest),)) for digest in ("a", "b"))
    assert len({CELL.key, large.key, replace(CELL, hires=Hires(denoise=0.5)).key, lora.key, other.key}) == 5


def test_keys_from_before_there_was_a_hires_fix_stay():
    """A picture on disk is found again."""
    assert CELL.key == "c2dffda6b040d184"
    assert replace(CELL, hires=Hires()).key == "74f7984c17119292"


@pytest.mark.parametrize(
    "change", [{"noise_source": "CPU"}, {"ensd": 1}, {"eta": 0.5}, {"emphasis": "Ignore"}, {"hires": {"prompt": "x"}}]
)
def test_what_came_later_is_in_the_key_and_in_a_drawn_seed_where_it_is_used(change, tmp_path):
    hires = {name: Hires(**value) for name, value in change.items() if name == "hires"}
    large = replace(CELL, hires=Hires()) if hires else CELL
    assert replace(large, **{**change, **hires}).key != large.key
    entry = '[[prompt]]\nname = "a"\nprompt = "moss"\nseed = -1\n'
    values = "".join(f"{key} = {json.dumps(value)}\n" for key, value in change.items() if key != "hires")
    values += 'hires = { prompt = "x" }\n' if hires else ""
    plain, changed = (read_prompts(prompt_set(tmp_path, entry + more))[0].seed for more in ("", values))
    assert plain == 3622373981 != changed
