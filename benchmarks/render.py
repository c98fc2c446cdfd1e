"""What rendering a grid costs: ten epochs × eight prompts, against 80 pictures of one LoRA and against the usual loop.

    python benchmarks/render.py                      # toybox/sd15
    python benchmarks/render.py --base path/to/model.safetensors --size 512 --batch 8 --device cuda
    python benchmarks/render.py --report             # the report's size for 10 × 8 pictures of 1024 px

The epochs are random LoRAs of the rank asked for, so nothing needs to be trained. What was measured is appended to
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer import environment, families, kohya
from trainer.adapters import Adapter
from trainer.cells import Cell, Evaluation, Prompt, Rendered, Row
from trainer.config import AdapterConfig
from trainer.render import Renderer
from trainer.report import write_report
from trainer.stack import Lora

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "## Rendering a grid (`benchmarks/render.py`)"
WORDS = "in a forest|on a beach|at night|with a hat|sitting|from behind|in the snow|as a toy".split("|")


@dataclass(frozen=True)
class Place:
    cell: Cell
    lora: Path | None


def random_epochs(model, folder: Path, count: int, rank: int) -> list[Path]:
    adapter = Adapter.attach(model, AdapterConfig(rank=rank, alpha=rank), seed=0)
    paths = []
    for number in range(1, count + 1):
        generator = torch.Generator().manual_seed(number)
        tensors = adapter.tensors()
        for key in tensors:
            if key.endswith("lora_up.weight"):
                tensors[key] = 0.01 * torch.randn(tensors[key].shape, generator=generator)
        halves = {key: tensor.half() for key, tensor in tensors.items()}
        paths.append(kohya.write(folder / f"epoch-{number:06}.safetensors", halves, {}))
    adapter.detach()
    return paths


def timed(model, batch: int, places: list[Place]) -> float:
    """Seconds for the pictures of these places with a fresh renderer, files and texts included."""
    renderer = Renderer(model, batch)
    start = _now(model)
    for part in renderer.batches(places):
        renderer.render([place.cell for place in part], [place.lora for place in part])
    return _now(model) - start


def one_by_one(model, places: list[Place]) -> float:
    """The loop that is usual: load an epoch's file, render its prompts one after the other, load the next."""
    return sum(timed(model, 1, [place]) for place in places)


def switching(model, paths: list[Path]) -> float:
    """Milliseconds from one epoch's file to the next one being on the base."""
    renderer = Renderer(model, 1)
    took = []
    for path in paths:
        start = _now(model)
        renderer.carry([(Lora(path),)])
        took.append(_now(model) - start)
    return 1000 * float(np.median(took))


def _now(model) -> float:
    """Seconds on the clock; on a processor its own time, since others may be at work on the same machine."""
    if model.device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(options: argparse.Namespace) -> list[str]:
    device = options.device or environment.default_device()
    dtype = environment.DTYPES[options.precision]
    model = families.load(options.base, dtype=dtype, device=device)
    size = options.size or model.vae.config.sample_size or 512
    with tempfile.TemporaryDirectory() as folder:
        paths = random_epochs(model, Path(folder), options.epochs, options.rank)
        cell = Cell("", "blurry", 1, 1, 1.0, size, size, "Euler", options.steps, 7.0, 1, "", "x")
        cells = [replace(cell, prompt=f"moss {WORDS[i % 8]}", seed=i) for i in range(options.prompts)]
        rows = [Place(one, path) for path in paths for one in cells]
        timed(model, options.batch, rows[: options.batch])  # warm-up
        single = timed(model, options.batch, [Place(one, paths[0]) for _ in paths for one in cells])
        grid = timed(model, options.batch, rows)
        mixed = timed(model, options.batch, [Place(one, path) for one in cells for path in paths])
        loop = one_by_one(model, rows)
        switch = switching(model, paths)
    count = len(rows)
    where = f"{environment.device_name(device)}, torch {torch.__version__}, {options.precision}"
    where += "" if model.device.type == "cuda" else "; processor time"
    return [
        f"{date.today()}, {options.base}, {size} px, {options.steps} steps, rank {options.rank}, "
        f"batch {options.batch}; {where}",
        "",
        "| what | seconds | against one LoRA |",
        "|---|---|---|",
        f"| {count} pictures of one LoRA | {single:.1f} | 1.00 |",
        f"| grid of {options.epochs} epochs × {options.prompts} prompts | {grid:.1f} | {grid / single:.2f} |",
        f"| the same, every batch of as many epochs as pictures | {mixed:.1f} | {mixed / single:.2f} |",
        f"| loop that loads each file, batch 1 | {loop:.1f} | {loop / single:.2f} |",
        "",
        f"The grid takes {grid / loop:.2f} of the loop. From one epoch to the next: {switch:.0f} ms.",
    ]


def measure_report(options: argparse.Namespace) -> list[str]:
    """The report of pictures with as much detail as a photograph."""
    side = options.size or 1024
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cells").mkdir()
        cells = []
        for epoch in range(options.epochs + 1):
            for column in range(options.prompts):
                file = f"cells/{epoch}-{column}.png"
                photograph(side, 100 * epoch + column).save(folder / file, compress_level=1)
                cells.append(Rendered(WORDS[column % 8], epoch, 1.0, 1, file, "moss\nSteps: 20", {"likeness": 0.5}))
        prompts = [Prompt(WORDS[column % 8], f"moss {WORDS[column % 8]}") for column in range(options.prompts)]
        rows = [Row(epoch, 1.0, {"likeness": 0.4 + 0.03 * epoch}) for epoch in range(options.epochs + 1)]
        epochs = list(range(options.epochs + 1))
        evaluation = Evaluation("run", "moss", {}, prompts, [1], [1.0], epochs, cells, rows)
        start = time.process_time()  # others may be at work on the same machine
        path = write_report(evaluation, folder)
        took, megabytes = time.process_time() - start, path.stat().st_size / 1e6
        originals = sum(file.stat().st_size for file in (folder / "cells").iterdir()) / 1e6
    return [
        f"{date.today()}, report of {len(cells)} pictures ({options.epochs} epochs and the base × {options.prompts} "
        f"prompts) of {side} px with a photograph's detail: {megabytes:.1f} MB (PNGs {originals:.0f} MB), written in "
        f"{took:.0f} s.",
    ]


def photograph(side: int, seed: int) -> Image.Image:
    """Noise whose power falls with the square of the frequency, as in photographs (Field 1987), three channels."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    channels = [np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) / frequency, (side, side))] * 3
    channels = [one + 0.3 * np.roll(one, 40 * index, 0) for index, one in enumerate(channels)]
    pixels = np.stack([(one - one.min()) / (one.max() - one.min()) for one in channels], -1)
    grain = rng.normal(0, 2, pixels.shape)
    return Image.fromarray((pixels * 255 + grain).clip(0, 255).astype(np.uint8))


def append(lines: list[str]) -> None:
    """Add a result under this benchmark's heading, which other results may stand before and behind."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Measured\n"
    before, found, after = text.partition(HEADING)
    block = "\n".join(lines)
    if not found:
        RESULTS.write_text(f"{text.rstrip()}\n\n{HEADING}\n\n{block}\n", encoding="utf-8")
        return
    own, mark, rest = after.partition("\n## ")
    RESULTS.write_text(f"{before}{HEADING}{own.rstrip()}\n\n{block}\n{mark and chr(10)}{mark[1:]}{rest}", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="toybox/sd15")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--precision", default="fp32", choices=environment.DTYPES)
    parser.add_argument("--device", default="")
    parser.add_argument("--report", action="store_true", help="measure the report instead")
    options = parser.parse_args()
    lines = measure_report(options) if options.report else measure(options)
    print("\n".join(lines), f"\n({platform.machine()})")
    append(lines)


if __name__ == "__main__":
    main()
