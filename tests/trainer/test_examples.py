"""Which pictures a run sees, how often, under which words: folders, repeats, regularisation, held-back ones."""

import pytest
import trainees
from PIL import Image, ImageOps

from trainer import presets
from trainer.config import DataConfig
from trainer.errors import UserError
from trainer.examples import common_first_tag, count_steps, load_examples, trained

SMALL = {"resolution": 64, "bucket_step": 32, "bucket_min": 32}


def loaded(folder, **settings):
    return load_examples(DataConfig(folder=str(folder), **SMALL, **settings))


def bare(folder, count=2, start=0):
    """Pictures without captions."""
    trainees.draw_pictures(folder, [(96 + start + number, 96) for number in range(count)])
    for path in folder.glob("*.txt"):
        path.unlink()
    return folder


def test_kohyas_folders_say_repeats_and_words(tmp_path):
    bare(tmp_path / "set" / "10_moss girl")
    bare(tmp_path / "set" / "3_hat", 1, start=5)
    trainees.draw_pictures(tmp_path / "set" / "more", [(64, 64)])
    found = {(e.folder, e.repeats, e.caption) for e in loaded(tmp_path / "set", repeats=4)}
    assert found == {
        ("10_moss girl", 10, "moss girl"), ("3_hat", 3, "hat"), ("set", 4, "moss, disc, number 0, plain")
    }  # fmt: skip
    # The folder itself may be the one; a caption file counts more than its name.
    (tmp_path / "set" / "10_moss girl" / "00.txt").write_text("own words")
    found = [(e.repeats, e.caption) for e in loaded(tmp_path / "set" / "10_moss girl", trigger="m")]
    assert found == [(10, "m, own words"), (10, "m, moss girl")]


def test_the_trigger_that_kohyas_folders_or_all_captions_share(tmp_path):
    bare(tmp_path / "set" / "10_moss, girl")
    assert common_first_tag(tmp_path / "set") == "moss"
    (tmp_path / "set" / "10_moss, girl" / "00.caption").write_text("cat, hat")
    assert common_first_tag(tmp_path / "set") == ""
    (tmp_path / "set" / "10_moss, girl" / "01.txt").write_text("cat, sitting")
    assert common_first_tag(tmp_path / "set") == "cat"


@pytest.mark.parametrize("first", ["1girl", "2boys", "6+girls", "multiple girls", "1creature", "solo", "no humans"])
def test_how_many_there_are_is_no_trigger_word(tmp_path, first):
    for number in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"{first}, hat {number}")
    assert common_first_tag(tmp_path) == ""


def test_more_folders_and_their_weight(tmp_path):
    bare(tmp_path / "one"), bare(tmp_path / "5_two", start=9)
    more = (f"{tmp_path / '5_two'}*3",)
    found = loaded(tmp_path / "one", more_folders=more, repeats=2)
    assert [(e.folder, e.repeats) for e in found] == [("one", 2)] * 2 + [("5_two", 15)] * 2
    assert [e.as_json()["file"] for e in found] == ["00.png", "01.png"] * 2
    config = presets.layer({"data.folder": str(tmp_path / "one"), "data.more_folders": more, "data.repeats": 2})
    assert count_steps(found, config)[1] == 2 * 2 + 2 * 15
    path, value = presets.parse_override("data.more_folders=a, b*2")
    assert presets.layer({path: value}).data.more_folders == ("a", "b*2")
    assert presets.parse_override("data.more_folders=")[1] == []


@pytest.mark.parametrize(("more", "words"), [("*0", "no number of times"), ("", "given twice"), ("*x", "number")])
def test_folders_that_cannot_be(more, words, tmp_path):
    bare(tmp_path / "one")
    with pytest.raises(UserError, match=words):
        loaded(tmp_path / "one", more_folders=(f"{tmp_path / 'one'}{more}",))


def test_caption_files_of_other_endings(tmp_path):
    folder = bare(tmp_path / "set", 3)
    (folder / "00.caption").write_text("sd-scripts")
    (folder / "01.tags").write_text("special")
    (folder / "01.txt").write_text("usual")
    assert [e.caption for e in loaded(folder)] == ["sd-scripts", "usual", ""]
    assert [e.caption for e in loaded(folder, caption_extension="tags")] == ["sd-scripts", "special", ""]


def test_the_trigger_stands_among_the_kept_tags_and_on_every_line(tmp_path):
    folder = bare(tmp_path / "set", 1)
    (folder / "00.txt").write_text("1girl ||| moss, hat")
    assert loaded(folder, trigger="moss")[0].caption == "moss, 1girl|||hat"
    (folder / "00.txt").write_text("hat\nsitting")
    assert loaded(folder, trigger="moss", wildcards=True)[0].caption == "moss, hat\nmoss, sitting"


@pytest.mark.parametrize(("count", "repeats"), [(2, [5, 5]), (3, [4, 3, 3]), (12, [1] * 12)])
def test_regularisation_pictures_are_as_many_as_the_others(count, repeats, tmp_path):
    trainees.draw_pictures(tmp_path / "set")
    bare(tmp_path / "cats", count, start=20)
    options = {"repeats": 2, "trigger": "moss", "regularisation": str(tmp_path / "cats"), "class_word": "cat"}
    found = [e for e in loaded(tmp_path / "set", **options) if e.role == "regularisation"]
    assert [e.repeats for e in found] == repeats
    assert {e.caption for e in found} == {"cat"}


# ── held back ───────────────────────────────────────────────────────────────────────────────────────────


def test_near_duplicates_are_never_on_both_sides(tmp_path):
    folder = trainees.draw_pictures(tmp_path / "set", [(96, 96)] * 10)
    for number in range(10):
        picture = Image.open(folder / f"{number:02}.png")
        ImageOps.mirror(picture).resize((70, 70)).save(folder / f"{number:02}-copy.jpg")
    found = loaded(folder, validation_split=0.3)
    held = {e.path.name[:2] for e in found if e.role == "validation"}
    assert held and len(held) < 10
    assert held.isdisjoint({e.path.name[:2] for e in trained(found)})
    assert len([e for e in found if e.role == "validation"]) <= 6
    # The same ones whatever else is set, so that runs can be compared.
    again = loaded(folder, validation_split=0.3, repeats=3, trigger="other")
    assert held == {e.path.name[:2] for e in again if e.role == "validation"}


def test_how_many_are_held_back(tmp_path):
    folder = trainees.draw_pictures(tmp_path / "set", [(96, 96)] * 12)
    many = [sum(e.role == "validation" for e in loaded(folder, validation_split=n)) for n in (0, 0.01, 0.5, 2)]
    assert many[0] == 0 and many[1] == 1 and 3 <= many[2] <= 6 and many[3] == 2
    with pytest.raises(UserError, match="nothing would be left"):
        loaded(folder, validation_split=12)
    config = presets.layer({"data.validation_split": 2, "data.folder": str(folder)})
    assert count_steps(loaded(folder, validation_split=2), config)[1] == 10


# ── what the file says ──────────────────────────────────────────────────────────────────────────────────


def test_the_metadata_tells_folders_repeats_and_augmentation(tmp_path, folders):
    import json

    from trainer import environment, families, kohya

    bare(tmp_path / "set" / "10_moss girl")
    bare(tmp_path / "more", 1, start=5)
    bare(tmp_path / "cats", 2, start=9)
    values = {
        "folder": str(tmp_path / "set"), "more_folders": (f"{tmp_path / 'more'}*2",), "flip": True, "max_tokens": 150,
        "regularisation": str(tmp_path / "cats"), "random_crop": True, "colour_shift": True, "tag_dropout": 0.1,
        **SMALL,
    }  # fmt: skip
    config = presets.layer({f"data.{key}": value for key, value in values.items()} | {"loss.prior_weight": 0.5})
    model = families.load(str(folders["sd15"]))
    facts = environment.facts(model, config, load_examples(config.data), started=0.0)
    found = kohya.training_metadata(config, facts)
    assert json.loads(found["ss_dataset_dirs"]) == {
        "10_moss girl": {"n_repeats": 10, "img_count": 2}, "more": {"n_repeats": 2, "img_count": 1},
    }  # fmt: skip
    assert json.loads(found["ss_reg_dataset_dirs"]) == {"cats": {"n_repeats": 11, "img_count": 2}}
    assert json.loads(found["ss_tag_frequency"])["10_moss girl"] == {"moss girl": 2}
    assert [part["is_reg"] for part in json.loads(found["ss_datasets"])[0]["subsets"]] == [False, False, True]
    assert sum(entry["count"] for entry in json.loads(found["ss_bucket_info"])["buckets"].values()) == 44
    wanted = {
        "ss_num_train_images": "22", "ss_num_reg_images": "22", "ss_prior_loss_weight": "0.5", "ss_flip_aug": "True",
        "ss_random_crop": "True", "ss_color_aug": "True", "ss_max_token_length": "150",
        "ss_caption_tag_dropout_rate": "0.1",
    }  # fmt: skip
    assert wanted.items() <= found.items()
