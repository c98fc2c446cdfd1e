"""What a run takes, foretold: held against the same run in earnest on tiny bases."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trainees
from torch.utils._pytree import tree_leaves

from datasets import load_from_disk
from trainer import __main__ as command_line
from trainer import environment, families, grid_costs, kohya, presets
from trainer import estimate as estimates
from trainer.adapters import KINDS, Adapter
from trainer.checkpoint import load_state
from trainer.costs import Dummy, Meter
from trainer.estimate import estimate, probe
from trainer.examples import load_examples
from trainer.fitting import cheapest_change
from trainer.loop import train


def settings_for(base, **changes):
    values = {
        "model.base": str(base),
        "model.precision": "fp32",
        "data.resolution": 64,
        "adapter.rank": 4,
        "adapter.alpha": 2,
        "optimizer.name": "AdamW",
        "evaluation.batch_size": 1,
        **{path.replace("__", "."): value for path, value in changes.items()},
    }
    return presets.layer(values)


def test_the_meter_counts_what_is_alive():
    weight = torch.zeros(100, 10)
    with Meter([weight]) as meter:
        first = torch.zeros(1000)  # 4000 bytes
        product = torch.zeros(8, 100) @ weight  # 3200 and 320
        assert weight.t().shape == (10, 100)  # a view of what was there
        del first
        kept = product.view(-1) + 1  # 320
    assert meter.peak == 4000 + 3200 + 320
    assert meter.live == 320 + 320
    assert meter.flops == 2 * 8 * 100 * 10
    assert kept.numel() == 80


def test_the_meter_counts_the_copy_that_a_convolution_makes_of_its_weight():
    convolution = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False).requires_grad_(False)
    picture = torch.zeros(1, 4, 5, 5, requires_grad=True)
    peaks = {}
    for blocked in (False, True):
        with Meter([convolution.weight, picture], blocked=blocked) as meter:
            made = convolution(picture)
        peaks[blocked] = meter.peak
        del made
    assert peaks == {False: 8 * 25 * 4, True: 8 * 25 * 4 + 8 * 4 * 9 * 4}


def test_what_was_freed_between_blocks_goes_back_to_the_system():
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc keeps holes between blocks, and can be asked to give them back")
    torch.ones(4_000_000)  # glibc takes blocks below the largest freed one from its heap
    blocks = [torch.ones(64_000) for _ in range(800)]  # 256 kB each
    kept = blocks[::2]
    del blocks
    before = estimates.resident()
    environment.release_memory()
    assert before - estimates.resident() > 60_000_000 and len(kept) == 400


def test_a_base_that_is_given_up_leaves_no_holes():
    """In a process of its own: the heap of this one has a past."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc lays blocks of megabytes into its heap")
    done = subprocess.run([sys.executable, "-c", GIVEN_UP], capture_output=True, text=True, cwd=ROOT)
    apart, plain = map(int, done.stdout.split())
    assert apart > 75_000_000 and plain < 50_000_000


ROOT = Path(__file__).parent.parent.parent
# Bytes that go back when every second of 100 blocks of 2 MB is dropped, and nothing is asked for.
GIVEN_UP = """
import torch
from trainer import environment, estimate

def given_back():
    blocks = [torch.ones(500_000) for _ in range(100)]
    before = estimate.resident()
    del blocks[::2]
    return before - estimate.resident()

with environment.weights_apart():
    apart = given_back()
print(apart, given_back())
"""


def test_beside_a_loaded_unet_lies_a_piece_of_its_file_or_its_packed_layers(folders, monkeypatch):
    def beside(**changes) -> int:
        settings = settings_for(folders["sd15"], adapter__text_encoder=False, **changes)
        found, dummy = estimate(settings, []), Dummy(settings)
        others = dummy.parts["text_encoder"] + dummy.parts["vae"]
        return found.loading - found.training["program and driver"] - dummy.unpacked - others

    assert beside() == beside(model__quantize="fp8") == estimates.MAP
    monkeypatch.setattr(estimates, "MAP", 1)
    assert beside() == 1
    assert beside(model__quantize="fp8") == Dummy(settings_for(folders["sd15"], model__quantize="fp8")).parts["unet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_counted_and_so_can_modules_that_sit_out(kind, folders):
    """Dice are numbers, and a run that is only counted has none."""
    peaks = [
        Dummy(settings_for(folders["sd15"], adapter__kind=kind, adapter__module_dropout=share))
        .training(1, (64, 64), 1, encodes=True)
        .peak
        for share in (0.0, 0.5)
    ]
    assert peaks[0] == pytest.approx(peaks[1]) and peaks[0] > 0


def test_a_base_in_half_precision_can_be_counted(folders):
    """Its VAE is in fp16 too, and is asked again in float32 where it overflows: which nobody knows beforehand."""
    half, whole = (estimate(settings_for(folders["sd15"], model__precision=kind), []) for kind in ("fp16", "fp32"))
    assert half.training["UNet"] == whole.training["UNet"] / 2 and 0 < half.rendering < whole.rendering


def test_another_card_is_counted_without_what_main_memory_holds(folders):
    """Its driver in the place of the program, nothing of the loading, and the same work but for oneDNN's copies."""
    settings = settings_for(folders["sd15"])
    here, card = (estimate(settings, [], 10**9, device) for device in ("cpu", "cuda"))
    assert card.device != here.device and card.loading == 0 < here.loading
    assert card.training["program and driver"] == estimates.DRIVER
    work = "activations and gradients"
    alive = {"card": card.training[work] / estimates.SLACK, "here": here.training[work] / estimates.HEAP}
    assert alive["card"] == pytest.approx(alive["here"], rel=0.03)
    layer, picture = torch.nn.Conv2d(64, 64, 3), torch.zeros(1, 64, 3, 3)
    peaks = []
    for blocked in (False, True):
        with Meter([*layer.parameters(), picture], blocked=blocked) as meter, torch.no_grad():
            layer(picture)
        peaks.append(meter.peak)
    assert peaks[1] == peaks[0] + layer.weight.nbytes


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_outline_counts_what_the_real_model_takes(family, folders):
    """The same meter around the real UNet: same peak, same arithmetic, same weights."""
    dummy = Dummy(settings_for(folders[family], adapter__text_encoder=False))
    foretold = dummy.training(2, (64, 96), 1, encodes=False)
    model = families.load(str(folders[family]))
    assert dummy.parts["unet"] == sum(tensor.numel() * 4 for tensor in model.unet.state_dict().values())
    adapter = Adapter.attach(model, dummy.config.adapter, seed=0)
    assert dummy.tensors == {name: tuple(weight.shape) for name, weight in adapter.named_parameters()}
    hidden = torch.zeros(2, 77, model.unet.config.cross_attention_dim)
    pooled = torch.zeros(2, 128) if family == "sdxl" else None
    there = [tensor for module in model.modules().values() for tensor in (*module.parameters(), *module.buffers())]
    with Meter(there, blocked=True) as meter:
        latents = torch.randn(2, 4, 12, 8)
        known = families.Conditioning(hidden, pooled)
        said = model.family.predict(model, latents, torch.zeros(2, dtype=torch.int64), known, torch.zeros(2, 6))
        (said - latents).square().mean().backward()
    assert foretold.peak == pytest.approx(meter.peak, rel=0.03)
    assert foretold.flops == meter.flops


def test_each_choice_shows(folders):
    dummy = Dummy(settings_for(folders["sd15"]))
    plain = dummy.training(2, (64, 64), 1, encodes=True).peak
    assert dummy.training(4, (64, 64), 1, encodes=True).peak > 1.5 * plain
    assert dummy.training(2, (128, 64), 1, encodes=True).peak > 1.5 * plain
    assert dummy.rendering(16, (64, 64)).peak > dummy.rendering(2, (64, 64)).peak
    assert dummy.decoding((128, 64)).peak > dummy.decoding((64, 64)).peak
    careful = Dummy(settings_for(folders["sd15"], model__gradient_checkpointing=True, model__precision="bf16"))
    assert careful.parts["unet"] * 2 == dummy.parts["unet"]
    assert careful.training(2, (64, 64), 1, encodes=True).peak < 0.8 * plain


def test_frozen_text_encoders_lie_on_a_card_while_captions_are_encoded(folders):
    kinds = {"fixed": False, "changing": True}
    found = {
        name: estimate(settings_for(folders["sd15"], data__shuffle_tags=shuffle, adapter__text_encoder=False), [],
                       device="cuda")
        for name, shuffle in kinds.items()
    }  # fmt: skip
    assert [found[name].training["text encoders"] for name in kinds] == [0, 0]
    texts = Dummy(settings_for(folders["sd15"])).parts["text_encoder"]
    beside = sum(found["fixed"].training.values()) - found["fixed"].training["activations and gradients"]
    assert found["changing"].caching == max(found["fixed"].caching, beside + texts)
    # Main memory holds them from the beginning to the end.
    kept = estimate(settings_for(folders["sd15"], adapter__text_encoder=False), [], device="cpu")
    assert kept.training["text encoders"] == texts


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamW8bit", "AdaFactor"])
def test_files_and_states_are_as_large_as_foretold(optimizer, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trainees.make_run(tmp_path, folders["sd15"], loop__epochs=1, adapter__rank=32, optimizer__name=optimizer)
    foretold = estimate(run.config, load_examples(run.config.data))
    assert foretold.training["text encoders"] > 0  # they are trained
    train(run)
    assert foretold.file == pytest.approx(run.epochs()[0].path.stat().st_size, rel=0.01)
    assert foretold.steps == run.status.progress.steps
    held = {}
    for entry in load_state(run.path / "state")["optimizer"]["state"].values():
        found = [value for value in tree_leaves(entry) if isinstance(value, torch.Tensor)]
        held |= {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in found}
    assert foretold.training["optimizer"] == pytest.approx(sum(held.values()), rel=0.02)
    tensors = kohya.read(run.epochs()[0].path).tensors
    numbers = sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith("alpha"))
    assert foretold.training["LoRA"] == 4 * numbers


def test_what_does_not_fit_is_told_its_cheapest_change(folders):
    config = settings_for(folders["sd15"], loop__batch_size=16, data__resolution=128, optimizer__name="AdamW8bit")
    needed = estimate(config, []).peak
    change, found = cheapest_change(config, lambda changed: [], needed - 1)
    assert change == {"model.gradient_checkpointing": True}
    assert found.fits
    assert cheapest_change(config, lambda changed: [], 1) is None


def test_a_probe_tells_the_time(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimates, "PROBES", tmp_path / "probes.json")
    pictures = trainees.draw_pictures(tmp_path / "pictures", trainees.SIZES[:2])
    config = settings_for(folders["sd15"], data__folder=str(pictures), data__trigger="moss", loop__epochs=7)
    examples = load_examples(config.data)
    assert estimate(config, examples).seconds is None
    seconds, _ = probe(config, examples)
    found = estimate(config, examples)
    assert found.seconds == pytest.approx(seconds)
    assert found.total_seconds == pytest.approx(seconds * found.steps)
    assert found.pictures == 132 * 8 // 11 and found.comparing_seconds > 0
    assert not (tmp_path / "runs" / "moss").exists()


def test_the_command_tells_it(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def said(*words):
        options = ["--base", str(folders["sd15"]), "--set", "data.resolution=64", "--set", "model.precision=fp32"]
        monkeypatch.setattr(sys, "argv", ["lora-studio", "estimate", *options, *words])
        command_line.main()
        return " ".join(capsys.readouterr().out.split())

    assert "It fits" in said()
    assert "It does not fit" in said("--memory", "0.001")


def test_a_run_is_foretold_before_it_starts(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trainees.draw_pictures(tmp_path / "pictures", trainees.SIZES[:1])
    small = ["data.resolution=64", "loop.epochs=1", "data.repeats=1", "adapter.text_encoder=false"]
    options = ["--preset", "toybox", "--base", str(folders["sd15"]), "--data", "pictures"]
    options += [word for change in small for word in ("--set", change)]
    monkeypatch.setattr(sys, "argv", ["lora-studio", "train", *options])
    command_line.main()
    printed = capsys.readouterr().out
    assert printed.index("Memory for training") < printed.index("Run ")
    assert "could not be counted" not in printed


def test_a_base_in_fewer_bits_and_an_average_are_counted(folders):
    plain, packed = (estimate(settings_for(folders["sd15"], model__quantize=kind), []) for kind in ("none", "fp8"))
    assert packed.training["UNet"] < plain.training["UNet"] / 2
    averaged = estimate(settings_for(folders["sd15"], loop__ema_decay=0.99), [])
    assert averaged.training["average"] == averaged.training["LoRA"] > 0


def test_no_change_is_advised_that_can_be_spared(folders):
    """Cheap changes together are better advice than smaller pictures, and what fits without them goes without."""
    settings = settings_for(folders["sd15"], adapter__rank=256, adapter__text_encoder=False, loop__batch_size=8)
    given = presets.flatten(settings.model_dump())
    cheap = {"optimizer.name": "AdamW8bit", "loop.batch_size": 1, "loop.gradient_accumulation": 8}
    wanted = estimate(presets.layer(given, cheap), [], 10**12, "cuda")
    capacity = max(wanted.peak, wanted.rendering)
    change, found = cheapest_change(settings, lambda _: [], capacity, "cuda")
    assert found.fits and len(change) > 1 and "data.resolution" not in change
    for path in change:
        rest = {one: value for one, value in change.items() if one != path}
        spared = estimate(presets.layer(given, rest), [], capacity, "cuda").fits
        assert spared is (path == "loop.gradient_accumulation")  # which only keeps what an update sees


def test_the_advice_can_be_pasted(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {"model.base": str(folders["sd15"]), "data.resolution": 64, "adapter.rank": 256, "optimizer.name": "AdamW"}
    given["evaluation.batch_size"] = 1
    options = [word for path, value in given.items() for word in ("--set", f"{path}={value}")]
    found = estimate(presets.layer(given, {"optimizer.name": "AdamW8bit"}), [], 10**12, "cuda")
    options += ["--memory", str(max(found.peak, found.rendering) / 1e9)]

    def said(*words):
        monkeypatch.setattr(sys, "argv", ["lora-studio", "estimate", *options, *words])
        command_line.main()
        return " ".join(capsys.readouterr().out.split())

    advice = said().partition("It fits with ")[2].partition(": ")[0]
    assert advice == "--set optimizer.name=AdamW8bit"
    assert "It fits: a graphics card" in said(*advice.split())


def test_a_hires_fix_and_the_pictures_own_sizes_are_counted(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dummy = Dummy(settings_for(folders["sd15"]))

    def work(*columns: str, epochs: int = 1, **changes):
        text = "".join(f'[[prompt]]\nname = "{number}"\nprompt = "x"\n{rest}\n' for number, rest in enumerate(columns))
        (tmp_path / "set.toml").write_text(text)
        settings = settings_for(
            folders["sd15"],
            evaluation__prompts="set.toml",
            evaluation__loss_pictures=0,
            evaluation__steps=10,
            **changes,
        )
        return grid_costs.work(settings, dummy, (64, 64), 0, epochs)

    plain, fixed = work(""), work('hires = { upscale = 2, upscaler = "Lanczos", steps = 5 }')
    small, large = ((2, (64, 64)), (2, (128, 128)))
    assert (plain.unet, fixed.unet) == (dummy.rendering(*small).peak, dummy.rendering(*large).peak)
    assert (plain.vae, fixed.vae) == (
        dummy.decoding((64, 64)).peak,
        max(dummy.decoding((128, 128)).peak, dummy.caching((128, 128)).peak),
    )
    once = 10 * dummy.rendering(*small).flops + dummy.decoding((64, 64)).flops
    again = 5 * dummy.rendering(*large).flops + dummy.decoding((128, 128)).flops + dummy.caching((128, 128)).flops
    assert (plain.flops, fixed.flops) == (2 * once, 2 * (once + again))  # the base and one epoch
    latent = work("hires = { upscale = 2, steps = 5 }").flops
    assert latent == fixed.flops - 2 * (dummy.decoding((64, 64)).flops + dummy.caching((128, 128)).flops)
    wide = work("", "width = 128\nheight = 64\nseed = 3", epochs=2, evaluation__seeds=[1, 2])
    assert wide.pictures == 3 * (2 + 1) and wide.unet == dummy.rendering(2, (128, 64)).peak
    assert work("cfg_scale = 1").unet == dummy.rendering(1, (64, 64)).peak
    assert work('sampler = "Heun"').flops == plain.flops + 20 * dummy.rendering(*small).flops  # two calls a step
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "sharp.pth").write_bytes(b"x" * 1234)
    assert work('hires = { upscaler = "sharp" }').upscalers == 1234 and plain.upscalers == 0


def test_full_bf16_takes_half(folders):
    settings = {"model__precision": "bf16", "optimizer__name": "AdamW"}
    whole, half = (estimate(settings_for(folders["sd15"], model__full_bf16=on, **settings), []) for on in (False, True))
    assert half.training["LoRA"] == whole.training["LoRA"] / 2
    assert half.training["optimizer"] == pytest.approx(whole.training["optimizer"] / 2, rel=0.01)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_the_cache_is_as_large_as_foretold(text_encoder, folders, tmp_path, monkeypatch):
    """Each version of each picture, its mask, and captions that never change."""
    monkeypatch.chdir(tmp_path)
    changes = {"data.flip": True, "data.random_crop": True, "data.colour_shift": True, "data.variants": 3}
    changes |= {
        "data.shuffle_tags": False,
        "adapter.text_encoder": text_encoder,
        "data.max_tokens": 150,
    }  # kohya joins two chunks in two tokens less
    run = trainees.make_run(tmp_path, folders["sd15"], **changes, **{"data.mask_folder": str(tmp_path / "pictures")})
    foretold = estimate(run.config, load_examples(run.config.data))
    train(run)
    rows = [row for path in (tmp_path / "runs" / ".cache").glob("*/shard-*") for row in load_from_disk(str(path))]
    data = [value for row in rows for name, value in row.items() if name in ("mean", "std", "mask", "hidden") and value]
    assert foretold.disk["cache"] == pytest.approx(4 * sum(map(len, data)), rel=0.02)


def test_a_card_on_which_only_rendering_does_not_fit(folders):
    """The parts of a base take turns on a card that they would fill; training is told apart from rendering."""
    settings = settings_for(folders["sd15"], model__precision="bf16")
    roomy, narrow = (estimate(settings, [], capacity, "cuda") for capacity in (10**12, 10**6))
    parts = Dummy(settings, "cuda").parts
    assert roomy.rendering - narrow.rendering == parts["unet"] + parts["text_encoder"]  # the VAE takes most at work
    large = settings_for(folders["sd15"], model__precision="bf16", data__resolution=64, evaluation__size=1024)
    found = estimate(large, [], estimate(large, [], 1, "cuda").peak, "cuda")
    assert found.trains and not found.fits
    assert cheapest_change(large, lambda _: [], found.capacity, "cuda") is None
