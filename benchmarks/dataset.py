"""How the data set engine behaves with 100,000 pictures, and whether the tagger's model ever waits for pictures.

    python benchmarks/dataset.py scale [--pictures 100000] [--folder FOLDER]
    python benchmarks/dataset.py tagger [--pictures 48] [--side 1024]

`scale` draws small JPEGs once (kept in FOLDER for the next time) and runs every stage in a process of its own, so that
each has its own peak of memory. `tagger` compares pictures a second, from files to tags, with the model alone on
inputs that are ready.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import tempfile
import time
from pathlib import Path

PAINTED = 64  # px, side of the drawn pictures
WORDS = "hat smile sitting standing night forest street blue_hair red_eyes scarf book running rain".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scale", "tagger"])
    parser.add_argument("--pictures", type=int, default=0)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.what == "tagger":
        tagger(chosen.pictures or 48, chosen.side)
        return
    with tempfile.TemporaryDirectory() as temporary:
        scale(chosen.folder or Path(temporary) / "pictures", chosen.pictures or 100_000)


# ── many pictures ───────────────────────────────────────────────────────────────────────────────────────


def scale(folder: Path, number: int) -> None:
    print(f"| stage, {number:,} pictures | seconds | of processor time | peak memory |\n|---|---:|---:|---:|")
    for stage in (draw, first_scan, second_scan, duplicates, filter_tags, filter_sizes, check, tables):
        answers: multiprocessing.Queue = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(target=_measured, args=(stage, folder, number, answers))
        process.start()
        seconds, working, megabytes, note = answers.get()
        process.join()
        print(f"| {stage.__doc__}{note} | {seconds:.1f} | {working:.1f} | {megabytes:.0f} MB |", flush=True)


def _measured(stage, folder: Path, number: int, answers) -> None:
    begun = time.perf_counter()
    note = stage(folder, number)
    seconds = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_SELF)
    answers.put((seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, f": {note}" if note else ""))


def draw(folder: Path, number: int) -> str:
    """draw them (not part of the engine)"""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{number - 1:06}.jpg").exists():
        return "there already"
    for at in range(number):
        seed = at - 19 if at % 20 == 19 else at  # one in twenty is an earlier one, compressed otherwise
        rng = random.Random(seed)
        picture = Image.new("RGB", (PAINTED, PAINTED + seed % 3 * 16), tuple(rng.choices(range(256), k=3)))
        canvas = ImageDraw.Draw(picture)
        for _ in range(8):
            x, y = rng.randrange(48), rng.randrange(48)
            canvas.rectangle((x, y, x + 16, y + 12), fill=tuple(rng.choices(range(256), k=3)))
        picture.save(folder / f"{at:06}.jpg", quality=90 - at % 20)
        (folder / f"{at:06}.txt").write_text(", ".join(["moss", *random.Random(at).sample(WORDS, 6)]))
    return ""


def first_scan(folder: Path, number: int) -> str:
    """first scan: decode, hash, measure, remember"""
    from trainer.dataset import index

    (folder / index.NAME).unlink(missing_ok=True)
    pictures, broken = index.survey(folder)
    assert len(pictures) == number and not broken
    return ""


def second_scan(folder: Path, number: int) -> str:
    """second scan, nothing changed"""
    from trainer.dataset import images, index

    images._decode = None  # whoever decodes a picture now fails
    pictures, broken = index.survey(folder)
    assert len(pictures) == number and not broken
    return ""


def duplicates(folder: Path, number: int) -> str:
    """second scan and groups of near duplicates"""
    from trainer.dataset import duplicates, index

    return f"{len(duplicates.grouped(index.survey(folder)[0])):,} groups"


def filter_tags(folder: Path, number: int) -> str:
    """filter `tag:blue hair AND NOT tag:smile AND tokens:>12`"""
    from trainer.dataset import items

    return f"{len(items.select(folder, 'tag:blue hair AND NOT tag:smile AND tokens:>12')):,} found"


def filter_sizes(folder: Path, number: int) -> str:
    """filter `tag:hat AND height:>70`"""
    from trainer.dataset import items

    return f"{len(items.select(folder, 'tag:hat AND height:>70')):,} found"


def check(folder: Path, number: int) -> str:
    """health check at 64 px"""
    from trainer.dataset import health

    report = health.check(folder, resolution=64)
    return f"{len(report.findings):,} findings"


def tables(folder: Path, number: int) -> str:
    """read all captions, frequencies and pairs"""
    from trainer.dataset import items, tags

    texts = [item.caption for item in items.select(folder)]
    return f"{len(tags.frequencies(texts))} tags, {len(tags.together(texts))} pairs"


# ── the tagger's preparation ────────────────────────────────────────────────────────────────────────────


def tagger(number: int, side: int) -> None:
    import numpy as np
    from PIL import Image

    from trainer.dataset import images
    from trainer.taggers.wd14 import WD14, prepare

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _model(folder)
        paths = []
        for at in range(number):
            noise = Image.effect_noise((side // 8, side // 8), 60).resize((side, side), Image.Resampling.BICUBIC)
            noise.convert("RGB").save(folder / f"{at}.jpg", quality=92)
            paths.append(folder / f"{at}.jpg")
        loaded = WD14(folder)
        ready = np.stack([prepare(images.open_rgb(path), loaded.size) for path in paths[: loaded.batch_size]])
        loaded._run(ready)  # warm
        rounds = number // len(ready)
        alone = _seconds(lambda: [loaded._run(ready) for _ in range(rounds)])
        batches, run = [], loaded._run

        def timed(pictures):
            begun = time.perf_counter()
            rows = run(pictures)
            batches.append((begun, time.perf_counter()))
            return rows

        loaded._run = timed
        whole = _seconds(lambda: list(loaded.tag(paths)))
        loaded._run = run
        alone = (alone + _seconds(lambda: [loaded._run(ready) for _ in range(rounds)])) / 2
        waited = sum(later - earlier for (_, earlier), (later, _) in zip(batches, batches[1:]))
        busy = sum(ended - begun for begun, ended in batches)
        few = paths[:8]
        preparing = _work(lambda: [prepare(images.open_rgb(path), loaded.size) for path in few]) / len(few)
        thinking = _work(lambda: loaded._run(ready)) / len(ready)
    print("| tagger | |\n|---|---:|")
    print(f"| model alone, batches of {loaded.batch_size}: pictures a second | {number / alone:.2f} |")
    print(f"| files of {side}×{side} to tags: pictures a second | {number / whole:.2f} |")
    print(f"| share of the pure rate | {alone / whole:.0%} |")
    print(f"| share of the time from the first batch to the last that the model ran | {busy / (busy + waited):.1%} |")
    print(f"| seconds until the first batch was ready | {whole - busy - waited:.2f} |")
    print(f"| seconds of processor time a picture: preparation | {preparing:.3f} |")
    print(f"| … the model | {thinking:.3f} |")


def _seconds(work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _work(work) -> float:
    """Seconds of processor time, which other programs on the machine do not change."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _model(folder: Path) -> None:
    """A WD14-shaped model of 25 GFLOP a picture, a third of the smallest released one's; its answers mean nothing."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    rng = np.random.default_rng(0)
    labels = ["general", *(f"tag_{at}" for at in range(99))]
    nodes = [helper.make_node("Transpose", ["input"], ["x0"], perm=[0, 3, 1, 2])]
    weights, channels = [], 3
    for at, (width, kernel, stride) in enumerate([(384, 16, 16), *[(384, 3, 1)] * 12]):
        values = rng.normal(0, 0.01, (width, channels, kernel, kernel)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(values, f"w{at}"))
        pad = [kernel // 2 if stride == 1 else 0] * 4
        nodes.append(helper.make_node("Conv", [f"x{at}", f"w{at}"], [f"c{at}"], strides=[stride] * 2, pads=pad))
        nodes.append(helper.make_node("Relu", [f"c{at}"], [f"x{at + 1}"]))
        channels = width
    values = rng.normal(0, 0.01, (channels, len(labels))).astype(np.float32)
    weights.append(onnx.numpy_helper.from_array(values, "head"))
    last = f"x{at + 1}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
    ]
    nodes += [
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["out"]),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 448, 448, 3])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", len(labels)])]
    graph = helper.make_graph(nodes, "benchmark", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    rows = [f"{at},{name},{9 if at == 0 else 0},1" for at, name in enumerate(labels)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]) + "\n")


if __name__ == "__main__":
    main()
