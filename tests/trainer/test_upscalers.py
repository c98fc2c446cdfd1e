"""ESRGAN files of the test's own making, in every layout that is about, and what the hires fix makes of sizes."""

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image, ImageChops

from trainer import upscalers
from trainer.cells import Hires
from trainer.errors import UserError
from trainer.upscalers import RRDBNet, load_network, upscale_picture
from trainer.webui import samplers, schedules


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = RRDBNet(features=8, growth=4, blocks=2).eval()
    # Close to what a trained one does: the output follows the input.
    torch.nn.init.constant_(made.conv_last.bias, 0.4)
    return made


def picture(width=40, height=24):
    torch.manual_seed(1)
    return Image.frombytes(
        "RGB", (width, height), torch.randint(0, 256, (height * width * 3,)).byte().numpy().tobytes()
    )


def first_names(state):
    """ESRGAN's own layout: a flat `model` with a trunk inside."""
    heads = {"conv_first": "model.0", "conv_body": "model.1.sub.2", "conv_up1": "model.3", "conv_up2": "model.6"}
    heads |= {"conv_hr": "model.8", "conv_last": "model.10"}
    named = {}
    for key, value in state.items():
        head, _, kind = key.rpartition(".")
        if head.startswith("body."):
            _, block, dense, convolution = head.split(".")
            head = f"model.1.sub.{block}.RDB{dense[-1]}.{convolution}.0"
        named[f"{heads.get(head, head)}.{kind}"] = value
    return named


def early_names(state):
    """BasicSR's early layout."""
    heads = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}
    named = {}
    for key, value in state.items():
        for ours, theirs in heads.items():
            key = key.replace(ours, theirs)
        named[key.replace("body.", "RRDB_trunk.").replace("rdb", "RDB")] = value
    return named


LAYOUTS = {
    "Real-ESRGAN": lambda state: {"params_ema": state},
    "params": lambda state: {"params": state},
    "ESRGAN": first_names,
    "early": early_names,
}


@pytest.fixture
def without_spandrel(monkeypatch):
    """As on a machine where nobody has installed it, whatever is here."""
    upscalers._spandrel.cache_clear()
    monkeypatch.setitem(sys.modules, "spandrel", None)
    yield
    upscalers._spandrel.cache_clear()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_network(network, layout, tmp_path):
    torch.save(LAYOUTS[layout](network.state_dict()), tmp_path / "x.pth")
    loaded = load_network(tmp_path / "x.pth")
    assert ImageChops.difference(loaded.upscale(picture()), network.upscale(picture())).getbbox() is None
    assert loaded.scale == 4 and loaded.upscale(picture()).size == (160, 96)


def test_tiles_make_the_picture_that_one_piece_makes(network):
    whole, tiled = network.upscale(picture(), tile=64), network.upscale(picture(), tile=16)
    assert max(high for _, high in ImageChops.difference(whole, tiled).getextrema()) <= 1
    assert max(high - low for low, high in whole.getextrema()) > 3  # there is something to see


def test_the_2x_network_folds_the_picture_first(tmp_path):
    torch.manual_seed(0)
    torch.save(RRDBNet(8, 4, 1, shuffle=2).state_dict(), tmp_path / "RealESRGAN_x2plus.pth")
    loaded = load_network(tmp_path / "RealESRGAN_x2plus.pth")
    assert loaded.upscale(picture(30, 21)).size == (60, 42)
    whole, tiled = loaded.upscale(picture(30, 21), tile=64), loaded.upscale(picture(30, 21), tile=9)
    assert max(high for _, high in ImageChops.difference(whole, tiled).getextrema()) <= 1


def test_what_is_no_upscaler_says_so(tmp_path, without_spandrel):
    torch.save({"params": {"conv.weight": torch.zeros(1)}}, tmp_path / "a.pth")
    torch.save(Evil(), tmp_path / "b.pth")
    for name, message in (("a", r"a.pth is no ESRGAN .* spandrel, which is not installed"), ("b", "cannot be read")):
        with pytest.raises(UserError, match=message):
            load_network(tmp_path / f"{name}.pth")
    assert not (tmp_path / "harm").exists()


class Evil:
    def __reduce__(self):
        return (open, ("harm", "w"))


# Other architectures


def compact(features=8, convolutions=2, scale=2):
    """A state dict of SRVGGNetCompact: convolutions with PReLU between, then pixels out of channels."""
    torch.manual_seed(2)
    layers = [torch.nn.Conv2d(3, features, 3), torch.nn.PReLU(features)]
    for _ in range(convolutions):
        layers += [torch.nn.Conv2d(features, features, 3), torch.nn.PReLU(features)]
    layers.append(torch.nn.Conv2d(features, 3 * scale**2, 3))
    return {f"body.{key}": value for key, value in torch.nn.Sequential(*layers).state_dict().items()}


def test_a_torchvision_that_does_not_fit_is_said_and_esrgan_goes_on(network, tmp_path):
    """What a real mismatch raises while it is imported, from a package that does nothing else."""
    (tmp_path / "spandrel").mkdir()
    (tmp_path / "spandrel" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    torch.save(compact(), tmp_path / "compact.pth")
    torch.save(network.state_dict(), tmp_path / "esrgan.pth")
    code = (
        "import sys; from pathlib import Path; from trainer.upscalers import load_network\n"
        "print(load_network(Path('esrgan.pth')).scale, 'spandrel' in sys.modules)\n"
        "for _ in range(2):\n"
        "    try: load_network(Path('compact.pth'))\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    paths = os.pathsep.join([str(tmp_path), os.getcwd()])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    first, *others = done.stdout.splitlines()
    assert first == "4 False", done.stderr  # nobody asks for it before it is needed
    assert len(set(others)) == 1 and len(others) == 2
    assert others[0].startswith("UserError compact.pth is no ESRGAN")
    assert f"does not exist): install the torchvision that belongs to torch {torch.__version__}." in others[0]


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_other_architectures_go_through_spandrel_in_our_tiles(tmp_path, ending):
    spandrel = upscalers._spandrel()
    if isinstance(spandrel, UserError):
        pytest.skip(str(spandrel))
    from safetensors.torch import save_file

    file = tmp_path / f"compact{ending}"
    torch.save({"params": compact()}, file) if ending == ".pth" else save_file(compact(), file)
    network = load_network(file)
    assert network.scale == 2 and not isinstance(network, RRDBNet)
    theirs = spandrel.ModelLoader().load_from_file(file)
    pixels = torch.frombuffer(bytearray(picture().tobytes()), dtype=torch.uint8).view(1, 24, 40, 3)
    wanted = (theirs(pixels.permute(0, 3, 1, 2) / 255)[0] * 255).round().byte().permute(1, 2, 0).contiguous()
    wanted = Image.frombytes("RGB", (80, 48), wanted.numpy().tobytes())
    for tile in (64, 16):
        made = network.upscale(picture(), tile=tile)
        assert max(high for _, high in ImageChops.difference(made, wanted).getextrema()) <= 1
    assert max(high - low for low, high in wanted.getextrema()) > 3
    torch.save({"body.0.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="x.pth is no upscaler that spandrel"):
        load_network(tmp_path / "x.pth")


def test_a_network_that_does_not_enlarge_runs_once(tmp_path):
    torch.manual_seed(0)
    made, runs = RRDBNet(8, 4, 1, shuffle=4).eval(), []
    made.register_forward_hook(lambda *_: runs.append(1))
    assert upscale_picture(picture(), (80, 48), "any", made).size == (80, 48)
    assert len(runs) == 1


def test_the_result_has_the_size_asked_for(network):
    assert upscale_picture(picture(), (80, 48), "any", network).size == (80, 48)
    assert upscale_picture(picture(), (200, 120), "any", network).size == (200, 120)  # twice through
    for name in upscalers.RESAMPLING:
        assert upscale_picture(picture(), (80, 48), name).size == (80, 48)
    latents = torch.randn(1, 4, 4, 6)
    made = {name: upscalers.upscale_latents(latents, (12, 8), name) for name in upscalers.LATENT}
    assert {tuple(one.shape) for one in made.values()} == {(1, 4, 8, 12)}
    assert torch.equal(made["Latent (nearest-exact)"][..., ::2, ::2], latents)
    assert not torch.allclose(made["Latent"], made["Latent (bicubic)"])


@pytest.mark.parametrize(
    ("hires", "to", "kept"),
    [
        (Hires(upscale=2), (1024, 1536), (1024, 1536)),
        (Hires(upscale=1.3), (664, 992), (664, 992)),  # int(665.6), int(998.4), cut to multiples of 8
        (Hires(width=1024), (1024, 1536), (1024, 1536)),
        (Hires(height=1024), (680, 1024), (680, 1024)),
        (Hires(width=1024, height=1024), (1024, 1536), (1024, 1024)),  # too long: cut above and below
        (Hires(width=640, height=1280), (848, 1280), (640, 1280)),
    ],
)
def test_sizes_are_those_of_a1111(hires, to, kept):
    assert hires.sizes(512, 768) == (to, kept)


def test_the_hires_pass_runs_exactly_its_steps_at_the_end_of_a_longer_schedule():
    """A1111: steps_total = int(steps / min(denoise, 0.999)), and the last `steps` of it run."""
    model = schedules.model_sigmas([1 - (i + 1) / 1001 for i in range(1000)])
    for steps, denoise, total in ((20, 0.5, 40), (10, 0.7, 14), (20, 1.0, 20), (15, 0.35, 42)):
        plan = samplers.plan("Euler", None, model, steps, denoise=denoise, hires=True)
        assert len(plan.sigmas) == steps + 1
        whole = samplers.plan("Euler", None, model, total).sigmas
        assert plan.sigmas == whole[total - steps :]
    # Plain image-to-image runs one step more than int(denoise · steps).
    assert len(samplers.plan("Euler", None, model, 20, denoise=0.5).sigmas) == 12
