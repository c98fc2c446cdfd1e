"""The WD14 tagger on a miniature ONNX model whose outputs are known: channel means and the corner pixel."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from trainer.errors import UserError
from trainer.taggers import TAGGERS, TagOptions, get
from trainer.taggers.wd14 import WD14, prepare, written

LABELS = [
    ("general", 9),
    ("explicit", 9),
    ("blue_hair", 0),  # mean of channel 0
    ("green_hat", 0),  # mean of channel 1
    ("fate_(series)", 0),  # mean of channel 2
    (">_<", 0),  # the corner's first channel
    ("saber_(fate)", 4),  # the corner's second channel
]


def make_model(folder, side=32, batch="N", labels=LABELS, gain=1 / 255, name="input"):
    """[batch, side, side, 3] -> [0.6, 0.2, means of the 3 channels, 2 channels of the top left pixel]."""
    folder.mkdir(exist_ok=True)

    def constant(name, value):
        return onnx.numpy_helper.from_array(np.array(value), name)

    ints = {"axes": [1, 2], "zero": [0, 0, 0, 0], "one": [2**31, 1, 1, 2], "flat": [-1, 2]}
    initializers = [constant(key, np.array(value, np.int64)) for key, value in ints.items()]
    initializers.append(constant("gain", np.float32(gain)))
    initializers.append(constant("ratings", np.array([[0.6, 0.2]], np.float32)))
    initializers.append(constant("nothing", np.zeros(2, np.float32)))
    nodes = [
        helper.make_node("Mul", [name, "gain"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["means"], keepdims=0),
        helper.make_node("Slice", ["scaled", "zero", "one"], ["corner"]),
        helper.make_node("Reshape", ["corner", "flat"], ["corners"]),
        helper.make_node("Mul", ["corners", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "ratings"], ["rated"]),
        helper.make_node("Concat", ["rated", "means", "corners"], ["output"], axis=1),
    ]
    shape = [batch, side, side, 3]
    graph = helper.make_graph(
        nodes,
        "miniature",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 7])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    rows = [f"{i},{tag},{category},100" for i, (tag, category) in enumerate(labels)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]) + "\n")
    return folder


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "wd-tiny")


def picture(path, colour, size=(40, 40)):
    Image.new("RGB", size, colour).save(path)
    return path


def test_channels_are_blue_green_red_from_0_to_255(tmp_path, model):
    path = picture(tmp_path / "a.png", (51, 102, 204))
    options = TagOptions(threshold=0, character_threshold=0)
    [(seen, tags)] = get(f"wd14:{model}").tag([path], options)
    assert seen == path
    expected = {
        "blue hair": 0.8,
        "green hat": 0.4,
        r"fate \(series\)": 0.2,
        ">_<": 0.8,
        r"saber \(fate\)": 0.4,
    }
    assert dict(tags) == pytest.approx(expected, abs=1e-3)
    assert [score for _, score in tags] == sorted((score for _, score in tags), reverse=True)


def test_a_wide_picture_is_padded_with_white_to_a_square(tmp_path, model):
    path = picture(tmp_path / "a.png", "black", (64, 32))
    [(_, tags)] = WD14(model).tag([path], TagOptions(threshold=0, character_threshold=0))
    tags = dict(tags)
    assert tags["blue hair"] == pytest.approx(0.5, abs=0.02)  # half the square is padding
    assert tags[">_<"] == 1.0  # the corner is
    pixels = prepare(Image.new("RGB", (64, 32), "black"), 64)
    assert pixels.shape == (64, 64, 3) and pixels.dtype == np.float32
    assert (pixels[:16] == 255).all() and (pixels[16:48] == 0).all() and (pixels[48:] == 255).all()


def test_thresholds_by_category_and_ratings(tmp_path, model):
    path = picture(tmp_path / "a.png", (100, 200, 100))  # general 0.39, 0.78, 0.39; character 0.78
    tagger = WD14(model)

    def tags(**options):
        [(_, tags)] = tagger.tag([path], TagOptions(**options))
        return [tag for tag, _ in tags]

    assert set(tags()) == {"green hat", "blue hair", r"fate \(series\)", ">_<"}
    assert tags(threshold=0.5) == ["green hat"]
    assert set(tags(threshold=0.5, character_threshold=0.7)) == {"green hat", r"saber \(fate\)"}
    assert tags(threshold=0.5, ratings=True) == ["green hat", "general"]


def test_spelling_exclusion_and_replacement(tmp_path, model):
    path = picture(tmp_path / "a.png", (255, 254, 253))
    options = TagOptions(spaces=False, escape=False, exclude=("Blue Hair",), replace={"green hat": "hat"})
    [(_, tags)] = WD14(model).tag([path], options)
    assert {tag for tag, _ in tags} == {"fate_(series)", "saber_(fate)", "hat", ">_<"}


@pytest.mark.parametrize("face", ["^_^", ">_<", "o_o", "|_|", "0_0", "(o)_(o)", "+_-", "@_@", "x_x", "||_||"])
def test_faces_keep_their_underscore(face):
    assert written(face, escape=False) == face


@pytest.mark.parametrize("tag", ["blue_hair", "k-on!_style", "1girl_(x)", "d.va_(overwatch)"])
def test_words_lose_theirs(tag):
    assert "_" not in written(tag)


@pytest.mark.parametrize(("batch", "side"), [("N", 32), (1, 32), (4, 32), ("N", "S"), (None, None)])
def test_batches_of_any_shape_keep_the_order(tmp_path, batch, side):
    tagger = WD14(make_model(tmp_path / "m", side=side, batch=batch), batch_size=3)
    assert tagger.size == (32 if side == 32 else 448)
    paths = [picture(tmp_path / f"{i}.png", (0, 0, 20 * i), (8 + i, 8)) for i in range(10)]
    seen = []
    results = list(tagger.tag(paths, TagOptions(threshold=0), progress=lambda *done: seen.append(done)))
    assert [path for path, _ in results] == paths
    assert seen[-1] == (10, 10) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    for i, (_, tags) in enumerate(results):
        expected = prepare(Image.open(paths[i]).convert("RGB"), tagger.size)[:, :, 0].mean() / 255
        assert dict(tags)["blue hair"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "batch"), [("input_1:0", "unk__1"), ("input", "batch_size"), ("input", 1)], ids=["v2", "v3", "v3-large"]
)
def test_the_released_layouts(tmp_path, name, batch):
    """v2 exports come from Keras (`input_1:0`), v3 from timm; all name ratings first, then tags, then characters."""
    tagger = WD14(make_model(tmp_path / "m", side=448, batch=batch, name=name))
    [(_, tags)] = tagger.tag([picture(tmp_path / "a.png", (0, 250, 0))], TagOptions(ratings=True))
    assert [tag for tag, _ in tags] == ["green hat", r"saber \(fate\)", "general"] and tagger.size == 448


def test_a_broken_picture_is_named(tmp_path, model):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="a.png is empty"):
        list(WD14(model).tag([tmp_path / "a.png"]))


def test_what_was_answered_before_a_broken_picture_is_given_first(tmp_path, model):
    paths = [picture(tmp_path / f"{i:02}.png", "red") for i in range(11)]
    paths[9].write_bytes(b"")
    seen = []
    with pytest.raises(UserError, match="09.png is empty"):
        seen += (path for path, _ in WD14(model, batch_size=2).tag(paths))
    assert seen == paths[:8]


def test_stopping_early_leaves_no_threads_waiting(tmp_path, model):
    paths = [picture(tmp_path / f"{i}.png", "red") for i in range(30)]
    results = WD14(model, batch_size=2).tag(paths)
    next(results)
    results.close()


def test_unknown_families_and_missing_folders(tmp_path):
    assert list(TAGGERS) == ["wd14", "blip", "florence", "server"]
    with pytest.raises(UserError, match="Unknown tagger 'wd1': did you mean 'wd14'"):
        get("wd1:x")
    with pytest.raises(UserError, match="write wd14:FOLDER"):
        get("wd14")
    with pytest.raises(UserError, match="does not exist: put model.onnx and selected_tags.csv"):
        get(f"wd14:{tmp_path}/nowhere")
    with pytest.raises(UserError, match="holds no model.onnx and no selected_tags.csv: put"):
        get(f"wd14:{tmp_path}")


def test_a_hub_id_that_cannot_be_had_names_the_layout(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"could it be fetched .* as models.wd-none.model.onnx") as caught:
        get("wd14:nobody/wd-none")
    assert "\n" not in str(caught.value)


def test_a_hub_id_in_the_local_cache_is_used(monkeypatch, model):
    asked = []

    def cached(id, **options):
        asked.append((id, options.get("local_files_only")))
        return str(model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    assert get("wd14:somebody/wd-tiny").size == 32
    assert asked == [("somebody/wd-tiny", True)]


def test_models_of_another_kind_are_refused(tmp_path, model):
    (model / "selected_tags.csv").write_text("tag_id,name,category,count\n0,a,0,1\n")
    with pytest.raises(UserError, match="names 1 tags and the model beside it gives 7"):
        WD14(model)
    (model / "selected_tags.csv").write_text("a;b\n1;2\n")
    with pytest.raises(UserError, match="not a WD14 tag list"):
        WD14(model)
    (model / "selected_tags.csv").write_text("tag_id,name,category,count\n")
    with pytest.raises(UserError, match="names no tags"):
        WD14(model)
    (make_model(tmp_path / "b") / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="cannot be loaded as an ONNX model"):
        WD14(tmp_path / "b")
    logits = WD14(make_model(tmp_path / "c", gain=1.0))
    with pytest.raises(UserError, match="a WD14 model gives probabilities"):
        list(logits.tag([picture(tmp_path / "a.png", "red")]))
