"""Bucket arithmetic, and that an epoch holds every example exactly as often as asked."""

import math
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.dataset import buckets
from trainer.errors import UserError

sides = st.integers(1, 12_000)
settings = st.sampled_from([(64, 8), (64, 32), (64, 64), (128, 32), (512, 64), (768, 64), (1024, 64), (1000, 8)])


def test_buckets_at_512_are_those_of_kohya():
    # By hand from sd-scripts' rule for (512, 512), 256 to 1024, step 64.
    tall = [(256, 1024), (256, 960), (256, 896), (256, 832), (320, 768), (320, 704), (384, 640), (448, 576)]
    assert set(buckets.make_buckets(512)) == {(512, 512), *tall, *((h, w) for w, h in tall)}
    assert buckets.make_buckets(512) == buckets.make_buckets(512, 256, 1024, 64)


@given(settings)
def test_buckets_hold_their_bounds(setting):
    resolution, step = setting
    made = buckets.make_buckets(resolution, step=step)
    assert made == sorted(set(made))
    assert all(w % step == 0 and h % step == 0 and w * h <= resolution**2 for w, h in made)
    assert all((h, w) in made for w, h in made)
    assert (resolution // step * step,) * 2 in made


def test_impossible_bounds_are_explained():
    with pytest.raises(UserError, match="Resolution 48 is below the bucket step 64"):
        buckets.make_buckets(48)
    with pytest.raises(UserError, match="leave out 512×512"):
        buckets.make_buckets(512, min_size=576)
    with pytest.raises(UserError, match="leave out 512×512"):
        buckets.make_buckets(512, max_size=448)


@given(sides, sides, settings, st.booleans())
def test_a_placed_picture_covers_its_bucket(width, height, setting, upscale):
    resolution, step = setting
    made = buckets.make_buckets(resolution, step=step)
    placement = buckets.place(width, height, made, upscale=upscale, step=step)
    (across, down), scaled, (left, top, right, bottom) = placement.bucket, placement.scaled, placement.crop
    assert (right - left, bottom - top) == (across, down)
    assert min(left, top) >= 0 and right <= scaled[0] and bottom <= scaled[1]
    assert scaled[0] == across or scaled[1] == down
    assert abs(left - (scaled[0] - right)) <= 1 and abs(top - (scaled[1] - bottom)) <= 1
    assert across % step == 0 and down % step == 0 and across * down <= resolution**2
    assert 0 <= placement.lost < 1
    x0, y0, x1, y1 = placement.source_crop
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    # The scaled picture keeps its aspect ratio to within half a pixel.
    assert min(abs(scaled[0] * height / width - scaled[1]), abs(scaled[1] * width / height - scaled[0])) <= 0.51
    if not upscale and min(width, height) >= step:
        assert not placement.upscaled


@given(sides, sides)
def test_the_bucket_is_the_nearest_and_turns_with_the_picture(width, height):
    made = buckets.make_buckets(512)
    chosen = buckets.place(width, height, made).bucket

    def distance(bucket):
        return abs(math.log(width / height) - math.log(bucket[0] / bucket[1]))

    assert distance(chosen) <= min(map(distance, made)) + 1e-9
    if width != height:
        assert buckets.place(height, width, made).bucket == chosen[::-1]


def test_known_placements():
    made = buckets.make_buckets(512)
    assert buckets.place(512, 512, made) == buckets.Placement((512, 512), (512, 512), (512, 512), (0, 0, 512, 512))
    wide = buckets.place(780, 600, made)
    assert (wide.bucket, wide.scaled, wide.crop) == ((576, 448), (582, 448), (3, 0, 579, 448))
    assert wide.source_crop == (4, 0, 776, 600) and not wide.upscaled
    small = buckets.place(100, 100, made, upscale=False)
    assert (small.bucket, small.scaled, small.upscaled) == ((64, 64), (64, 64), False)
    assert buckets.place(20, 100, made, upscale=False).upscaled


folder = st.lists(st.tuples(sides, sides, st.integers(1, 4)), min_size=1, max_size=30)


@given(folder, st.integers(1, 9), st.integers(0, 5), st.integers(0, 5))
def test_nothing_dropped_nothing_doubled_one_bucket_a_batch(pictures, batch_size, seed, epoch):
    made = buckets.make_buckets(128, step=32)
    placements = [buckets.place(w, h, made) for w, h, _ in pictures]
    repeats = [times for _, _, times in pictures]
    batches = buckets.plan(placements, repeats, batch_size, seed, epoch)
    assert Counter(i for batch in batches for i in batch) == dict(enumerate(repeats))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert all(len({placements[i].bucket for i in batch}) == 1 for batch in batches)
    assert len(batches) == buckets.steps_per_epoch(placements, repeats, batch_size)
    described = buckets.describe([f"{i}.png" for i in range(len(pictures))], placements, repeats, batch_size)
    assert described.steps == len(batches)
    assert sum(line.examples for line in described.buckets) == sum(repeats)
    # At most one smaller batch a bucket.
    small = Counter(placements[b[0]].bucket for b in batches if len(b) < batch_size)
    assert all(number == 1 for number in small.values())


def test_the_order_depends_on_seed_and_epoch_alone():
    made = buckets.make_buckets(512)
    placements = [buckets.place(500 + 40 * i, 600, made) for i in range(20)]
    first = buckets.plan(placements, 2, 4, seed=1, epoch=1)
    assert first == buckets.plan(placements, 2, 4, seed=1, epoch=1)
    assert first != buckets.plan(placements, 2, 4, seed=1, epoch=2)
    assert first != buckets.plan(placements, 2, 4, seed=2, epoch=1)
    code = (
        "from trainer.dataset import buckets as b; m = b.make_buckets(512);"
        "print(b.plan([b.place(500 + 40 * i, 600, m) for i in range(20)], 2, 4, seed=1, epoch=1))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(first)


def test_a_bucket_smaller_than_the_batch_is_a_smaller_batch_and_said():
    made = buckets.make_buckets(512)
    placements = [buckets.place(*size, made) for size in [(512, 512)] * 5 + [(780, 600)] + [(64, 64)]]
    assert sorted(map(len, buckets.plan(placements, 1, 4, 0, 1))) == [1, 2, 4]
    names = [*"abcde", "line\nbreak.png", "small.png"]
    described = buckets.describe(names, placements, [1] * 6 + [3], 4)
    lines = str(described).splitlines()
    assert lines[0] == "512×512: 6 pictures (8 examples), 2 batches"
    assert lines[1] == "576×448: 1 picture, 1 batch"
    assert lines[2] == "a 512×512 → 512×512, nothing lost"
    assert lines[7] == "line\\nbreak.png 780×600 → 576×448, loses 1 % at left and right"
    assert lines[8] == "small.png 64×64 → 512×512, nothing lost, enlarged 8 times, 3 times an epoch"
    assert str(buckets.describe(names[:5], placements[:5], 1, 4).buckets[0]).endswith("2 batches, the last of 1")


def test_repeats_of_zero_would_drop_a_picture():
    placement = buckets.place(512, 512, buckets.make_buckets(512))
    with pytest.raises(UserError, match="Repeats below 1"):
        buckets.plan([placement], 0, 1, 0, 1)
