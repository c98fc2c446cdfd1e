"""Versions of a picture, and masks that are cropped exactly as it is."""

import pytest
import torch
from PIL import Image

from trainer import augment
from trainer.augment import Variant, load_mask, load_pixels, variants
from trainer.batches import Batches, cache_latents
from trainer.config import DataConfig
from trainer.errors import UserError
from trainer.examples import load_examples

SMALL = {"resolution": 64, "bucket_step": 32, "bucket_min": 32}
ALPHAS = torch.linspace(0.999, 0.005, 1000)


@pytest.fixture
def folder(tmp_path):
    """One wide picture: red rises to the right, so every crop can be told; its right half is transparent."""
    made = tmp_path / "set"
    made.mkdir()
    ramp = Image.linear_gradient("L").rotate(90).resize((160, 64))
    alpha = Image.new("L", (160, 64), 255)
    alpha.paste(0, (80, 0, 160, 64))
    Image.merge("RGBA", (ramp, Image.new("L", (160, 64)), Image.new("L", (160, 64)), alpha)).save(made / "0.png")
    return made


def one(folder, **settings):
    data = DataConfig(folder=str(folder), **SMALL, **settings)
    (example,) = load_examples(data)
    return example, data


def test_which_versions_there_are(folder):
    crop, flip, colours = {"random_crop": True}, {"flip": True}, {"colour_shift": True, "variants": 6}
    counts = [len(variants(*one(folder, **settings))) for settings in ({}, flip, crop, colours, flip | crop)]
    assert counts == [1, 2, 4, 6, 8]
    example, data = one(folder, flip=True, random_crop=True, colour_shift=True)
    assert variants(example, data)[0] == Variant(example.placement)
    assert variants(example, data) == variants(example, data.model_copy(update={"repeats": 7}))


def test_a_mirrored_version_is_mirrored_and_so_are_mask_and_origin(folder):
    example, data = one(folder, flip=True, alpha_mask=True)
    plain, mirrored = variants(example, data)
    assert torch.equal(load_pixels(example, mirrored), load_pixels(example, plain).flip(-1))
    assert torch.allclose(load_mask(example, mirrored), load_mask(example, plain).flip(-1), atol=1e-5)
    left, top, right, _ = example.placement.crop
    assert (plain.origin, mirrored.origin) == ((top, left), (top, example.placement.scaled[0] - right))


def test_random_crops_are_other_parts_and_the_mask_goes_with_them(folder):
    example, data = one(folder, random_crop=True, alpha_mask=True, variants=8)
    found = variants(example, data)
    assert len({variant.placement.crop for variant in found}) > 2
    width = example.placement.bucket[0]
    for variant in found:
        left, _, right, _ = variant.placement.crop
        assert right - left == width and left >= 0 and right <= example.placement.scaled[0]
        # Where the picture was made transparent it is white now: the mask must say so at the same places.
        opaque = (load_pixels(example, variant)[1] < 0).float()[None]
        assert torch.allclose(load_mask(example, variant), torch.nn.functional.avg_pool2d(opaque, 8), atol=0.2)


def test_colours_shift_a_little(folder):
    example, data = one(folder, colour_shift=True, variants=16)
    plain, *others = [load_pixels(example, variant) for variant in variants(example, data)]
    changes = [(other - plain).abs().mean() for other in others]
    assert sum(change > 0 for change in changes) > 10 and max(changes) < 0.3
    assert {variant.hue != 0 for variant in variants(example, data)[1:]} == {True, False}


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mask_from_transparency_or_from_a_folder(folder, tmp_path):
    example, data = one(folder)
    assert example.mask is None and load_mask(example, Variant(example.placement)).min() == 1
    example, data = one(folder, alpha_mask=True)
    mask = load_mask(example, Variant(example.placement))
    width, height = example.placement.bucket
    assert mask.shape == (1, height // 8, width // 8)
    assert mask[..., 0].mean() > 0.9 and mask[..., -1].mean() < 0.1
    masks = tmp_path / "masks"
    masks.mkdir()
    with pytest.raises(UserError, match=r"no mask for 0\.png"):
        one(folder, mask_folder=str(masks))
    Image.new("L", (40, 16), 51).save(masks / "0.jpg")  # of another size and format
    example, data = one(folder, mask_folder=str(masks))
    assert torch.allclose(load_mask(example, Variant(example.placement)), torch.tensor(0.2), atol=0.01)
    first = example.mask_digest
    Image.new("L", (40, 16), 255).save(masks / "0.jpg")
    assert one(folder, mask_folder=str(masks))[0].mask_digest != first


# ── cached and drawn ────────────────────────────────────────────────────────────────────────────────────


def test_every_version_is_cached_and_drawn(folder, model, tmp_path):
    from trainer import presets

    example, data = one(folder, flip=True, random_crop=True, alpha_mask=True)
    reports = []

    def report(what, done, total):
        reports.append(total)

    latents = cache_latents(model, [example], data, tmp_path / "cache", report)
    mean = model.family.encode_images(model, load_pixels(example, variants(example, data)[5])[None])[0][0]
    assert torch.allclose(latents[0, 5]["mean"], mean, atol=1e-5)
    assert torch.allclose(latents[0, 5]["mask"], load_mask(example, variants(example, data)[5]))
    config = presets.layer({f"data.{key}": value for key, value in data.model_dump().items()})
    batches = Batches(config, [example], latents)
    drawn = [batches.make(epoch, 0, [0], ALPHAS) for epoch in range(60)]
    seen = {tuple(batch.sizes[0].tolist()) for batch in drawn}
    assert seen == {
        (*variant_size(example), *variant.origin, *example.placement.bucket[::-1])
        for variant in augment.variants(example, data)
    }
    assert all(batch.masks.shape == (1, 1, *batch.latents.shape[2:]) for batch in drawn)
    # Encoded once: another look finds all of them, and the plain one without masks has rows of its own.
    reports.clear()
    cache_latents(model, [example], data, tmp_path / "cache", report)
    assert not reports
    cache_latents(model, [example], data.model_copy(update={"alpha_mask": False}), tmp_path / "cache", report)
    assert reports


def variant_size(example):
    return example.height, example.width


def test_the_cache_is_shared_out_between_processes(folder, model, tmp_path):
    from trainer.batches import Share

    for number in range(4):
        Image.new("RGB", (64 + number, 64), (number * 50, 0, 0)).save(folder / f"more{number}.png")
    data = DataConfig(folder=str(folder), **SMALL)
    examples, encoded = load_examples(data), []

    def waiting():
        # What the other process has made until now.
        others = Share(1, 2)
        cache_latents(model, examples, data, tmp_path / "cache", lambda *_: encoded.append("other"), others)

    latents = cache_latents(
        model, examples, data, tmp_path / "cache", lambda *_: encoded.append("own"), Share(0, 2, waiting)
    )
    assert encoded.count("own") == 4 and "other" in encoded  # three pictures of five, and the report that they are done
    assert all(latents[at, 0]["mean"].isfinite().all() for at in range(5))
