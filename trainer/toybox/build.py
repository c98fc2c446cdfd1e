"""Train everything in the toybox from nothing.

    python -m trainer.toybox.build all
    python -m trainer.toybox.build sd15 --minutes 45 --threads 1

Parts: pictures, vae, decoder, sd15, sdxl, tagger, clip, card; `all` takes them in this order. A part that was
stopped continues where it was, from the work folder; a finished part is only exported again. Delete its
folder there to train it anew. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from trainer.toybox import PARTS, card
from trainer.toybox.pictures import draw_pictures
from trainer.toybox.train_base import export_base, train_base
from trainer.toybox.train_clip import ClipRecipe, export_clip, train_clip
from trainer.toybox.train_tagger import TaggerRecipe, export_tagger, train_tagger
from trainer.toybox.train_vae import VaeRecipe, export_vae, polish_decoder, train_vae

WORK = Path(".toybox-build")


def build_vae(work: Path, steps: int | None, minutes: float | None) -> None:
    train_vae(work, VaeRecipe(), minutes, steps)
    export_vae(work, PARTS["vae"])


def build_decoder(work: Path, steps: int | None, minutes: float | None) -> None:
    polish_decoder(work, VaeRecipe(), minutes, steps)
    export_vae(work, PARTS["vae"])


def build_base(name: str, work: Path, steps: int | None, minutes: float | None) -> None:
    train_base(name, work, PARTS["vae"], None, minutes, steps)
    export_base(name, work, PARTS[name])


def build_tagger(work: Path, steps: int | None, minutes: float | None) -> None:
    train_tagger(work, TaggerRecipe(), minutes, steps)
    export_tagger(work, PARTS["tagger"])


def build_clip(work: Path, steps: int | None, minutes: float | None) -> None:
    train_clip(work, ClipRecipe(), minutes, steps)
    export_clip(work, PARTS["clip"])


BUILDERS: dict[str, Callable[[Path, int | None, float | None], None]] = {
    "pictures": lambda work, steps, minutes: draw_pictures(),
    "vae": build_vae,
    "decoder": build_decoder,
    "sd15": lambda *how: build_base("sd15", *how),
    "sdxl": lambda *how: build_base("sdxl", *how),
    "tagger": build_tagger,
    "clip": build_clip,
    "card": lambda work, steps, minutes: card.write_card(work),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.toybox.build", description=__doc__.split("\n")[0]
    )
    parser.add_argument("part", choices=(*BUILDERS, "all"))
    parser.add_argument("--steps", type=int, help="stop for now after this step")
    parser.add_argument("--minutes", type=float, help="stop for now after so many minutes")
    parser.add_argument(
        "--threads", type=int, help="CPU threads; one part a core is faster than all cores a part"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="where unfinished training is kept")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    # Some activations get so small that a CPU computes them ten times slower unless they count as 0.
    torch.set_flush_denormal(True)
    for part in BUILDERS if given.part == "all" else (given.part,):
        started = time.monotonic()
        BUILDERS[part](given.work, given.steps, given.minutes)
        print(f"{part}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
