"""Settings: each declared once, addressed by path or kohya's name, refused with the setting's name and a remedy."""

import tomllib

import pytest

from trainer import presets
from trainer.config import TrainConfig, settings, validate
from trainer.errors import UserError


def test_every_setting_explains_itself():
    for entry in settings():
        assert entry.label and len(entry.help) > 15, entry.path
        assert not isinstance(entry.default, type(Ellipsis)), entry.path


def test_no_kohya_name_means_two_settings():
    names = [name for entry in settings() for name in entry.kohya]
    assert len(names) == len(set(names))


def test_a_config_survives_being_written_and_read():
    config = presets.layer({"name": 'mo"ss\\', "evaluation.seeds": [3, 4], "adapter.alpha": 2})
    assert validate(tomllib.loads(presets.to_toml(config.model_dump())), "x") == config


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("adapter.rank=16", "adapter.rank", 16),
        ("network_dim=16", "adapter.rank", 16),
        ("data.shuffle_tags=false", "data.shuffle_tags", False),
        ("evaluation.strengths=0.6,1", "evaluation.strengths", [0.6, 1.0]),
        ("optimizer.args=weight_decay=0.1", "optimizer.args", "weight_decay=0.1"),
    ],
)
def test_overrides_are_typed_by_their_declaration(text, path, value):
    assert presets.parse_override(text) == (path, value)


@pytest.mark.parametrize(
    ("text", "hint"), [("adapter.rnak=3", "adapter.rank"), ("rnak=3", "adapter.rank"), ("lopp.epochs=3", "loop.epochs")]
)
def test_an_unknown_setting_names_the_nearest(text, hint):
    with pytest.raises(UserError, match=hint.replace(".", r"\.")):
        presets.parse_override(text)


def test_a_value_out_of_range_names_setting_and_value():
    with pytest.raises(UserError, match=r"adapter\.rank = 0"):
        presets.layer({"adapter.rank": 0})


def test_an_unknown_key_in_a_preset_names_file_and_nearest(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[adapter]\nrnk = 4\n")
    with pytest.raises(UserError, match=r"mine\.toml.*adapter\.rnk.*adapter\.rank"):
        presets.load(str(path))


def test_layers_lie_on_one_another():
    config = presets.layer({"adapter.rank": 4, "loop.epochs": 3}, {"adapter.rank": 8})
    assert (config.adapter.rank, config.loop.epochs) == (8, 3)
    assert presets.differences(config) == {"adapter.rank": (16, 8), "loop.epochs": (10, 3)}


@pytest.mark.parametrize("name", sorted(presets.find()))
def test_every_shipped_preset_is_valid_and_says_what_it_is_for(name):
    preset = presets.load(name)
    assert len(preset.about) > 80
    config = presets.layer(preset.values)
    assert config.adapter.alpha <= config.adapter.rank
    presets.locate(config.evaluation.prompts, "prompts")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="sd15-character"):
        presets.load("sd15-charakter")


def test_the_defaults_are_a_valid_config():
    assert validate({}, "x") == TrainConfig()
