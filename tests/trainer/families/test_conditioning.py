"""What the UNet is told, compared with diffusers' own pipelines; and the families' small arithmetic."""

import copy
import dataclasses
import random

import pytest
import tiny
import torch

from trainer import families
from trainer.errors import UserError
from trainer.families import Conditioning, clip
from trainer.webui import chunking

LONG = "a cat, " * 40  # letters are tokens here: some 200 of them


@pytest.fixture
def old_names(monkeypatch):
    """The attribute by which diffusers' pipelines reach the final layer norm of transformers' CLIP."""
    from transformers import CLIPTextModel

    if not hasattr(CLIPTextModel, "text_model"):
        monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)


def reference(model, text, **options):
    """diffusers' encode_prompt: (hidden, pooled or None)."""
    output = tiny.pipeline(model).encode_prompt(
        prompt=text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, **options
    )
    return output[0], output[2] if len(output) == 4 else None


def test_conditioning_equals_the_pipelines(model):
    hidden, pooled = reference(model, "a cat, hat")
    ours = model.family.encode_captions(model, ["a cat, hat"])
    assert torch.equal(ours.hidden, hidden)
    assert (ours.pooled is None) == (pooled is None)
    assert pooled is None or torch.equal(ours.pooled, pooled)


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip_is_diffusers_plus_one(folders, old_names, clip_skip):
    model = families.load(str(folders["sd15"]))
    hidden, _ = reference(model, "a cat", clip_skip=clip_skip - 1)
    assert torch.equal(model.family.encode_captions(model, ["a cat"], clip_skip=clip_skip).hidden, hidden)


def test_clip_skip_beyond_the_encoder_is_refused(folders):
    model = families.load(str(folders["sd15"]))
    with pytest.raises(UserError, match="has 3 layers; use 1 to 3"):
        model.family.encode_captions(model, ["a cat"], clip_skip=4)


def test_sdxl_has_its_own_layer(folders):
    model = families.load(str(folders["sdxl"]))
    one, two = (model.family.encode_captions(model, ["a cat"], clip_skip=skip) for skip in (1, 2))
    assert torch.equal(one.hidden, two.hidden)


def test_long_captions_become_chunks_and_lose_nothing(model):
    tokens = model.family.tokenize(model, [LONG, "a cat", ""])
    for part, tokenizer in zip(tokens, model.tokenizers, strict=True):
        assert part.shape == (3, 3, 77) and part.dtype == torch.int64
        assert (part[:, :, 0] == tokenizer.bos_token_id).all()
        words = [word for row in part[0].tolist() for word in row[1:76] if word != tokenizer.eos_token_id]
        assert words[: 40 * 5] == tokenizer(LONG, add_special_tokens=False, verbose=False).input_ids
        assert part[2, 0, 1] == tokenizer.eos_token_id
        assert (part[2, 0, 2:] == tokenizer.pad_token_id).all()
    assert model.family.chunks_needed(model, [LONG, ""]) == 3


@pytest.mark.parametrize("seed", range(20))
def test_chunks_end_at_commas_as_a1111_parts_a_prompt(seed, model):
    rng = random.Random(seed)
    text = " ".join(rng.choices(["moss,", "red", "hat,", "a,", "long", "word", "averylongword,"], k=rng.randint(1, 90)))
    for tokenizer in model.tokenizers:

        def ids(words, tokenizer=tokenizer):
            return tokenizer(words, add_special_tokens=False, truncation=False, verbose=False).input_ids

        parted = chunking.chunks([(text, 1.0)], ids, bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id)
        assert clip.chunk_tokens(tokenizer, text) == [
            list(chunk.padded_with(tokenizer.pad_token_id)) for chunk in parted
        ]
        filled = clip.chunk_tokens(tokenizer, text, backtrack=0)
        assert all(tokenizer.eos_token_id not in row[1:76] for row in filled[:-1])


def test_each_chunk_is_encoded_by_itself(model):
    # In float64: not every processor adds four rows up in the order in which it adds one.
    model = dataclasses.replace(model, text_encoders=[copy.deepcopy(one).double() for one in model.text_encoders])
    both = model.family.encode_captions(model, ["a cat", "a hat"], chunks=2)
    single = model.family.encode_captions(model, ["a cat"])
    assert both.hidden.shape[:2] == (2, 154)
    assert torch.allclose(both.hidden[:1, :77], single.hidden, rtol=0, atol=1e-9)
    assert single.pooled is None or torch.allclose(both.pooled[:1], single.pooled, rtol=0, atol=1e-9)


def test_too_few_chunks_is_said_and_not_cut_off(model):
    with pytest.raises(ValueError, match="needs 3 chunks"):
        model.family.tokenize(model, [LONG], chunks=1)


def test_rows_and_cat(model):
    whole = model.family.encode_captions(model, ["a", "b", "c"])
    parts = Conditioning.cat([whole.rows(0), whole.rows([1, 2])])
    assert len(parts) == 3 and torch.equal(parts.hidden, whole.hidden)
    assert whole.to(dtype=torch.bfloat16).hidden.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="same chunks"):
        Conditioning.cat([whole, model.family.encode_captions(model, ["a"], chunks=2)])


def test_encoding_is_differentiable(model):
    weight = model.text_encoders[-1].get_parameter(
        next(name for name, _ in model.text_encoders[-1].named_parameters() if "layers.0.mlp.fc1.weight" in name)
    )
    weight.requires_grad_(True)
    model.family.encode(model, model.family.tokenize(model, ["a cat"])).hidden.sum().backward()
    assert weight.grad.abs().sum() > 0


def test_latents_are_scaled_and_come_back(model):
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    mean, std = model.family.encode_images(model, pixels)
    posterior = model.vae.encode(pixels).latent_dist
    scale = model.vae.config.scaling_factor
    assert scale == model.family.vae_scaling_factor
    assert torch.equal(mean, posterior.mean * scale) and torch.equal(std, posterior.std * scale)
    assert torch.equal(model.family.decode(model, mean), model.vae.decode(mean / scale).sample)


def test_noise_schedule_is_stable_diffusions(model):
    """First and last ᾱ as published with the two families."""
    assert model.alphas_cumprod.shape == (1000,) and model.alphas_cumprod.dtype == torch.float64
    assert model.alphas_cumprod[0].item() == pytest.approx(0.99915, abs=1e-6)
    assert model.alphas_cumprod[-1].item() == pytest.approx(0.0046602, abs=1e-6)


def test_zero_terminal_snr_leaves_the_first_step_alone():
    from trainer.families import schedule

    plain, zero = (schedule.from_config({"rescale_betas_zero_snr": on}).alphas_cumprod for on in (False, True))
    assert zero[0].item() == pytest.approx(plain[0].item(), abs=1e-12)
    assert 0 < zero[-1] < 1e-7 and (zero.diff() < 0).all()


def test_a_size_in_half_precision_is_told_to_the_pixel(folders):
    """1365 and 1366 are one number in bfloat16."""
    model = families.load(str(folders["sdxl"]), dtype=torch.bfloat16)
    noisy, timesteps, conditioning, sizes = tiny.inputs(model)
    told = []
    for height in (1365, 1366):
        sizes = sizes.clone()
        sizes[:, 0] = height
        told.append(model.family.predict(model, noisy, timesteps, conditioning, sizes))
    assert not torch.equal(*told)


def test_prediction_keeps_the_dtype_of_the_latents(folders):
    for name, folder in folders.items():
        model = families.load(str(folder), dtype=torch.bfloat16)
        prediction = model.family.predict(model, *tiny.inputs(model))
        assert prediction.dtype == torch.float32 and prediction.isfinite().all(), name
        assert model.vae.dtype == torch.float32  # never in bfloat16
