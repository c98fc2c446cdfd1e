"""Small real runs for tests: drawn pictures, a tiny base, and training in a process that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from trainer import presets
from trainer.run import Run

SIZES = [(96, 96), (96, 96), (150, 80), (80, 150), (120, 90)]


def draw_pictures(folder: Path, sizes=SIZES, trigger: str = "moss") -> Path:
    """Coloured discs on coloured ground with captions that say so."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for number, size in enumerate(sizes):
        picture = Image.new("RGB", size, tuple(rng.choices(range(256), k=3)))
        ImageDraw.Draw(picture).ellipse((20, 20, 60, 60), fill=tuple(rng.choices(range(256), k=3)))
        picture.save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"{trigger}, disc, number {number}, plain")
    return folder


def make_run(root: Path, base: Path | str, **changes) -> Run:
    """A queued run of two epochs in root/runs over pictures in root/pictures."""
    pictures = draw_pictures(root / "pictures")
    values = {
        "name": "moss",
        "model.base": str(base),
        "model.precision": "fp32",
        "data.folder": str(pictures),
        "data.trigger": "moss",
        "data.resolution": 64,
        "data.bucket_step": 32,
        "data.caption_dropout": 0.1,
        "adapter.rank": 4,
        "adapter.alpha": 2,
        "adapter.save_precision": "fp32",
        "optimizer.name": "AdamW",
        "optimizer.learning_rate": 1e-3,
        "loop.epochs": 2,
        "loop.batch_size": 2,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return Run.create(presets.layer(values), root / "runs")


# ── a trainer that dies on command ──────────────────────────────────────────────────────────────────────
# The fork server imports everything once; each trainer is then a real process that starts in milliseconds.

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["trainer.loop", "diffusers", "transformers", "peft"])


def train_in_process(
    run: Run, kill: tuple[str, str, int] | None = None, by: int | str = signal.SIGKILL, largest_file: int = 0
) -> int:
    """Train or resume in another process; returns its exit code, -9 when it was killed.

    `kill` = (audit event, part of a path, n): the process gets the signal `by`, or the run that request, at the moment
    of its n-th such system call, before the call is made. ("os.rename", "epochs", 1) dies inside the save of the first
    epoch, with the temporary file complete and the epoch not there yet. No file may grow beyond `largest_file` bytes.
    """
    process = _context.Process(target=_train, args=(str(run.path.resolve()), kill, os.getcwd(), by, largest_file))
    process.start()
    process.join(240)
    assert process.exitcode is not None, "the trainer hangs"
    return process.exitcode


def _train(
    path: str, kill: tuple[str, str, int] | None, folder: str, by: int | str = signal.SIGKILL, largest_file: int = 0
) -> None:
    import torch

    from trainer.loop import train

    os.chdir(folder)
    torch.set_num_threads(1)
    if kill is not None and os.environ.get("RANK") in (None, os.environ.get("VICTIM", "0")):
        _at(*kill, (lambda: Run(path).request(by)) if isinstance(by, str) else (lambda: os.kill(os.getpid(), by)))
    if largest_file:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    train(Run(path))


def train_in_processes(run: Run, count: int, kill=None, by: int | str = signal.SIGKILL, **variables: str) -> list[int]:
    """Train or resume in `count` processes that talk over the loopback, as `accelerate launch` would start them with
    these `variables` from its config. `kill` and `by` as above, for the one that VICTIM names, or the first."""
    return _in_processes(_train, (str(run.path.resolve()), kill, os.getcwd(), by), count, variables)


def held_in_processes(run: Run, count: int, **variables: str) -> list[int]:
    """Bytes of the base's UNet that each of `count` such processes holds when it is about to train."""
    assert _in_processes(_hold, (str(run.path.resolve()), os.getcwd()), count, variables) == [0] * count
    return [int(Path(f"held-{rank}.txt").read_text()) for rank in range(count)]


def _hold(path: str, folder: str) -> None:
    from trainer import processes
    from trainer.loop import Trainer
    from trainer.record import Recorder

    os.chdir(folder)
    run, accelerator = Run(path), processes.joined("fp32")
    trainer = Trainer(run, run.config, accelerator, Recorder(run, accelerator.is_main_process), set())
    frozen = [weight for weight in trainer.model.unet.parameters() if not weight.requires_grad]
    local = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in frozen]
    Path(f"held-{os.environ['RANK']}.txt").write_text(str(sum(part.nbytes for part in local)))


def command_in_processes(arguments: list[str], count: int, **variables: str) -> list[int]:
    """A command of the command line in `count` such processes. Each leaves the keys of the cells that it rendered in
    rendered-RANK.txt. The one that LOST names ends as soon as it has joined."""
    return _in_processes(_command, (list(map(str, arguments)), os.getcwd()), count, config=variables)


def _in_processes(work, arguments: tuple, count: int, config: dict[str, str] | None = None) -> list[int]:
    from torch.distributed import TCPStore

    # They meet where the launcher's agent would have them meet. It holds its port from the start: of a free one that
    # the first process is to open, somebody else may have made a connection by then.
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": meeting.port}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": 0, "ACCELERATE_USE_CPU": "true"}
    processes = []
    for rank in range(count):
        variables = {"RANK": rank, "LOCAL_RANK": rank, **shared, **(config or {})}
        variables = {key: str(value) for key, value in variables.items()}
        processes.append(_context.Process(target=_one_of_several, args=(work, arguments, variables)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        assert process.exitcode is not None, "a process hangs"
    return [process.exitcode for process in processes]


def _one_of_several(work, arguments: tuple, variables: dict[str, str]) -> None:
    os.environ |= variables
    work(*arguments)


def _command(arguments: list[str], folder: str) -> None:
    import torch

    from trainer import processes
    from trainer.__main__ import main
    from trainer.render import Renderer

    if os.environ["RANK"] == os.environ.get("LOST"):
        processes.state()
        os._exit(9)
    os.chdir(folder)
    torch.set_num_threads(1)
    render = Renderer.render

    def noted(self, cells, *rest):
        with open(f"rendered-{os.environ['RANK']}.txt", "a") as file:
            file.writelines(f"{cell.key}\n" for cell in cells)
        return render(self, cells, *rest)

    Renderer.render = noted
    sys.argv = ["lora-studio", *arguments]
    sys.exit(main())


def _at(event: str, part: str, times: int, act: Callable[[], object]) -> None:
    count = 0

    def watch(name: str, arguments: tuple) -> None:
        nonlocal count
        if name == event and any(part in str(argument) for argument in arguments[:2]):
            count += 1
            if count == times:
                act()

    sys.addaudithook(watch)
