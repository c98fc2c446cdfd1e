"""Free axes: any field of a cell over values."""

import pytest

from trainer import axes
from trainer.axes import Axis
from trainer.cells import Hires, Prompt
from trainer.errors import UserError

COLUMN = Prompt("portrait", "moss, hat", "blurry")


def columns(*texts):
    return axes.spread([COLUMN], [axes.parse(text) for text in texts])


def test_an_axis_is_a_field_and_its_values():
    assert axes.parse("cfg=5,7") == Axis("cfg_scale", ("5", "7"))
    assert axes.parse('Sampler = Euler, "DPM++ 2M Karras"') == Axis("sampler", ("Euler", "DPM++ 2M Karras"))
    assert axes.parse('prompt="hat","red hat, coat"') == Axis("prompt", ("hat", "red hat, coat"))
    assert axes.parse("epoch") == Axis("epoch", ())
    for text, message in (("cgf=5", "did you mean|nearest|cfg_scale"), ("cfg", "no values"), ("cfg=", "no values")):
        with pytest.raises(UserError, match=message):
            axes.parse(text)


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("cfg=5,7.5", "cfg_scale", [5, 7.5]),
        ("steps=10,20", "steps", [10, 20]),
        ("sampler=Euler,DDIM", "sampler", ["Euler", "DDIM"]),
        ("seed=1,2", "seed", [1, 2]),
        ("clip skip=1,2", "clip_skip", [1, 2]),
        ("negative=blurry,sharp", "negative", ["blurry", "sharp"]),
        ("prompt=hat,crown", "prompt", ["moss, hat", "moss, crown"]),
        ("hires.denoise=0.3,0.6", "hires", [Hires(denoise=0.3), Hires(denoise=0.6)]),
        ("hires upscaler=Latent,None", "hires", [Hires(), Hires(upscaler="None")]),
    ],
)
def test_every_value_is_a_column_of_its_own(text, field, values):
    made = columns(text)
    assert [getattr(column, field) for column in made] == values
    assert len({column.name for column in made}) == 2 and all("portrait · " in column.name for column in made)


def test_sizes_and_combinations():
    made = columns("size=512x768,640", "cfg=5,7", "strength=0.5,1")
    assert [(one.width, one.height, one.cfg_scale) for one in made] == [
        (512, 768, 5), (640, 640, 5), (512, 768, 7), (640, 640, 7),
    ]  # fmt: skip
    assert made[3].name == "portrait · size 640 · cfg scale 7"
    found = [axes.parse(text) for text in ("epoch=1,3", "strength=0.5,1", "cfg=5", "hires.steps=4")]
    assert axes.values_of(found, "strength") == "0.5,1" and axes.values_of(found, "epoch") == "1,3"
    assert axes.folder_suffix(found) == "-by-cfg_scale-hires_steps" and axes.folder_suffix(found[:2]) == ""


@pytest.mark.parametrize("text", ["cfg=x", "cfg=99", "steps=0", "size=511x512", "sampler=Wavy", "hires.denoise=2"])
def test_a_value_that_a_prompt_set_would_refuse(text):
    with pytest.raises(UserError):
        columns(text)
