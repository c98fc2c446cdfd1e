import math

import pytest

torch = pytest.importorskip("torch")
import numpy  # noqa: E402

from trainer.errors import UserError  # noqa: E402
from trainer.webui.noise import BrownianNoise, NoiseSource, Philox, initial_noise, philox4x32, slerp  # noqa: E402

SHAPE = (4, 8, 8)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_against_random123s_known_answers(counter, key, expected):
    answer = philox4x32(numpy.array(counter, numpy.uint32).reshape(4, 1), tuple(key))
    assert answer.flatten().tolist() == expected


def test_nv_is_what_a_card_draws():
    """torch.randn((3, 4), device="cuda") after torch.manual_seed(0), as published with A1111."""
    expected = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    assert torch.allclose(initial_noise((3, 4), 0, "NV", "cpu"), torch.tensor(expected), atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
@pytest.mark.parametrize("shape", [(4, 64, 64), (4, 128, 96)])
def test_nv_and_gpu_agree(shape):
    for seed in (0, 1, 2**40 + 1):
        ours, card = Philox(seed), torch.Generator("cuda").manual_seed(seed)
        for _ in range(3):
            drawn = torch.randn(shape, generator=card, device="cuda").cpu()
            assert torch.allclose(ours.randn(shape), drawn, atol=1e-5)


def test_without_a_card_gpu_means_nv():
    assert torch.equal(initial_noise(SHAPE, 7, "GPU", "cpu"), initial_noise(SHAPE, 7, "NV", "cpu"))


def test_cpu_is_torchs_generator():
    expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    assert torch.equal(initial_noise(SHAPE, 7, "CPU", "cpu"), expected)


def test_an_unknown_source_is_named():
    with pytest.raises(UserError, match="'GPU'"):
        initial_noise(SHAPE, 0, "GPUU")


@pytest.mark.parametrize("source", ["CPU", "NV", "GPU"])
def test_noise_is_unit_noise(source):
    noise = initial_noise((4, 64, 64), 5, source, "cpu")
    assert noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("source", ["CPU", "NV"])
def test_a_batch_draws_as_its_pictures_alone(source):
    seeds = (1, 2, 2**35)
    batch = NoiseSource(SHAPE, seeds, source, device="cpu")
    alone = [NoiseSource(SHAPE, [seed], source, device="cpu") for seed in seeds]
    assert torch.equal(batch.initial(), torch.cat([one.initial() for one in alone]))
    for _ in range(2):
        assert torch.equal(batch(3.0, 2.0), torch.cat([one.next() for one in alone]))


def test_ensd_changes_what_follows_the_first_noise():
    plain = NoiseSource(SHAPE, [1], "CPU", device="cpu")
    moved = NoiseSource(SHAPE, [1], "CPU", ensd=31337, device="cpu")
    assert torch.equal(plain.initial(), moved.initial())
    assert torch.equal(moved.next()[0], initial_noise(SHAPE, 31338, "CPU", "cpu"))
    assert not torch.equal(plain.next(), moved.next())


def test_variation_seeds():
    noise = NoiseSource(SHAPE, [1], "CPU", variation=([2], 0.0), device="cpu").initial()[0]
    assert torch.equal(noise, initial_noise(SHAPE, 1, "CPU", "cpu"))
    noise = NoiseSource(SHAPE, [1], "CPU", variation=([2], 1.0), device="cpu").initial()[0]
    assert torch.allclose(noise, initial_noise(SHAPE, 2, "CPU", "cpu"), atol=1e-4)
    low, high = initial_noise(SHAPE, 1, "CPU", "cpu"), initial_noise(SHAPE, 2, "CPU", "cpu")
    assert slerp(0.5, low, high).std().item() == pytest.approx(1, abs=0.15)


# ── Brownian paths ─────────────────────────────────────────────────────────────────────────────────────

SIGMAS = [14.6, 7.0, 2.5, 0.4, 0.03, 0.0]


def path(seeds=(1,), source="CPU"):
    return BrownianNoise(SHAPE, seeds, SIGMAS, source, "cpu")


def test_a_path_depends_on_the_seed_and_the_times_alone():
    forward = path()
    first = [forward(a, b) for a, b in zip(SIGMAS[:-2], SIGMAS[1:-1], strict=True)]
    backward = path()
    again = [backward(a, b) for a, b in list(zip(SIGMAS[:-2], SIGMAS[1:-1], strict=True))[::-1]]
    for a, b in zip(first, again[::-1], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(path((5, 1))(7.0, 2.5)[1:], path((1,))(7.0, 2.5))
    assert not torch.equal(path((5,))(7.0, 2.5), path((1,))(7.0, 2.5))


def test_increments_add_up():
    noise = path()

    def step(a, b):
        return noise(a, b) * math.sqrt(a - b)

    assert torch.allclose(step(7.0, 2.5) + step(2.5, 0.4), step(7.0, 0.4), atol=1e-5)
    assert torch.allclose(noise(7.0, 2.5), -noise(2.5, 7.0))


def test_increments_are_unit_noise_and_independent():
    noise = BrownianNoise((40000,), [3], SIGMAS, "CPU", "cpu")
    parts = [noise(a, b)[0] for a, b in [(14.6, 7.0), (7.0, 6.99), (2.5, 0.4), (0.031, 0.03)]]
    for part in parts:
        assert part.mean().item() == pytest.approx(0, abs=0.03)
        assert part.std().item() == pytest.approx(1, abs=0.03)
    assert numpy.abs(numpy.corrcoef(torch.stack(parts).numpy()) - numpy.eye(4)).max() < 0.03


def test_times_outside_the_path_are_its_ends():
    noise = path()
    assert torch.allclose(noise(20.0, 7.0) * math.sqrt(13.0), noise(14.6, 7.0) * math.sqrt(7.6), atol=1e-5)


@pytest.mark.parametrize("seed", [0, 42, 2**40 + 3])
def test_the_path_is_torchsdes(seed):
    torchsde = pytest.importorskip("torchsde")
    low, high = 0.03, 14.6
    tree = torchsde.BrownianTree(low, torch.zeros(SHAPE), high, entropy=seed)
    for a, b in [(14.6, 7.0), (7.0, 2.5), (2.5, 0.4), (0.4, 0.03)]:
        expected = -tree(b, a) / math.sqrt(a - b)
        assert torch.allclose(path((seed,))(a, b)[0], expected, atol=1e-4)
