"""What a run will take, before it starts: memory for training and for rendering, time, disk; and what makes it fit."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from trainer import augment, environment, grid_costs, processes
from trainer.config import TrainConfig
from trainer.costs import Dummy, optimizer_state
from trainer.dataset import wording
from trainer.examples import Example, count_epochs, count_steps
from trainer.families.checkpoint_file import MAP
from trainer.families.clip import WORDS
from trainer.families.turns import needed
from trainer.files import write_json
from trainer.preparation import CACHE
from trainer.run import Run

PROBES = CACHE / "probes.json"
DRIVER = 730_000_000  # of a CUDA context with cuBLAS' and cuDNN's workspaces: 0.73 GB on an H100, driver 580
METADATA = 6_000  # of a LoRA file with a few dozen tags, bytes
# What allocators hold beyond what is alive; see benchmarks/RESULTS.md for how far off the estimates are with it.
SLACK = 1.05
HEAP = 1.4  # the same for a step on a CPU: what is kept for the backward pass parts the room of what comes and goes


@dataclass(frozen=True)
class Estimate:
    """Bytes and seconds. `seconds` is None until a probe was made on this device."""

    device: str
    capacity: int  # memory of the device
    training: dict[str, int]  # what is in memory in a step -> bytes
    loading: int  # peak on a device that shares the main memory; 0 where there is none
    caching: int  # peak while pictures or captions are encoded
    rendering: int
    pictures: int  # of the comparison
    file: int  # of one epoch
    disk: dict[str, int]
    steps: int
    flops: int  # of one step
    seconds: float | None  # a step
    comparing_seconds: float | None  # all pictures of the comparison and the losses of its rows

    @property
    def peak(self) -> int:
        """The most that training takes at any time, loading and encoding the pictures included."""
        return max(sum(self.training.values()), self.loading, self.caching)

    @property
    def trains(self) -> bool:
        return self.peak <= self.capacity

    @property
    def fits(self) -> bool:
        return self.trains and self.rendering <= self.capacity

    @property
    def total_seconds(self) -> float | None:
        return None if self.seconds is None else self.seconds * self.steps

    def as_json(self) -> dict:
        """The figures, and what follows from them."""
        follows = ("peak", "trains", "fits", "total_seconds")
        return asdict(self) | {name: getattr(self, name) for name in follows}


def estimate(config: TrainConfig, examples: list[Example], capacity: int = 0, device: str = "") -> Estimate:
    """What a run of these settings over these pictures takes on this machine's device.

    `capacity`: bytes to hold it against instead. `device`: "cuda" counts what a graphics card would take, which need
    not be there. Without pictures, square ones are assumed. Raises UserError when the base model cannot be found or
    the optimizer cannot be made.
    """
    device = device or environment.default_device()
    dummy = _dummy(_part(config), device)
    parts, shapes = dummy.parts, dummy.tensors
    texts = sum(size for name, size in parts.items() if name.startswith("text_encoder"))
    # Frozen text encoders lie on a card only while captions are encoded; main memory holds them all the time.
    changing = not dummy.texts_learn and wording.varies(config.data)
    size = _largest(config, examples)
    captions = {wording.fullest(example.caption, config.data) for example in examples}
    chunks = config.data.max_tokens // WORDS or dummy.model.family.chunks_needed(dummy.model, list(captions))
    batch = min(config.loop.batch_size, sum(e.repeats for e in examples)) if examples else config.loop.batch_size
    cost = dummy.training(batch, size, chunks, encodes=dummy.texts_learn)
    numbers = sum(_count(shape) for shape in shapes.values())
    state = optimizer_state(config, shapes)
    program = _program(device)
    known = _probes().get(_probe_key(config, dummy))
    factor = known["memory"] if known else 1.0
    width = 2 if config.model.full_bf16 else 4
    average = numbers * 4 if config.loop.ema_decay else 0
    training = {
        "UNet": parts["unet"] // processes.sharers(),
        "text encoders": texts if dummy.texts_learn or changing and device != "cuda" else 0,
        "LoRA": numbers * width,
        "optimizer": state,
        "average": average,
        "activations and gradients": round(cost.peak * (HEAP if device == "cpu" else SLACK) * factor),
        "program and driver": program,
    }
    beside = sum(training[name] for name in training if name not in ("text encoders", "activations and gradients"))
    worded = beside + texts if changing else 0
    capacity = capacity or _capacity(device)
    weights = parts["unet"] + parts["vae"] + texts + program
    whole = processes.together(config)
    steps, _ = count_steps(examples, whole) if examples else (0, 0)
    file = _file_size(config, shapes)
    # Beside the loaded UNet, the piece of the file that is being read, or its layers that are packed already.
    packed = parts["unet"] if config.model.quantize != "none" else 0
    total = cost.flops * config.loop.gradient_accumulation
    epochs = count_epochs(examples, whole) if examples else config.loop.epochs
    grid = grid_costs.work(config, dummy, size, len(examples), epochs)
    pace = known["seconds_per_teraflop"] / 1e12 if known else None
    cached = _latents(config, examples)
    if captions and not changing and not dummy.texts_learn:
        cached += (len(captions) + 1) * dummy.conditioning(chunks)
    return Estimate(
        device=_name(device),
        capacity=capacity,
        training=training,
        loading=0 if device == "cuda" else program + parts["vae"] + texts + dummy.unpacked + max(MAP, packed),
        # On a card of its own memory only the part at work lies there before the first step.
        caching=max(
            (program + parts["vae"] if device == "cuda" else weights) + round(dummy.caching(size).peak * SLACK), worded
        ),
        rendering=program + _rendering(config, dummy, grid, numbers, turns=device == "cuda" and capacity),
        pictures=grid.pictures,
        file=file,
        disk={
            "epochs": file * epochs,
            "state": numbers * 4 + state + average,
            "cache": cached,
        },
        steps=steps,
        flops=total,
        seconds=pace * total if pace else None,
        comparing_seconds=pace * grid.flops if pace else None,
    )


def _rendering(config: TrainConfig, dummy: Dummy, grid: grid_costs.Work, numbers: int, turns: int) -> int:
    """Bytes of a comparison. `turns`: bytes of a card, where the parts may have to come one by one."""
    batch, parts = config.evaluation.batch_size, dummy.parts
    # An epoch for each picture of a batch, from its file and laid beside the others.
    loras = numbers * environment.DTYPES[config.model.precision].itemsize * (2 * batch if batch > 1 else 1)
    texts = sum(size for name, size in parts.items() if name.startswith("text_encoder"))
    work = {"unet": grid.unet, "vae": grid.vae, "texts": 0}
    held = {"unet": dummy.unpacked, "vae": parts["vae"], "texts": texts}
    everything = sum(held.values())
    alone = turns and needed(everything, turns)
    most = max((held[name] if alone else everything) + round(work[name] * SLACK) for name in work)
    return loras + grid.upscalers + most


def _latents(config: TrainConfig, examples: list[Example]) -> int:
    """Bytes of the pictures' latents on disk, in float32: mean and deviation of four channels, and the mask."""
    channels = 4 + 4 + bool(config.data.alpha_mask or config.data.mask_folder)
    return sum(
        _area(variant.placement.bucket) // 64 * channels * 4
        for example in examples
        for variant in dict.fromkeys(augment.variants(example, config.data))
    )


def _part(config: TrainConfig) -> str:
    """What decides about the model itself: so that other sizes and batches are counted on the same one."""
    parts = {"model": config.model, "adapter": config.adapter, "optimizer": config.optimizer}
    return json.dumps({name: part.model_dump() for name, part in parts.items()})


@lru_cache(maxsize=2)
def _dummy(part: str, device: str) -> Dummy:
    return Dummy(TrainConfig.model_validate(json.loads(part)), device)


def _largest(config: TrainConfig, examples: list[Example]) -> tuple[int, int]:
    side = config.data.resolution // 8 * 8
    return max((example.placement.bucket for example in examples), key=_area, default=(side, side))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _file_size(config: TrainConfig, shapes: dict[str, tuple[int, ...]]) -> int:
    """Bytes of one epoch: the tensors, their scalar alphas, the header that names them, and about the metadata."""
    width = {"fp16": 2, "bf16": 2, "fp32": 4}[config.adapter.save_precision]
    modules = {name.partition(".")[0] for name in shapes}
    everything = {**shapes, **{f"{name}.alpha": () for name in modules}}
    header, end = {}, 0
    for name in sorted(everything):
        start, end = end, end + _count(everything[name]) * width
        header[name] = {"dtype": "F16", "shape": everything[name], "data_offsets": [start, end]}
    return 8 + len(json.dumps(header, separators=(",", ":"))) + end + METADATA


@lru_cache
def _program(device: str) -> int:
    """Bytes that are taken before any model is there; asked once, for counting takes memory too."""
    if device == "cuda":
        return DRIVER
    # A run imports these later, and they are not small.
    import torch.utils.tensorboard  # noqa: F401

    import datasets  # noqa: F401

    # The first product makes the matrix libraries take their buffers, which they keep.
    for dtype in (torch.float32, torch.bfloat16):
        side = torch.ones(256, 256, dtype=dtype, requires_grad=True)
        (side @ side).sum().backward()
    environment.release_memory()  # what counting took and freed
    return resident()


def _name(device: str) -> str:
    here = device != "cuda" or torch.cuda.is_available()
    return environment.device_name(device) if here else "a graphics card"


def _capacity(device: str) -> int:
    import psutil

    if device == "cuda":
        return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else 0
    return psutil.virtual_memory().total


def resident() -> int:
    """Bytes of main memory that this process holds now."""
    import psutil

    return psutil.Process().memory_info().rss


def peak_memory(device: str) -> int:
    """The most that this process has held so far: on the device, or in main memory."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved() + DRIVER
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ── one real step ───────────────────────────────────────────────────────────────────────────────────────


def probe(config: TrainConfig, examples: list[Example]) -> tuple[float, int]:
    """Take two real updates and throw them away: (seconds of the second, peak memory in bytes).

    What they tell is kept for this device, kind of base and precision, and corrects every later estimate. Encoded
    pictures stay in the cache, where the run itself will find them.
    """
    from trainer.loop import Trainer
    from trainer.record import Recorder

    device = environment.default_device()
    plain = estimate(config, examples)
    with TemporaryDirectory() as folder:
        run = Run.create(config, folder)
        trainer = Trainer(run, config, processes.joined(config.model.precision), Recorder(run, active=False), set())
        trainer.rehearse(1)  # the first one prepares much
        seconds = trainer.rehearse(1)
    peak = peak_memory(device)
    dummy = _dummy(_part(config), device)
    key = _probe_key(config, dummy)
    # `plain` was corrected already with what an earlier probe had found.
    factor = _correction(plain, peak) * _probes().get(key, {}).get("memory", 1.0)
    entry = {"seconds_per_teraflop": seconds / plain.flops * 1e12, "memory": factor}
    write_json(PROBES, {**_probes(), key: entry})
    return seconds, peak


def _correction(plain: Estimate, peak: int) -> float:
    """By how much the activations were misjudged, within bounds; 1 where another phase was the peak."""
    if max(plain.caching, plain.loading) >= sum(plain.training.values()):
        return 1.0
    work = plain.training["activations and gradients"]
    return min(2.0, max(0.5, (peak - sum(plain.training.values()) + work) / work))


def _probe_key(config: TrainConfig, dummy: Dummy) -> str:
    return f"{_name(dummy.device)} | {dummy.model.family.name} | {config.model.precision}"


def _probes() -> dict:
    try:
        return json.loads(Path(PROBES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # only costs a new probe
