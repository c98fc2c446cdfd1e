"""Pictures that show the same: the same file, or the same picture saved, scaled or trimmed once more.

Near ones differ in few bits of the difference hash *and* hardly in colour: two drawings of one shape in different
colours are different pictures. With at most `distance` bits apart, two hashes of 128 bits agree in at least one of
`distance` + 1 bands, so only pictures with a band in common are compared.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import ImageOps

from trainer.dataset import images
from trainer.dataset.images import Picture
from trainer.dataset.measure import Looks, measure

DISTANCE = 10
"""Bits of 128. Saved again at a third of the size: up to 5; other photographs of one subject: from 17."""
COLOUR = 12.0
"""Mean difference of the 4×4 pixels, of 255."""
CHUNK = 1024
"""Pictures compared at once with one band in common: bounds memory."""


def groups(paths: Iterable[Path], *, distance: int = DISTANCE, mirrored: bool = False) -> list[list[Path]]:
    """Paths that show the same picture, the groups of two and more, in the order given.

    `mirrored`: a mirror image shows the same, too. Files that are no pictures belong to no group.
    """
    found = [outcome for outcome in images.examine(map(Path, paths)) if isinstance(outcome, Picture)]
    places = {picture.path: at for at, picture in enumerate(found)}
    joined = _Joined(len(found))
    for group in grouped(found + [_mirrored(picture) for picture in found if mirrored], distance=distance):
        for picture in group:
            joined.join(places[group[0].path], places[picture.path])
    members: dict[int, list[Path]] = defaultdict(list)
    for path, at in places.items():
        members[joined.root(at)].append(path)
    return [group for group in members.values() if len(group) > 1]


def _mirrored(picture: Picture) -> Picture:
    """What the picture would be found to be if it were the other way round."""
    looks = measure(ImageOps.mirror(images.open_rgb(picture.path)))
    return replace(picture, digest=f"mirrored {picture.digest}", looks=looks)


def exact(pictures: Iterable[Picture]) -> list[list[Picture]]:
    """Groups of the same bytes."""
    by_digest: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        by_digest[picture.digest].append(picture)
    return [group for group in by_digest.values() if len(group) > 1]


def grouped(pictures: Sequence[Picture], *, distance: int = DISTANCE) -> list[list[Picture]]:
    """Groups of two and more pictures that show the same, exact copies included, each in the order given.

    Likeness is passed on: when a is like b and b like c, all three are one group. `distance`: bits of 128 in which
    fingerprints may differ, 0 to 31; 0 wants equal ones.
    """
    joined = _Joined(len(pictures))
    first: dict[str, int] = {}
    for index, picture in enumerate(pictures):
        joined.join(index, first.setdefault(picture.digest, index))
    marked = [index for index in first.values() if pictures[index].looks.fingerprint]
    if len(marked) > 1:
        for one, other in _near(pictures, marked, distance):
            joined.join(one, other)
    members: dict[int, list[Picture]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        members[joined.root(index)].append(picture)
    return [group for group in members.values() if len(group) > 1]


def alike(one: Looks, other: Looks, *, distance: int = DISTANCE) -> bool:
    """Whether two pictures are near duplicates, or both without any structure and of one colour."""
    apart = int.from_bytes(one.fingerprint) ^ int.from_bytes(other.fingerprint)
    differ = sum(abs(a - b) for a, b in zip(one.colours, other.colours)) / max(1, len(one.colours))
    return apart.bit_count() <= distance and differ <= COLOUR


def best(group: Sequence[Picture]) -> Picture:
    """The one to keep: the most pixels, then the most bytes (the least compression), then the first."""
    return max(group, key=lambda picture: (picture.width * picture.height, picture.bytes))


def _near(pictures: Sequence[Picture], marked: list[int], distance: int):
    """Pairs of indices that are near; each at least once."""
    import numpy as np

    hashes = np.frombuffer(b"".join(pictures[i].looks.fingerprint for i in marked), np.uint8).reshape(-1, 16)
    colours = np.frombuffer(b"".join(pictures[i].looks.colours for i in marked), np.uint8).reshape(-1, 48)
    words = hashes.view(np.uint64)
    bits = np.unpackbits(hashes, axis=1)
    for band in np.array_split(np.arange(128), min(128, distance + 1)):
        keys = np.packbits(bits[:, band], axis=1)
        _, places = np.unique(keys, axis=0, return_inverse=True)
        order = np.argsort(places, kind="stable")
        ends = np.flatnonzero(np.diff(places[order])) + 1
        for same in np.split(order, ends):
            if len(same) > 1:
                yield from _compared(same, words, colours, distance, marked)


def _compared(same, words, colours, distance: int, marked: list[int]):
    """`same`: positions that have a band in common. Chunk by chunk, each with itself and those behind it."""
    import numpy as np

    for start in range(0, len(same), CHUNK):
        rows = same[start : start + CHUNK]
        for other in range(start, len(same), CHUNK):
            columns = same[other : other + CHUNK]
            apart = np.bitwise_count(words[rows, None, 0] ^ words[None, columns, 0])
            apart += np.bitwise_count(words[rows, None, 1] ^ words[None, columns, 1])
            near = np.argwhere(apart <= distance)
            near = near[near[:, 0] < near[:, 1]] if start == other else near
            for at in range(0, len(near), 100_000):  # colours take 48 times the memory
                one, two = rows[near[at : at + 100_000, 0]], columns[near[at : at + 100_000, 1]]
                differ = np.abs(colours[one].astype(np.int16) - colours[two]).mean(axis=1)
                for i in np.flatnonzero(differ <= COLOUR):
                    yield marked[one[i]], marked[two[i]]


class _Joined:
    """Union-find; the root of a set is its first member."""

    def __init__(self, number: int):
        self._parents = list(range(number))

    def root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = index = self._parents[self._parents[index]]
        return index

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)))
        self._parents[high] = low
