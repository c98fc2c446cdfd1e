"""The shipped weights: small, loadable with the real classes, and as good as the model card says."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from trainer.toybox import CHARACTERS, PARTS, PICTURES, ROOT
from trainer.toybox.card import size_of, squares, unseen
from trainer.toybox.heldback import HELD_BACK
from trainer.toybox.measure import fidelity, tags_found
from trainer.toybox.scene import all_tags
from trainer.toybox.sheets import pipeline, prompts, render
from trainer.toybox.train_clip import retrieval
from trainer.toybox.train_tagger import RATINGS, f1, tag_scores
from trainer.toybox.train_vae import psnr, reconstruct

DRAWINGS = Path(__file__).resolve().parents[4] / "shared" / "data" / "red_cartoon"


@pytest.fixture(scope="module")
def vae():
    return AutoencoderKL.from_pretrained(str(PARTS["vae"]), torch_dtype=torch.float32).eval()


def test_everything_together_is_small():
    assert size_of(ROOT) <= 16_000_000


def test_the_folders_load_with_the_real_classes():
    for base, encoders in {
        "sd15": {"text_encoder": CLIPTextModel},
        "sdxl": {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection},
    }.items():
        folder = PARTS[base]
        assert not (folder / "vae").exists()
        unet = UNet2DConditionModel.from_pretrained(str(folder / "unet"))
        assert (unet.config.in_channels, unet.config.sample_size) == (4, 16)
        widths = [kind.from_pretrained(str(folder / name)).config.hidden_size for name, kind in encoders.items()]
        assert sum(widths) == unet.config.cross_attention_dim
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
        assert tokenizer.model_max_length == 77
        assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert CLIPTokenizer.from_pretrained(str(PARTS["sdxl"] / "tokenizer_2")).pad_token_id == 0
    assert CLIPModel.from_pretrained(str(PARTS["clip"])).config.vision_config.image_size == 128


def test_any_text_encodes_and_the_words_of_the_world_are_one_token_each():
    tokenizer = CLIPTokenizer.from_pretrained(str(PARTS["sd15"] / "tokenizer"))
    assert len(tokenizer.tokenize("moss, émile 日本 😀 (blue_hair:1.2) \\(x\\)")) > 10
    assert tokenizer.unk_token not in tokenizer.tokenize("zebra émile 日本 😀")
    for word in {word for tag in all_tags() for word in tag.split() if word.isalpha()}:
        assert tokenizer.tokenize(word) == [word + "</w>"]


def test_the_tokenizer_in_a_pooled_encoder_finds_the_real_end():
    tokenizer = CLIPTokenizer.from_pretrained(str(PARTS["sdxl"] / "tokenizer_2"))
    encoder = CLIPTextModelWithProjection.from_pretrained(str(PARTS["sdxl"] / "text_encoder_2")).float()
    short = tokenizer("red hat", return_tensors="pt").input_ids
    padded = tokenizer("red hat", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(encoder(short).text_embeds, encoder(padded).text_embeds, atol=1e-4)


def test_the_autoencoder_reproduces_unseen_pictures(vae):
    pictures = unseen(16, seed=77)[1]
    assert psnr(pictures, reconstruct(vae, pictures)) >= 28
    latents = vae.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    assert float(latents.detach().std() * vae.config.scaling_factor) == pytest.approx(1, abs=0.15)


def test_the_autoencoder_reproduces_drawings_from_elsewhere(vae):
    if not DRAWINGS.is_dir():
        pytest.skip("the drawings are not part of the project")
    pictures = squares(DRAWINGS)
    assert psnr(pictures, reconstruct(vae, pictures)) >= 24


@pytest.mark.parametrize("name", CHARACTERS)
def test_a_character_is_still_itself_after_the_autoencoder(vae, name):
    made = reconstruct(vae, squares(PICTURES[name]))
    assert np.mean([fidelity(Image.fromarray(picture), name) for picture in made]) >= 0.85


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_a_base_draws_what_the_tags_say_and_knows_no_trigger_word(base):
    pipe, scenes = pipeline(base), prompts(8, seed=3)
    images = render(pipe, [scene.caption() for scene in scenes])
    assert tags_found(images, scenes)["all"] >= 0.85
    for name in CHARACTERS:
        drawn = render(pipe, [HELD_BACK[name].caption(scene) for scene in scenes[:4]])
        assert np.mean([fidelity(*each) for each in zip(drawn, [name] * 4, scenes, strict=False)]) <= 0.2


def test_the_tagger_has_the_format_of_wd14_and_finds_the_tags():
    with open(PARTS["tagger"] / "selected_tags.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["tag_id", "name", "category", "count"]
    assert [row["name"] for row in rows[:4]] == list(RATINGS)
    assert {row["category"] for row in rows[:4]} == {"9"} and {row["category"] for row in rows[4:]} == {"0"}
    scenes, pictures = unseen(32, seed=78)
    scores = tag_scores(PARTS["tagger"], pictures)
    assert scores.shape == (32, len(rows)) and 0 <= scores.min() <= scores.max() <= 1
    assert f1(scores, scenes) >= 0.9


def test_clip_tells_pictures_apart_by_their_captions():
    scenes, pictures = unseen(32, seed=79)
    assert retrieval(PARTS["clip"], pictures, [scene.caption() for scene in scenes]) >= 0.7
