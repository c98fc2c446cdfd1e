"""BLIP, BLIP-2 and Florence-2 on miniature models of their own classes, saved and loaded as the real ones are."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertTokenizerFast,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

from trainer.errors import UserError
from trainer.taggers import TagOptions, captioner, get

WORDS = "a cat dog sits on the mat red hat what does image describe in detail is shown with paragraph".split()
MARKS = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<mask>"]


def words_tokenizer(**extra) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate([*MARKS, *WORDS])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=fast, **names, **extra)


def make_blip(folder):
    folder.mkdir()
    (folder / "vocab").mkdir()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    vocabulary = {word: number for number, word in enumerate([*marks, *WORDS])}
    tokenizer = BertTokenizerFast(vocab=vocabulary, bos_token="[DEC]")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 5, "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    text = small | ids | {"vocab_size": len(vocabulary), "encoder_hidden_size": 16, "max_position_embeddings": 64}
    vision = small | {"image_size": 32, "patch_size": 16}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def make_blip2(folder):
    tokenizer = words_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"model_type": "opt", "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 64, "word_embed_proj_dim": 16, "max_position_embeddings": 200}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = Blip2Config(
        vision_config=small | {"image_size": 32, "patch_size": 16},
        qformer_config=small | {"encoder_hidden_size": 16, "vocab_size": 64},
        text_config=text,
        num_query_tokens=4,
        image_text_hidden_size=16,
        image_token_index=MARKS.index("<image>"),
    )
    torch.manual_seed(0)
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.image_token = "<image>"
    processor = Blip2Processor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer, num_query_tokens=4)
    processor.save_pretrained(folder)
    return folder


def make_florence(folder):
    tokenizer = words_tokenizer(extra_special_tokens={"image_token": "<image>"})
    text = {"model_type": "bart", "d_model": 16, "vocab_size": 64, "encoder_layers": 1, "decoder_layers": 1}
    text |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 2}
    vision = {"depths": [1, 1], "embed_dim": [8, 16], "num_heads": [2, 2], "num_groups": [2, 2], "window_size": 4}
    vision |= {"patch_size": [7, 3], "patch_stride": [4, 4], "patch_padding": [3, 1], "patch_prenorm": [False, True]}
    config = Florence2Config(
        text_config=text, vision_config=vision | {"projection_dim": 16}, image_token_id=MARKS.index("<image>")
    )
    torch.manual_seed(0)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    pictures.image_seq_length = 5  # 2×2 places and their mean
    Florence2Processor(pictures, tokenizer).save_pretrained(folder)
    return folder


MAKERS = {"blip": make_blip, "blip2": make_blip2, "florence": make_florence}
FAMILY = {"blip": "blip", "blip2": "blip", "florence": "florence"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioners")
    return {name: make(root / name) for name, make in MAKERS.items()}


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for number, size in enumerate([(40, 40), (64, 20), (33, 50)]):
        path = tmp_path / f"{number}.png"
        Image.effect_noise(size, 20 + 60 * number).convert("RGB").save(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize("name", MAKERS)
def test_each_writes_what_its_model_says(folders, pictures, monkeypatch, name):
    monkeypatch.setattr(captioner, "LONGEST", 6)
    tagger = get(f"{FAMILY[name]}:{folders[name]}")
    seen = []
    found = list(tagger.tag(pictures, progress=lambda *done: seen.append(done)))
    assert [path for path, _ in found] == pictures and seen[-1] == (3, 3)
    processor, model = tagger._processor, tagger._model
    for path, tags in found:  # one by one, straight through the library: batching and threads change nothing
        words = {"text": [tagger.prompt]} if tagger.prompt else {}
        inputs = processor(images=[Image.open(path)], **words, return_tensors="pt")
        ids = model.generate(**inputs, num_beams=3, do_sample=False, max_new_tokens=6)
        expected = " ".join(processor.batch_decode(ids, skip_special_tokens=True)[0].split())
        assert " ".join(tag for tag, _ in tags) == expected
        assert all(score == 1.0 for _, score in tags)


@pytest.mark.parametrize("name", MAKERS)
def test_the_words_are_the_models(folders, pictures, monkeypatch, name):
    monkeypatch.setattr(captioner, "LONGEST", 3)
    tagger = get(f"{FAMILY[name]}:{folders[name]}")
    monkeypatch.setattr(tagger._model, "generate", _says(tagger._processor.tokenizer, "a red cat"))
    [(_, tags)] = tagger.tag(pictures[:1], TagOptions(exclude=("dog",)))
    assert tags == [("a red cat", 1.0)]
    [(_, tags)] = tagger.tag(pictures[:1], TagOptions(exclude=("A red cat",)))
    assert tags == []


def _says(tokenizer, text):
    return lambda **inputs: torch.tensor(tokenizer([text] * len(inputs["pixel_values"])).input_ids)


def test_florence_takes_a_length(folders):
    assert get(f"florence:{folders['florence']}@paragraph").prompt == "<MORE_DETAILED_CAPTION>"
    assert get(f"florence:{folders['florence']}").prompt == "<DETAILED_CAPTION>"
    with pytest.raises(UserError, match="Unknown length 'long'"):
        get(f"florence:{folders['florence']}@long")


def test_what_is_missing_is_said_with_the_layout(folders, tmp_path):
    with pytest.raises(UserError, match=r"does not exist: put the files of Salesforce/blip.* model.safetensors"):
        get(f"blip:{tmp_path}/nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        UserError, match="holds no model.safetensors and no preprocessor_config.json and no tokenizer.json"
    ):
        get(f"florence:{tmp_path}")
    with pytest.raises(UserError, match="of type 'florence2' and not blip"):
        get(f"blip:{folders['florence']}")
    with pytest.raises(UserError, match="of type 'blip' and not florence2"):
        get(f"florence:{folders['blip']}")


def test_a_damaged_model_is_one_sentence(tmp_path):
    folder = make_blip(tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be loaded .*: fetch it again") as caught:
        get(f"blip:{folder}")
    assert "\n" not in str(caught.value)
    (folder / "config.json").write_text(json.dumps([]))
    with pytest.raises(UserError, match="names no model_type"):
        get(f"blip:{folder}")


@pytest.mark.parametrize("name", MAKERS)
def test_weights_under_other_names_are_not_replaced_by_noise(tmp_path, name):
    """As the first Florence-2, whose code is its own, would load: the library draws what it does not find."""
    folder = MAKERS[name](tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    save_file({f"first.{key}": value for key, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks .* weights, such as .*: take a release in the layout"):
        get(f"{FAMILY[name]}:{folder}")
