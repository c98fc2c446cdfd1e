"""What is said before a run: each rule where it should speak, with a value that silences it, and nowhere else."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny

from trainer import basecheck, checks, presets
from trainer.checks import learning, network, pictures
from trainer.dataset import buckets
from trainer.examples import Example

PLACE = buckets.place(64, 64, [(64, 64)])


def example(name: str = "0.png", caption: str = "moss, hat, sitting", **changes) -> Example:
    usual = {"width": 64, "height": 64, "repeats": 1, "placement": PLACE}
    return Example(Path(name), name, caption, **{**usual, **changes})


def found(examples, rule, **settings):
    config = presets.layer({key.replace("__", "."): value for key, value in settings.items()})
    return list(rule(config, examples))


MANY = [example(f"{number}.png", repeats=10) for number in range(10)]
FEW = [replace(one, repeats=1) for one in MANY]
MASKED = [replace(one, mask=one.path) for one in MANY]
REGULAR = [example("cat.png", role="regularisation", repeats=200)]

BURNS = {"optimizer__learning_rate": 1e-2, "optimizer__name": "AdamW"}

CASES = [  # rule, settings and pictures with which it speaks, what it speaks of, and those with which it is silent
    (pictures.few_pictures, {}, MANY[:3], "data.folder", {}, MANY),
    (learning.learning_rate_of_one, BURNS, MANY, "optimizer.learning_rate", BURNS | {"optimizer__name": "SGD"}, MANY),
    (pictures.unusual_length, {"loop__epochs": 1}, FEW, "data.repeats", {"loop__epochs": 10}, MANY),
    (pictures.unusual_length, {"loop__epochs": 400}, MANY, "loop.epochs", {"loop__epochs": 50}, MANY),
    (pictures.unusual_length, {"loop__max_steps": 100}, MANY, "loop.max_steps", {"loop__max_steps": 1000}, MANY),
    (pictures.unusual_length, {"loop__max_steps": 90_000}, MANY, "loop.max_steps", {"loop__max_steps": 1000}, MANY),
    (pictures.captions_never_seen, {"data__caption_dropout_every": 1}, MANY, "data.caption_dropout_every", {}, MANY),
    (
        pictures.braces_that_stay_text,
        {}, [example(caption="{a|b} hat")], "data.wildcards",
        {"data__wildcards": True}, [example(caption="{a|b} hat")],
    ),
    (
        pictures.masks_without_effect,
        {"data__alpha_mask": True}, MANY, "data.alpha_mask",
        {"data__alpha_mask": True}, MASKED,
    ),
    (
        pictures.masks_without_effect,
        {"data__alpha_mask": True, "data__mask_folder": "m"}, MASKED, "data.alpha_mask",
        {"data__mask_folder": "m"}, MASKED,
    ),
    (
        pictures.one_version_of_each,
        {"data__variants": 1, "data__random_crop": True}, MANY, "data.variants",
        {"data__variants": 1}, MANY,
    ),
    (pictures.renderings, {"evaluation__sampler": "Eulr"}, MANY, "evaluation.sampler", {}, MANY),
    (pictures.renderings, {"evaluation__prompts": "none.toml"}, MANY, "evaluation.prompts", {}, MANY),
    (
        learning.warm_up_to_the_end,
        {"optimizer__warmup": 1000}, MANY, "optimizer.warmup",
        {"optimizer__warmup": 99}, MANY,
    ),
    (
        network.block_alpha_above_rank,
        {"adapter__block_alphas": "MID=32"}, MANY, "adapter.block_alphas",
        {"adapter__block_alphas": "MID=32", "adapter__block_ranks": "MID=32"}, MANY,
    ),
    (pictures.masks_without_effect, {"loss__mask_normalised": True}, MANY, "loss.mask_normalised", {}, MANY),
    (
        network.unused_by_this_kind,
        {"optimizer__text_encoder_2_learning_rate": 1e-5, "adapter__text_encoder": False}, MANY,
        "optimizer.text_encoder_2_learning_rate",
        {"optimizer__text_encoder_2_learning_rate": 1e-5, "adapter__text_encoder": True}, MANY,
    ),
    (learning.two_weightings, {"loss__debiased": True}, MANY, "loss.min_snr_gamma", {"loss__min_snr_gamma": 0}, MANY),
    (
        learning.two_weightings,
        {"loss__p2_gamma": 1}, MANY, "loss.min_snr_gamma",
        {"loss__p2_gamma": 1, "loss__min_snr_gamma": 0}, MANY,
    ),
    (network.missing_base, {"model__base": "models/no.ckpt"}, MANY, "model.base", {"model__base": "some/model"}, MANY),
    (network.missing_base, {"model__base": "/nowhere"}, MANY, "model.base", {"model__base": "toybox/sd15"}, MANY),
    (pictures.more_regularisation_than_pictures, {}, MANY + REGULAR, "data.regularisation", {}, MANY),
    *[
        (network.attention_that_is_not_there, {"model__attention": "xformers"}, MANY, "model.attention", {}, MANY)
    ] * (find_spec("xformers") is None),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{case[3]}")
def test_a_rule_speaks_where_it_should(case):
    rule, settings, pictures, path, silent, others = case
    (problem,) = found(pictures, rule, **settings)
    assert problem.setting == path and rule in checks.RULES
    assert not found(others, rule, **silent)
    if problem.suggestion is not None and path != "data.repeats":  # the pictures themselves would change with it
        changed = dict([presets.parse_override(f"{problem.setting}={problem.suggestion}")])
        assert not found(pictures, rule, **settings | {key.replace(".", "__"): value for key, value in changed.items()})


def test_folders_that_say_their_repeats_are_told_to_train_longer():
    (problem,) = found([example(repeats=3), example("1.png", repeats=5)], pictures.unusual_length)
    assert problem.setting == "loop.epochs" and problem.suggestion >= 100


# ── with the base ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders that say what the rules look at: 512 px and a vocabulary with common, rare and missing words."""
    root = tmp_path_factory.mktemp("bases")
    return {name: tiny.base_folder(root / name, name) for name in ("sd15", "sdxl")}


def of_base(base, examples=MANY, **settings):
    values = {"model.base": str(base), "data.resolution": 64}
    config = presets.layer(values | {key.replace("__", "."): value for key, value in settings.items()})
    return basecheck.check(config, examples)


def test_resolution_against_the_base(bases):
    assert not of_base(bases["sd15"])
    (problem,) = of_base(bases["sd15"], data__resolution=128)
    assert (problem.setting, problem.suggestion) == ("data.resolution", 64)
    # A single file says only its family.
    family = basecheck.families.FAMILIES["sdxl"]
    base = basecheck.Base(family, family.resolution, None)
    config = presets.layer({"data.resolution": 512})
    assert [p.suggestion for p in basecheck.resolution_far_from_the_bases(config, [], base)] == [1024]


def test_clip_skip_where_it_has_no_effect(bases):
    assert not of_base(bases["sd15"], model__clip_skip=2)
    (problem,) = of_base(bases["sdxl"], model__clip_skip=2)
    assert (problem.setting, problem.suggestion) == ("model.clip_skip", 1)


def test_a_rate_for_a_text_encoder_that_is_not_there(bases):
    rate = {"optimizer__text_encoder_2_learning_rate": 1e-5}
    (problem,) = of_base(bases["sd15"], **rate)
    assert (problem.setting, problem.suggestion) == ("optimizer.text_encoder_2_learning_rate", -1)
    assert not of_base(bases["sdxl"], **rate) and not of_base(bases["sd15"])


def test_a_run_that_ends_in_pure_noise_is_not_weighed_by_min_snr(bases, tmp_path):
    """Min-SNR's weight of a v-prediction is 0 at just that level."""
    shifted = {"loss__zero_terminal_snr": True, "model__prediction": "v_prediction"}
    (problem,) = of_base(bases["sd15"], **shifted)
    assert (problem.setting, problem.suggestion) == ("loss.min_snr_gamma", 0)
    assert not of_base(bases["sd15"], **shifted, loss__min_snr_gamma=0)
    folder = shutil.copytree(bases["sdxl"], tmp_path / "v")
    (folder / "scheduler").mkdir(exist_ok=True)
    noise = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(noise))
    said = of_base(folder, loss__v_prediction_like=0.5)
    assert [problem.setting for problem in said] == ["loss.min_snr_gamma", "loss.v_prediction_like"]
    (problem,) = of_base(folder, model__prediction="epsilon", loss__min_snr_gamma=0)
    assert (problem.setting, problem.suggestion) == ("model.prediction", "auto")


def test_a_loss_for_bases_of_the_other_prediction(bases):
    for setting in ("loss__zero_terminal_snr", "loss__noise_prediction_like"):
        said = [problem for problem in of_base(bases["sd15"], **{setting: True}) if problem.severity == "error"]
        assert [problem.setting for problem in said] == [setting.replace("__", ".")]
        assert not [
            problem
            for problem in of_base(bases["sd15"], **{setting: True}, model__prediction="v_prediction")
            if problem.severity == "error"
        ]


def test_captions_over_the_limit_are_named(bases):
    pictures = [*MANY, example("long.png", "a" * 80), example("wild.png", "{a|" + "b" * 76 + "}")]
    assert not of_base(bases["sd15"], pictures)
    (problem,) = of_base(bases["sd15"], pictures, data__max_tokens=75)
    assert "long.png (80)" in problem.reason and "wild.png" in problem.reason and "0.png" not in problem.reason
    assert problem.suggestion == 150
    assert not of_base(bases["sd15"], pictures, data__max_tokens=150)
    (problem,) = of_base(
        bases["sd15"], [example("long.png", "a" * 80)], data__max_tokens=75, data__caption_prefix="b" * 150
    )
    assert problem.suggestion == 0


@pytest.mark.parametrize(
    ("trigger", "words"),
    [("cat", ["common"]), ("ohwx cat", []), ("ohwx", []), ("abcdefg", ["7 pieces"]), ("cat dog", ["common"]), ("", [])],
)
def test_a_trigger_that_is_no_name(trigger, words):
    """Numbered as in CLIP: frequent words first."""
    vocabulary = {"cat": [2368], "dog": [1929], "ohwx": [39_000, 40_000], "abcdefg": list(range(7))}
    family = basecheck.families.FAMILIES["sd15"]
    base = basecheck.Base(family, 512, basecheck.Tokenizer("", vocabulary.__getitem__, 0, 0, 49_408))
    said = list(basecheck.trigger_that_is_no_name(presets.layer({"data.trigger": trigger}), [], base))
    assert len(said) == len(words) and all(word in problem.reason for word, problem in zip(words, said))
