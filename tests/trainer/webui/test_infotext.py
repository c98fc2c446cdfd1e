import io
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trainer.errors import UserError
from trainer.webui.infotext import (
    Infotext,
    ordered,
    parse,
    pnginfo,
    quote,
    read_image,
    user_comment,
    write,
)

MARKS = [
    "a", " ", "\n", ", ", ":", '"', "{", "}", "[", "\\", "\r", "\r\n", "é", "😀", "Negative prompt:",
    "Steps: 20",
    "Steps: 20, Seed: 1, Size: 512x768", 'Exact text: "[\\"a\\", \\"b\\"]"', "Template: a", "\x00", "\u2028",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(MARKS), max_size=8).map("".join) | st.text()
NAMES = [
    "Steps",
    "Seed",
    "Size",
    "Hashes",
    "Lora hashes",
    "Exact text",
    "Negative prompt",
    "Template",
    "A/B-c",
]
SETTINGS = st.dictionaries(st.sampled_from(NAMES), TEXTS, max_size=5)
INFOS = st.builds(Infotext, TEXTS, TEXTS, SETTINGS)


@settings(max_examples=500, deadline=None)
@given(INFOS)
@example(Infotext("a\nSteps: 20, Seed: 1, Size: 8x8", "", {}))
@example(Infotext("a\nNegative prompt: b", "c\nNegative prompt: d", {"Steps": "20"}))
def test_reading_what_was_written_gives_the_same(info):
    read = parse(write(info))
    assert read == info
    assert list(read.settings) == list(info.settings)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_no_text_crashes(text):
    parse(text)


@pytest.mark.parametrize("text", ['{"a": ' * 5000, "[" * 100000, 'a: "' * 3000, "Steps: 1, " * 5000, "a: b, " * 20000])
def test_long_nonsense_is_read(text):
    parse(text)


FULL = """a cat, (blue eyes:1.2), <lora:moss:0.8>
second line
Negative prompt: bad hands,
text
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 42, Size: 512x768, \
Model hash: abc, Model: photon, Clip skip: 2, Lora hashes: "moss: 123, fern: 456", Foo bar: x, \
Version: v1.10.1"""


def test_a1111s_text():
    info = parse(FULL)
    assert info.prompt == "a cat, (blue eyes:1.2), <lora:moss:0.8>\nsecond line"
    assert info.negative_prompt == "bad hands,\ntext"
    assert info.settings["Size"] == "512x768"
    assert info.settings["CFG scale"] == "7.0"
    assert info.settings["Lora hashes"] == "moss: 123, fern: 456"
    assert list(info.settings)[-2:] == ["Foo bar", "Version"]
    assert write(info) == FULL


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_no_negative_prompt(newline):
    info = parse(f"a cat{newline}Steps: 20, Sampler: Euler a, Seed: 1")
    assert info == Infotext("a cat", "", {"Steps": "20", "Sampler": "Euler a", "Seed": "1"})


def test_only_a_prompt():
    assert parse("a cat, with hair: red, eyes: blue, mood: dark") == Infotext(
        "a cat, with hair: red, eyes: blue, mood: dark"
    )
    assert parse("") == Infotext()


def test_a_prompt_that_looks_like_settings():
    text = "Steps: 3, Seed: 5, Size: 1x1\nNegative prompt: Steps: 9\nSteps: 20, Sampler: Euler, Seed: 1"
    info = parse(text)
    assert info.prompt == "Steps: 3, Seed: 5, Size: 1x1"
    assert info.negative_prompt == "Steps: 9"
    assert info.settings["Steps"] == "20"


def test_civitais_unquoted_json():
    hashes = '{"model": "abc", "lora:moss": "def"}'
    resources = '[{"type":"checkpoint","modelVersionId":1,"modelName":"A, B"},{"type":"lora","weight":0.8}]'
    text = f"a cat\nSteps: 20, Sampler: Euler, Hashes: {hashes}, Civitai resources: {resources}, Version: x"
    info = parse(text)
    assert info.settings["Hashes"] == hashes
    assert json.loads(info.settings["Civitai resources"])[1]["weight"] == 0.8
    assert info.settings["Version"] == "x"
    assert parse(write(info)) == info


def test_civitais_one_line():
    settings = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 8x8"
    text = f"a cat, blue Negative prompt: bad: worse {settings}"
    info = parse(text)
    assert (info.prompt, info.negative_prompt) == ("a cat, blue", "bad: worse")
    assert info.settings == {
        "Steps": "20", "Sampler": "Euler a", "CFG scale": "7", "Seed": "1", "Size": "8x8",
    }  # fmt: skip


def test_lines_after_the_settings():
    text = "a\nSteps: 20, Sampler: Euler, Seed: 1\nTemplate: {a|b}, c\nNegative Template: d\ne"
    assert parse(text).settings == {
        "Steps": "20", "Sampler": "Euler", "Seed": "1", "Template": "{a|b}, c", "Negative Template": "d\ne",
    }  # fmt: skip
    assert parse("a\nSteps: 20, Seed: 1\nposted by me").settings["Text after"] == "posted by me"


def test_empty_values_and_old_versions():
    info = parse("a\nSteps: 20, Model: , Seed: 1, Batch pos: 0")
    assert info.settings == {"Steps": "20", "Model": "", "Seed": "1", "Batch pos": "0"}


def test_quoting():
    assert quote("512x768") == "512x768"
    assert quote("a, é") == '"a, é"'
    assert quote("12:30") == '"12:30"'
    assert quote("a\nb") == '"a\\nb"'


def test_the_order_is_a1111s():
    settings = {
        "Version": "v",
        "Foo": 1,
        "Hires upscale": 2,
        "Seed": 3,
        "Steps": 4,
        "Model": None,
        "Eta": 0.5,
    }
    assert ordered(settings) == {
        "Steps": "4", "Seed": "3", "Hires upscale": "2", "Eta": "0.5", "Foo": "1", "Version": "v",
    }  # fmt: skip
    assert list(ordered(settings)) == ["Steps", "Seed", "Hires upscale", "Eta", "Foo", "Version"]


def test_a_setting_name_that_cannot_be_written_is_refused():
    with pytest.raises(UserError, match="a, b"):
        write(Infotext("x", "", {"a, b": "1"}))


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────

INFO = parse(FULL)
PICTURE = Image.new("RGB", (8, 8), "red")


@pytest.mark.parametrize("prompt", ["plain", "Müller", "猫 😀", "lone \ud800 half", ""])
def test_png(tmp_path, prompt):
    info = Infotext(prompt, "", {"Steps": "20", "Seed": "1"})
    PICTURE.save(tmp_path / "a.png", pnginfo=pnginfo(info))
    source, read = read_image(tmp_path / "a.png")
    assert source == "a1111"
    assert read.prompt == prompt.replace("\ud800", "?")
    assert read.settings == info.settings
    with Image.open(tmp_path / "a.png") as opened:
        assert list(opened.info) == ["parameters"]


def exif_bytes(info):
    """EXIF as A1111 writes it into JPEG, WebP and AVIF: the infotext as UserComment, UTF-16 big-endian."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + write(info).encode("utf-16-be", "replace")
    return exif.tobytes()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
def test_exif(format):
    info = Infotext("猫, cat", "", {"Steps": "20", "Seed": "1"})
    buffer = io.BytesIO()
    PICTURE.save(buffer, format=format, exif=exif_bytes(info))
    assert read_image(Image.open(buffer)) == ("a1111", info)


def test_avif():
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    buffer = io.BytesIO()
    PICTURE.save(buffer, format="AVIF", exif=exif_bytes(INFO))
    assert read_image(Image.open(buffer)) == ("a1111", INFO)


def test_gif(tmp_path):
    PICTURE.save(tmp_path / "a.gif", comment=write(INFO).encode())
    assert read_image(tmp_path / "a.gif") == ("a1111", INFO)


@pytest.mark.parametrize(
    "value",
    [
        b"UNICODE\0" + "Steps é".encode("utf-16-be"),
        b"UNICODE\0" + "Steps é".encode("utf-16-le"),
        b"UNICODE\0" + "Steps é".encode("utf-16"),
        b"ASCII\0\0\0" + "Steps é".encode(),
        b"\0" * 8 + "Steps é".encode(),
        "Steps é".encode(),
    ],
)
def test_user_comments_in_every_code(value):
    assert user_comment(value) == "Steps é"


@given(st.binary(max_size=40))
def test_no_user_comment_crashes(value):
    user_comment(value)


def test_text_behind_the_pixels_is_found(tmp_path):
    buffer = io.BytesIO()
    PICTURE.save(buffer, format="PNG", pnginfo=pnginfo(INFO))
    data = buffer.getvalue()
    start = data.index(b"tEXt") - 4
    size = int.from_bytes(data[start : start + 4], "big") + 12
    chunk, end = data[start : start + size], data.index(b"IEND") - 4
    moved = data[:start] + data[start + size : end] + chunk + data[end:]
    (tmp_path / "a.png").write_bytes(moved)
    assert read_image(tmp_path / "a.png") == ("a1111", INFO)


def test_no_infotext(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png") is None
    assert read_image(PICTURE) is None


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(UserError, match="a.png is not a picture"):
        read_image(tmp_path / "a.png")
    with pytest.raises(UserError, match="missing.png"):
        read_image(tmp_path / "missing.png")
    buffer = io.BytesIO()
    PICTURE.save(buffer, format="PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:50])
    with pytest.raises(UserError, match="cut.png"):
        read_image(tmp_path / "cut.png")


# ── ComfyUI, InvokeAI ──────────────────────────────────────────────────────────────────────────────────


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


WORKFLOW = {
    "1": node("CheckpointLoaderSimple", ckpt_name="sd15/photon.safetensors"),
    "2": node("LoraLoader", lora_name="moss.safetensors", strength_model=0.8, strength_clip=0.5,
              model=["1", 0], clip=["1", 1]),
    "3": node("CLIPTextEncode", text="a (cat:1.2)", clip=["2", 1]),
    "4": node("CLIPTextEncode", text=["9", 0], clip=["2", 1]),
    "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
    "6": node("KSampler", seed=42, steps=25, cfg=6.5, sampler_name="dpmpp_2m", scheduler="karras",
              denoise=1.0,
              model=["2", 0], positive=["3", 0], negative=["4", 0], latent_image=["5", 0]),
    "7": node("LatentUpscaleBy", upscale_method="bicubic", scale_by=1.5, samples=["6", 0]),
    "8": node("KSampler", seed=42, steps=12, cfg=6.5, sampler_name="euler_ancestral", scheduler="normal",
              denoise=0.5, model=["2", 0], positive=["3", 0], negative=["4", 0], latent_image=["7", 0]),
    "9": node("PrimitiveString", value="bad"),
}  # fmt: skip


def picture_with(key, value):
    chunks = PngInfo()
    chunks.add_text(key, value if isinstance(value, str) else json.dumps(value))
    buffer = io.BytesIO()
    PICTURE.save(buffer, format="PNG", pnginfo=chunks)
    return Image.open(buffer)


def test_comfyui():
    source, info = read_image(picture_with("prompt", WORKFLOW))
    assert source == "comfyui"
    assert info.prompt == "a (cat:1.2) <lora:moss:0.5:0.8>"
    assert info.negative_prompt == "bad"
    assert info.settings == {
        "Steps": "25", "Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "6.5", "Seed": "42",
        "Size": "512x768", "Model": "photon", "Denoising strength": "0.5", "RNG": "CPU",
        "Hires upscale": "1.5", "Hires steps": "12", "Hires upscaler": "bicubic",
    }  # fmt: skip


def test_comfyuis_custom_sampler_behind_a_controlnet():
    flow = {
        "1": node("UNETLoader", unet_name="x.safetensors"),
        "2": node("CLIPTextEncode", text="yes"),
        "3": node("CLIPTextEncode", text="no"),
        "4": node("ControlNetApplyAdvanced", positive=["2", 0], negative=["3", 0]),
        "5": node("CFGGuider", model=["1", 0], positive=["4", 0], negative=["4", 1], cfg=5),
        "6": node("BasicScheduler", scheduler="simple", steps=8, denoise=1),
        "7": node("KSamplerSelect", sampler_name="res_multistep"),
        "8": node("RandomNoise", noise_seed=7),
        "9": node("EmptyLatentImage", width=64, height=64),
        "10": node("SamplerCustomAdvanced", noise=["8", 0], guider=["5", 0], sampler=["7", 0],
                   sigmas=["6", 0], latent_image=["9", 0]),
    }  # fmt: skip
    _, info = read_image(picture_with("prompt", flow))
    assert (info.prompt, info.negative_prompt) == ("yes", "no")
    assert info.settings == {
        "Steps": "8", "Sampler": "res_multistep", "Schedule type": "simple", "CFG scale": "5", "Seed": "7",
        "Size": "64x64", "Model": "x", "RNG": "CPU",
    }  # fmt: skip


def test_invokeai():
    data = {
        "positive_prompt": "a cat", "negative_prompt": "bad", "width": 512, "height": 640, "seed": 3,
        "steps": 30,
        "cfg_scale": 7.5, "scheduler": "dpmpp_2m_k", "rand_device": "cpu", "model": {"name": "dream"},
        "loras": [{"model": {"name": "moss"}, "weight": 0.75}],
    }  # fmt: skip
    source, info = read_image(picture_with("invokeai_metadata", data))
    assert source == "invokeai"
    assert (info.prompt, info.negative_prompt) == ("a cat <lora:moss:0.75>", "bad")
    assert info.settings == {
        "Steps": "30", "Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "7.5", "Seed": "3",
        "Size": "512x640", "Model": "dream", "RNG": "CPU",
    }  # fmt: skip


def test_invokeai_2():
    image = {"prompt": [{"prompt": "a cat [bad, worse]", "weight": 1}], "steps": 20, "cfg_scale": 7,
             "seed": 5, "sampler": "k_euler_a", "width": 512, "height": 512}  # fmt: skip
    _, info = read_image(picture_with("sd-metadata", {"model_weights": "sd-1.5", "image": image}))
    assert (info.prompt, info.negative_prompt) == ("a cat", "bad, worse")
    assert info.settings["Sampler"] == "Euler a"
    assert info.settings["Size"] == "512x512"


LEAVES = st.sampled_from([None, 1, 2.5, True, "a", "euler", ["3", 0], ["1", 1], [5], float("nan")])
INPUTS = st.dictionaries(
    st.sampled_from(["positive", "negative", "text", "seed", "steps", "model", "lora_name", "latent_image",
                     "width", "height", "scheduler", "sampler_name", "guider", "scale_by"]),
    LEAVES,
)  # fmt: skip
NODES = st.builds(node, st.sampled_from(["KSampler", "CLIPTextEncode", "LatentUpscale"])).flatmap(
    lambda made: INPUTS.map(lambda inputs: made | {"inputs": inputs})
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from("12345"), NODES | LEAVES) | LEAVES, st.sampled_from(
    ["prompt", "invokeai_metadata", "sd-metadata"]))  # fmt: skip
def test_no_metadata_crashes(value, key):
    image = Image.new("RGB", (1, 1))
    image.info[key] = json.dumps(value)
    read_image(image)
