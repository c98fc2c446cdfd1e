"""How fast training is, and what it takes: SD 1.5 and SDXL at full size with random weights, through the real trainer.

    python benchmarks/train.py --family sd15 --size 128 --batch 1            one row
    python benchmarks/train.py --family sd15 --size 128 --switches           a row for each switch
    python benchmarks/train.py --family sdxl --size 1024 --batch 1 4 --switches --preset sdxl-8gb     on a GPU
    python benchmarks/train.py --convolutions            those at the bottom of a UNet, as products and torch's way

Rows are appended to RESULTS.md beside this file. On a processor seconds a step are those of the fastest of the steps
after the first, and CPU seconds the process's own, which other work on the machine disturbs less; on a GPU the mean of
steps one behind the other. MFU is what the step's arithmetic (counted, matrix products and convolutions)
takes of a ceiling measured in the same process: large matrix products in the same precision.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
BASES = Path(os.environ.get("LORA_STUDIO_BENCH", ROOT / "benchmarks" / ".bases"))
BF16 = {"model.precision": "bf16"}
SWITCHES = {
    "as it is": {},
    "bf16": BF16,
    "bf16, checkpointing": BF16 | {"model.gradient_checkpointing": True},
    "bf16, CUDA graphs": BF16 | {"model.cuda_graphs": True},
    "bf16, compile": BF16 | {"model.compile": True},
    "bf16, compile, CUDA graphs": BF16 | {"model.compile": True, "model.cuda_graphs": True},
    "bf16, nf4 base": BF16 | {"model.quantize": "nf4"},
    "bf16, AdamW8bit": BF16 | {"optimizer.name": "AdamW8bit"},
    "bf16, text encoder trained": BF16 | {"adapter.text_encoder": True},
    "bf16, xformers": BF16 | {"model.attention": "xformers"},
}


def base_model(family: str) -> Path:
    """A diffusers folder of full size with random weights in float16, made once."""
    folder = BASES / family
    if (folder / "model_index.json").is_file():
        return folder
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from trainer.environment import default_device

    xl = family == "sdxl"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    torch.set_default_device(default_device())  # a processor takes a minute to draw SDXL's weights
    if xl:
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    else:
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    unet.save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.13025 if xl else 0.18215,
    ).save_pretrained(folder / "vae")
    large = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    CLIPTextModel(large).save_pretrained(folder / "text_encoder")
    toybox = ROOT / "trainer" / "toybox" / "weights" / family
    for name in ("tokenizer", "scheduler", *(["tokenizer_2"] if xl else [])):
        shutil.copytree(toybox / name, folder / name, dirs_exist_ok=True)
        if name.startswith("tokenizer"):
            fill_up(folder / name / "vocab.json", large.vocab_size)
    if xl:
        giant = CLIPTextConfig(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
            hidden_act="gelu",
        )
        CLIPTextModelWithProjection(giant).save_pretrained(folder / "text_encoder_2")
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    shutil.copy(toybox / "model_index.json", folder)  # last: the folder is whole
    return folder


def fill_up(file: Path, size: int) -> None:
    """Give a vocabulary `size` words, as many as a text encoder of full size knows."""
    words = json.loads(file.read_text(encoding="utf-8"))
    words |= {f"<|{number}|>": number for number in range(len(words), size)}
    file.write_text(json.dumps(words), encoding="utf-8")


def draw(folder: Path, count: int, size: int) -> Path:
    """Square pictures of noise with a caption each."""
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        data = random.Random(number).randbytes(size * size * 3)
        Image.frombytes("RGB", (size, size), data).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"moss, number {number}")
    return folder


def configuration(family: str, size: int, batch: int, changes: dict, pictures: Path):
    """The settings of one row. A preset's name under "preset" brings its own, but for what makes rows comparable."""
    from trainer import presets

    plain = {
        "model.precision": "fp32",
        "adapter.text_encoder": False,
        "adapter.rank": 16,
        "optimizer.name": "AdamW",
        "loop.batch_size": batch,
        "evaluation.batch_size": 1,
    }
    name = changes.get("preset")
    given = presets.load(str(presets.SHIPPED / f"{name}.toml")).values if name else plain
    same = {
        "name": "bench",
        "model.base": str(base_model(family)),
        "data.folder": str(pictures),
        "data.trigger": "moss",
        "data.resolution": size,
        "data.bucket_min": 64,
        "data.shuffle_tags": False,
    }
    changes = {path: value for path, value in changes.items() if path != "preset"}
    return presets.layer(given, same | changes)


def foretell(family: str, size: int, batch: int, changes: dict, device: str) -> dict:
    """What `lora-studio estimate` says of a row."""
    from trainer import estimate
    from trainer.examples import load_examples

    with TemporaryDirectory() as folder:
        os.chdir(folder)
        config = configuration(family, size, batch, changes, draw(Path(folder) / "pictures", batch, size))
        said = estimate.estimate(config, load_examples(config.data), device=device)
    return {"flops": said.flops, "foretold": said.peak, "foretold_in_steps": sum(said.training.values())}


def measure(family: str, size: int, batch: int, steps: int, changes: dict) -> dict:
    """One row, in this process."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from trainer import environment, estimate, loop
    from trainer.record import Recorder
    from trainer.run import Run

    device = environment.default_device()
    on_card = device == "cuda"
    if on_card:
        environment.release_memory()
        torch.cuda.reset_peak_memory_stats()
    with TemporaryDirectory() as folder:
        os.chdir(folder)  # where the cache goes, so that each row fills its own
        config = configuration(family, size, batch, changes, draw(Path(folder) / "pictures", batch, size))
        started = time.perf_counter()
        precision = config.model.precision
        AcceleratorState._reset_state(reset_partial_state=True)  # one process has one precision, but for benchmarks
        accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))
        trainer = loop.Trainer(Run.create(config), config, accelerator, Recorder(Run(folder), active=False), set())
        prepared = time.perf_counter() - started
        before = estimate.peak_memory(device)
        if on_card:
            torch.cuda.reset_peak_memory_stats()
        first = trainer.rehearse(1)
        cpu, seconds, held = [], [], []
        for _ in range(2 if on_card else steps):
            before_it = time.process_time()
            seconds.append(trainer.rehearse(steps if on_card else 1))
            cpu.append((time.process_time() - before_it) / (steps if on_card else 1))
            held.append(estimate.resident())
        cached = time.perf_counter()
        for index in range(batch):
            trainer.batches.latents[index, 0]
        cached = time.perf_counter() - cached
        accelerator.free_memory()
        os.chdir(ROOT)
    return {
        "seconds": min(seconds),
        "cpu_seconds": min(cpu),
        "pictures": batch / min(seconds),
        "ceiling": matmul_ceiling(device, environment.DTYPES[precision]),
        "peak": max(before, estimate.peak_memory(device)),
        "in_steps": estimate.peak_memory(device) if on_card else max(held),
        "first": prepared + first,
        "cache": batch / max(cached, 1e-9),
        "device": environment.device_name(device),
    }


def convolutions() -> str:
    """Processor milliseconds of 3×3 convolutions forward and backward on a CPU: torch's own way, as matrix products."""
    import torch
    from torch import nn

    from trainer.families.convolutions import ProductConv2d

    def milliseconds(layer, picture) -> float:
        best = float("inf")
        for _ in range(6):
            started = time.process_time()
            torch.autograd.grad(layer(picture).sum(), picture)
            best = min(best, time.process_time() - started)
        return 1000 * best

    rows = ["| channels | places | | torch's own | as products |", "|---|---|---|--:|--:|"]
    for dtype in (torch.float32, torch.bfloat16):
        for inputs, outputs, side in [
            (1280, 1280, 2),
            (1280, 1280, 4),
            (2560, 1280, 4),
            (1280, 1280, 8),
            (640, 640, 8),
        ]:
            layer = ProductConv2d(inputs, outputs, 3, padding=1).to(dtype).requires_grad_(False)
            picture = torch.randn(1, inputs, side, side, dtype=dtype, requires_grad=True)
            own = milliseconds(lambda x, layer=layer: nn.Conv2d.forward(layer, x), picture)
            ours = milliseconds(layer, picture)
            name = str(dtype).removeprefix("torch.")
            rows.append(f"| {inputs} → {outputs} | {side}×{side} | {name} | {own:.1f} | {ours:.1f} |")
    return "\n".join(rows)


def matmul_ceiling(device: str, dtype) -> float:
    """Floating-point operations a second in the best of five large matrix products."""
    import torch

    side = 8192 if device == "cuda" else 1536
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        (left @ right)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def row(name: str, found: dict) -> str:
    sizes = [f"{found[key] / 1e9:.2f}" for key in ("peak", "foretold", "in_steps", "foretold_in_steps")]
    numbers = [f"{found['seconds']:.3g}", f"{found['cpu_seconds']:.3g}", f"{found['pictures']:.3g}"]
    share = found["flops"] / found["seconds"] / found["ceiling"]
    return " | ".join(
        ["", name, *numbers, f"{share:.0%}", *sizes, f"{found['first']:.0f}", f"{found['cache']:.0f}", ""]
    ).strip()


HEADER = (
    "| | s/step | CPU s/step | pictures/s | MFU | peak GB | foretold | in steps GB | foretold | s to first step "
    "| cache reads/s |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
)


def apart(function, *arguments):
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def rows(family: str, size: int, chosen: list[tuple[str, int, dict]], steps: int, device: str) -> Iterator[dict]:
    """The figures of each row. On a card all in this process, where the peak is counted anew for each; in main memory
    each in a process of its own, whose peak is its own. A row that fails is said and left out."""
    apart(base_model, family)  # what the first row takes must not hang on what it took to make the base
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 1) // 2), multiprocessing.get_context("spawn")) as pool:
        said = [pool.submit(foretell, family, size, batch, changes, device) for _, batch, changes in chosen]
        said = [one.result() for one in said]
    for (name, batch, changes), expected in zip(chosen, said, strict=True):
        arguments = (family, size, batch, steps, changes)
        try:
            found = measure(*arguments) if device == "cuda" else apart(measure, *arguments)
        except Exception as error:  # a missing package, too little memory: the other rows are worth having
            print(f"{name}, batch {batch}: {error}", file=sys.stderr, flush=True)
            continue
        yield {"name": f"{name}, batch {batch}", **found, **expected}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=("sd15", "sdxl"), default="sd15")
    parser.add_argument("--size", type=int, default=128, help="px; 512 or 1024 on a GPU")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cpu leaves a GPU alone")
    parser.add_argument("--switches", nargs="*", choices=SWITCHES, help="which of the switches; all if none is named")
    parser.add_argument("--preset", nargs="*", default=[], help="rows of these presets with their own settings")
    parser.add_argument("--convolutions", action="store_true", help="only these, printed")
    parser.add_argument("--note", default="", help="said above the table")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if arguments.convolutions:
        print(convolutions())
        return
    from trainer.environment import default_device, versions

    names = list(SWITCHES) if arguments.switches == [] else arguments.switches or ["as it is"]
    chosen = [(name, batch, SWITCHES[name]) for batch in arguments.batch for name in names]
    chosen += [(name, 1, {"preset": name}) for name in arguments.preset]
    lines, device = [], ""
    for found in rows(arguments.family, arguments.size, chosen, arguments.steps, default_device()):
        device = f"{found['device']}, matrix products at {found['ceiling'] / 1e9:.0f} GFLOP/s"
        lines.append(row(found["name"], found))
        print(lines[-1], flush=True)
    packages = versions()
    built = ", ".join(f"{name} {packages[name]}" for name in ("python", "torch", "diffusers", "peft", "accelerate"))
    title = f"## {arguments.family}, {arguments.size} px, rank 16 · {time.strftime('%Y-%m-%d')}"
    text = "\n\n".join(filter(None, [title, f"{device}; {built}", arguments.note, HEADER + "\n".join(lines)]))
    with open(ROOT / "benchmarks" / "RESULTS.md", "a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")


if __name__ == "__main__":
    main()
