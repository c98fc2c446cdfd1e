"""Noise as the tools draw it: one generator per picture, so that a batch never changes a picture.

Sources, by A1111's names: "CPU" is torch's CPU generator, "NV" is Philox as an NVIDIA card draws it, computed
on any machine, and "GPU" is the card's own generator, or NV on a machine without one.
"""

import math
from collections.abc import Sequence

import numpy
import torch

from trainer.errors import UserError, nearest

SOURCES = ("GPU", "CPU", "NV")


# ── Philox ─────────────────────────────────────────────────────────────────────────────────────────────

_MULTIPLIERS = (numpy.uint64(0xD2511F53), numpy.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = numpy.uint64(0xFFFFFFFF)
_SHIFT = numpy.uint64(32)
_BLOCK = 8192


def philox4x32(counter: numpy.ndarray, key: tuple[int, int], rounds: int = 10) -> numpy.ndarray:
    """Philox 4x32 of counters [4, n] (uint32), a counter-based generator (Salmon et al. 2011, SC'11)."""
    c0, c1, c2, c3 = counter.astype(numpy.uint64)
    k0, k1 = key
    for _ in range(rounds):
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        # In place, as nearly all of the time goes into memory.
        numpy.right_shift(b, _SHIFT, out=c0)
        numpy.right_shift(a, _SHIFT, out=c2)
        c0 ^= c1
        c0 ^= numpy.uint64(k0)
        c2 ^= c3
        c2 ^= numpy.uint64(k1)
        numpy.bitwise_and(b, _LOW, out=c1)
        numpy.bitwise_and(a, _LOW, out=c3)
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return numpy.stack([c0, c1, c2, c3]).astype(numpy.uint32)


class Philox:
    """torch's CUDA generator for normal numbers: element i is the i-th subsequence, a call the next offset.

    A card does this for tensors of at most as many numbers as it runs threads, which holds for usual latents;
    beyond that it also uses the other numbers of a subsequence. A1111's "NV" never does, nor does this.
    """

    def __init__(self, seed: int):
        self.key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
        self.offset = 0

    def randn(self, shape: Sequence[int]) -> torch.Tensor:
        values = numpy.empty(math.prod(shape), numpy.float32)
        # Blocks that stay in the processor's cache are several times faster than one pass over all.
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK]
            counter = numpy.zeros((4, len(block)), numpy.uint32)
            counter[0] = self.offset
            counter[2] = numpy.arange(start, start + len(block), dtype=numpy.uint32)
            bits = philox4x32(counter, self.key)
            block[:] = _box_muller(bits[0], bits[1])
        self.offset += 1
        return torch.from_numpy(values).reshape(tuple(shape))


def _box_muller(x: numpy.ndarray, y: numpy.ndarray) -> numpy.ndarray:
    """The first of the two normal numbers of a Box–Muller pair, with cuRAND's mapping of bits to (0, 1]."""
    u = x * 2.0**-32 + 2.0**-33
    v = y * 2.0**-32 + 2.0**-33
    return (numpy.sqrt(-2.0 * numpy.log(u)) * numpy.sin(2 * math.pi * v)).astype(numpy.float32)


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────


class Stream:
    """The unit noise of one seed, draw after draw, float32."""

    def __init__(self, seed: int, source: str = "GPU", device: str | torch.device | None = None):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.generator = _generator(seed, source, self.device)

    def draw(self, shape: Sequence[int]) -> torch.Tensor:
        if isinstance(self.generator, Philox):
            return self.generator.randn(shape).to(self.device)
        device = self.generator.device
        return torch.randn(tuple(shape), generator=self.generator, device=device).to(self.device)


def _generator(seed: int, source: str, device: torch.device) -> Philox | torch.Generator:
    if source not in SOURCES:
        raise UserError(f"There is no noise source {source!r}: {nearest(source, SOURCES)}")
    if source == "NV" or (source == "GPU" and device.type != "cuda"):
        return Philox(seed)
    return torch.Generator("cpu" if source == "CPU" else device).manual_seed(seed)


def initial_noise(shape: Sequence[int], seed: int, source: str = "GPU", device=None) -> torch.Tensor:
    """The first unit noise of a seed for one picture's latents [C, H, W]."""
    return Stream(seed, source, device).draw(shape)


class NoiseSource:
    """The noise of a batch, one stream for every seed: `initial()` first, then `next()` at every draw.

    `ensd` is A1111's eta noise seed delta: what is drawn after the initial noise comes from seed + ensd.
    `variation` = (seeds, strength) mixes the initial noise with that of other seeds (A1111's variation seed).
    Calling the object is `next()`, with the σ that samplers pass ignored.
    """

    def __init__(
        self,
        shape: Sequence[int],
        seeds: Sequence[int],
        source: str = "GPU",
        *,
        ensd: int = 0,
        variation: tuple[Sequence[int], float] | None = None,
        device=None,
    ):
        self.shape, self.seeds, self.source, self.device = tuple(shape), tuple(seeds), source, device
        self.ensd, self.variation = ensd, variation
        self.streams = [Stream(seed, source, device) for seed in seeds]

    def initial(self) -> torch.Tensor:
        """Unit noise [B, C, H, W] of the first step."""
        noise = torch.stack([stream.draw(self.shape) for stream in self.streams])
        if self.variation and self.variation[1]:
            others = [initial_noise(self.shape, seed, self.source, self.device) for seed in self.variation[0]]
            pairs = zip(noise, others, strict=True)
            noise = torch.stack([slerp(self.variation[1], own, other) for own, other in pairs])
        if self.ensd:
            self.streams = [Stream(seed + self.ensd, self.source, self.device) for seed in self.seeds]
        return noise

    def next(self) -> torch.Tensor:
        return torch.stack([stream.draw(self.shape) for stream in self.streams])

    def __call__(self, sigma=None, sigma_next=None) -> torch.Tensor:
        return self.next()


def slerp(part: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """From `low` to `high` along the sphere, for every column of a [C, H, W] latent as A1111 does it."""
    dot = (low / low.norm(dim=1, keepdim=True) * (high / high.norm(dim=1, keepdim=True))).sum(1)
    if dot.mean() > 0.9995:
        return low * part + high * (1 - part)
    angle = dot.acos()
    a = (((1 - part) * angle).sin() / angle.sin()).unsqueeze(1)
    b = ((part * angle).sin() / angle.sin()).unsqueeze(1)
    return a * low + b * high


# ── Brownian paths ─────────────────────────────────────────────────────────────────────────────────────


class BrownianNoise:
    """Noise for the SDE samplers: increments of a Brownian path over σ, one path for every seed.

    The value for (σ, σ_next) depends on the seed and the two times alone, never on the steps around it or the
    batch. `sigmas` gives the ends of the path: the smallest σ above zero and the largest of the schedule
    (`Plan.tree`).
    """

    def __init__(
        self,
        shape: Sequence[int],
        seeds: Sequence[int],
        sigmas: Sequence[float],
        source: str = "GPU",
        device=None,
    ):
        low, high = min(sigma for sigma in sigmas if sigma > 0), max(sigmas)
        self.trees = [_Tree(shape, seed, low, high, source, device) for seed in seeds]

    def __call__(self, sigma: float, sigma_next: float) -> torch.Tensor:
        """Unit noise [B, C, H, W] for the step from σ down to σ_next."""
        low, high = sorted((float(sigma), float(sigma_next)))
        sign = -1 if sigma > sigma_next else 1
        increments = torch.stack([tree.increment(low, high) for tree in self.trees])
        return increments * (sign / math.sqrt(high - low))


class _Tree:
    """A virtual Brownian tree: W over [start, end] split in halves, each split seeded by its place.

    The places, seeds (numpy's SeedSequence) and the rounding of times to 1e-6 are those of torchsde's
    BrownianTree, with which A1111 and ComfyUI draw, so that the same seed gives the same path.
    """

    DIGITS = 6
    POOL = 24
    CACHE = 64

    def __init__(self, shape, seed: int, start: float, end: float, source: str, device):
        self.shape, self.seed, self.source, self.device = tuple(shape), seed, source, device
        # The root keeps its ends as they are; only what is asked for and split is rounded.
        self.start, self.end = round(start, self.DIGITS), round(end, self.DIGITS)
        root = numpy.random.SeedSequence(entropy=seed, pool_size=self.POOL).generate_state(3)[0]
        self.root = self._draw(int(root)) * math.sqrt(end - start)
        self.cache: dict[tuple[int, int], torch.Tensor] = {}

    def _draw(self, seed: int) -> torch.Tensor:
        return initial_noise(self.shape, seed, self.source, self.device)

    def increment(self, low: float, high: float) -> torch.Tensor:
        """W(high) − W(low); times outside the path are moved to its ends."""
        low, high = (min(max(round(t, self.DIGITS), self.start), self.end) for t in (low, high))
        return self._between(self.root, 0, 0, self.start, self.end, low, high)

    def _between(self, whole, key: int, depth: int, start: float, end: float, low: float, high: float):
        """W(high) − W(low) within the node that spans [start, end] and has the increment `whole`."""
        if low <= start and high >= end:
            return whole
        middle = round(0.5 * (end + start), self.DIGITS)
        left = self._left(whole, key, depth, start, middle, end)
        parts = []
        if low < middle:
            parts.append(self._between(left, 2 * key, depth + 1, start, middle, low, min(high, middle)))
        if high > middle:
            right = whole - left
            parts.append(self._between(right, 2 * key + 1, depth + 1, middle, end, max(low, middle), high))
        return sum(parts[1:], parts[0]) if parts else whole * 0

    def _left(self, whole, key: int, depth: int, start: float, middle: float, end: float):
        """The increment of the left half given the whole: a Brownian bridge."""
        if (key, depth) not in self.cache:
            state = numpy.random.SeedSequence(entropy=self.seed, spawn_key=(key, depth), pool_size=self.POOL)
            noise = self._draw(int(state.generate_state(4)[0]))
            span = end - start
            spread = math.sqrt((middle - start) * (end - middle) / span)
            left = whole * ((middle - start) / span) + noise * spread
            while len(self.cache) >= self.CACHE:
                del self.cache[next(iter(self.cache))]
            self.cache[key, depth] = left
        return self.cache[key, depth]
