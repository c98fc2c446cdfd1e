"""How fast training is, and what it takes: SD 1.5 and SDXL at full size with random weights, through the real trainer.

    python benchmarks/train.py --family sd15 --size 128 --batch 1            one row
    python benchmarks/train.py --family sd15 --size 128 --switches           a row for each switch
    python benchmarks/train.py --family sdxl --size 1024 --batch 1 4 8 --switches     on a GPU
    python benchmarks/train.py --convolutions            those at the bottom of a UNet, as products and torch's way

Each row runs in a process of its own, so that its peak memory is its own. Rows are appended to RESULTS.md beside this
file. Seconds a step are those of the fastest of the steps after the first; CPU seconds are the process's own, which
other work on the machine disturbs less. MFU is what the step's arithmetic (counted, matrix products and convolutions)
takes of a ceiling measured in the same process: large matrix products in the same precision.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
BASES = Path(os.environ.get("LORA_STUDIO_BENCH", ROOT / "benchmarks" / ".bases"))
SWITCHES = {
    "as it is": {},
    "bf16": {"model.precision": "bf16"},
    "checkpointing": {"model.gradient_checkpointing": True},
    "AdamW8bit": {"optimizer.name": "AdamW8bit"},
    "text encoder trained": {"adapter.text_encoder": True},
    "xformers": {"model.attention": "xformers"},
}


def base_model(family: str) -> Path:
    """A diffusers folder of full size with random weights in float16, made once."""
    folder = BASES / family
    if (folder / "model_index.json").is_file():
        return folder
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    xl = family == "sdxl"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
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
    shutil.copy(toybox / "model_index.json", folder)  # last: the folder is whole
    return folder


def draw(folder: Path, count: int, size: int) -> Path:
    """Square pictures of noise with a caption each."""
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        data = random.Random(number).randbytes(size * size * 3)
        Image.frombytes("RGB", (size, size), data).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"moss, number {number}")
    return folder


def measure(family: str, size: int, batch: int, steps: int, changes: dict) -> dict:
    """One row, in this process."""
    import torch
    from accelerate import Accelerator

    from trainer import environment, estimate, loop, presets
    from trainer.examples import load_examples
    from trainer.record import Recorder
    from trainer.run import Run

    device = environment.default_device()
    base = base_model(family)
    with TemporaryDirectory() as folder:
        os.chdir(folder)  # where the cache goes, so that each row fills its own
        values = {
            "name": "bench",
            "model.base": str(base),
            "model.precision": "fp32",
            "data.folder": str(draw(Path(folder) / "pictures", batch, size)),
            "data.trigger": "moss",
            "data.resolution": size,
            "data.bucket_min": 64,
            "data.shuffle_tags": False,
            "adapter.text_encoder": False,
            "adapter.rank": 16,
            "optimizer.name": "AdamW",
            "loop.batch_size": batch,
            "evaluation.batch_size": 1,
        }
        config = presets.layer(values, changes)
        foretold = estimate.estimate(config, load_examples(config.data))
        started = time.perf_counter()
        precision = config.model.precision
        accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))
        trainer = loop.Trainer(Run.create(config), config, accelerator, Recorder(Run(folder), active=False), set())
        prepared = time.perf_counter() - started
        first = trainer.rehearse(1)[0]
        cpu, seconds, held = [], [], []
        for _ in range(steps):
            before = time.process_time()
            seconds += trainer.rehearse(1)
            cpu.append(time.process_time() - before)
            held.append(estimate.resident())
        cached = time.perf_counter()
        for index in range(batch):
            trainer.batches.latents[index, 0]
        cached = time.perf_counter() - cached
    ceiling = matmul_ceiling(device, environment.DTYPES[precision])
    return {
        "seconds": min(seconds),
        "cpu_seconds": min(cpu),
        "pictures": batch / min(seconds),
        "mfu": foretold.flops / min(seconds) / ceiling,
        "ceiling": ceiling,
        "peak": estimate.peak_memory(device),
        "foretold": foretold.peak,
        "in_steps": torch.cuda.max_memory_allocated() if device == "cuda" else max(held),
        "foretold_in_steps": sum(foretold.training.values()),
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
    numbers = [f"{found['seconds']:.2f}", f"{found['cpu_seconds']:.2f}", f"{found['pictures']:.2f}"]
    return " | ".join(
        ["", name, *numbers, f"{found['mfu']:.0%}", *sizes, f"{found['first']:.0f}", f"{found['cache']:.0f}", ""]
    ).strip()


HEADER = (
    "| | s/step | CPU s/step | pictures/s | MFU | peak GB | foretold | in steps GB | foretold | s to first step "
    "| cache reads/s |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=("sd15", "sdxl"), default="sd15")
    parser.add_argument("--size", type=int, default=128, help="px; 512 or 1024 on a GPU")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cpu leaves a GPU alone")
    parser.add_argument("--switches", nargs="*", choices=SWITCHES, help="which of the switches; all if none is named")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # one row, in this process: the changes as JSON
    parser.add_argument("--convolutions", action="store_true", help="only these, printed")
    parser.add_argument("--note", default="", help="said above the table")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if arguments.convolutions:
        print(convolutions())
        return
    if arguments.row is not None:
        found = measure(
            arguments.family, arguments.size, arguments.batch[0], arguments.steps, json.loads(arguments.row)
        )
        print(json.dumps(found))
        return
    from trainer.environment import versions

    # In a process of its own: what the first row took must not hang on what it took to make the base.
    making = multiprocessing.get_context("spawn").Process(target=base_model, args=(arguments.family,))
    making.start(), making.join()
    chosen = (
        SWITCHES if arguments.switches == [] else {name: SWITCHES[name] for name in arguments.switches or ["as it is"]}
    )
    rows, device = [], ""
    for batch in arguments.batch:
        for name, changes in chosen.items():
            command = [sys.executable, __file__, "--family", arguments.family, "--size", str(arguments.size)]
            command += ["--batch", str(batch), "--steps", str(arguments.steps), "--row", json.dumps(changes)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            device = f"{found['device']}, matrix products at {found['ceiling'] / 1e9:.0f} GFLOP/s"
            rows.append(row(f"{name}, batch {batch}", found))
            print(rows[-1], flush=True)
    packages = versions()
    built = ", ".join(f"{name} {packages[name]}" for name in ("python", "torch", "diffusers", "peft", "accelerate"))
    title = f"## {arguments.family}, {arguments.size} px, rank 16 · {time.strftime('%Y-%m-%d')}"
    text = "\n\n".join(filter(None, [title, f"{device}; {built}", arguments.note, HEADER + "\n".join(rows)]))
    with open(ROOT / "benchmarks" / "RESULTS.md", "a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")


if __name__ == "__main__":
    main()
