"""The model card: every figure measured on the shipped weights, with the command that measures it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageOps

from trainer.toybox import CHARACTERS, HERE, PARTS, PICTURES, ROOT, STYLES
from trainer.toybox.heldback import HELD_BACK
from trainer.toybox.measure import fidelity, tags_found
from trainer.toybox.pictures import scenes_of
from trainer.toybox.scene import CHOICES, Scene, random_scene
from trainer.toybox.sheets import GUIDANCE, SEED, STEPS, pipeline, prompts, render, sheet
from trainer.toybox.train_clip import retrieval
from trainer.toybox.train_tagger import THRESHOLD, f1, tag_scores
from trainer.toybox.train_vae import psnr, reconstruct
from trainer.toybox.world import draw

FIGURES = ROOT / "figures.json"
SHEETS = HERE / "sheets"
# Pictures that people bring: four drawings and three folders of photographs from the DreamBooth dataset.
OUTSIDE = HERE.parents[2] / "shared" / "data"
RENDERS, KNOWN = 64, 4


def unseen(count: int, seed: int) -> tuple[list[Scene], np.ndarray]:
    """Scenes and their drawings, uint8 [count, 128, 128, 3], from a seed that no training uses."""
    rng = np.random.default_rng((seed, 1))
    scenes = [random_scene(rng) for _ in range(count)]
    return scenes, np.stack([np.asarray(draw(scene, 128, rng)) for scene in scenes])


def squares(folder: Path) -> np.ndarray:
    """A folder's pictures cut square and scaled to 128 px, uint8 [n, 128, 128, 3]."""
    files = sorted(file for file in folder.iterdir() if file.suffix in {".png", ".jpg"})
    cut = (ImageOps.fit(Image.open(f).convert("RGB"), (128, 128), Image.Resampling.LANCZOS) for f in files)
    return np.stack([np.asarray(picture) for picture in cut])


def vae_figures() -> dict:
    """Mean PSNR in dB of reconstructions, and how much a held-back character is itself after one."""
    vae = AutoencoderKL.from_pretrained(str(PARTS["vae"]), torch_dtype=torch.float32).eval()
    sets = {"world": unseen(64, SEED)[1]} | {name: squares(folder) for name, folder in PICTURES.items()}
    if OUTSIDE.is_dir():
        sets |= {folder.name: squares(folder) for folder in sorted(OUTSIDE.iterdir()) if folder.is_dir()}
    made = {name: reconstruct(vae, pictures) for name, pictures in sets.items()}
    kept = {name: mean_fidelity(map(Image.fromarray, made[name]), name, scenes_of(name)) for name in PICTURES}
    return {"psnr": {name: psnr(sets[name], made[name]) for name in sets}, "fidelity": kept}


def mean_fidelity(images: Iterable[Image.Image], name: str, scenes: list[Scene]) -> float:
    return float(np.mean([fidelity(image, name, scene) for image, scene in zip(images, scenes, strict=True)]))


def base_figures(name: str) -> dict:
    """Tags found again in renders; fidelity of renders of every trigger word, which no base should know."""
    pipe = pipeline(name)
    scenes = prompts(RENDERS)
    images = render(pipe, [scene.caption() for scene in scenes])
    SHEETS.mkdir(exist_ok=True)
    sheet(images[:32]).save(SHEETS / f"{name}.webp", quality=90)
    unknown = {}
    for held in HELD_BACK.values():
        drawn = render(pipe, [held.caption(scene) for scene in scenes[:KNOWN]])
        unknown[held.name] = mean_fidelity(drawn, held.name, scenes[:KNOWN])
    return {"found": tags_found(images, scenes), "unknown": unknown}


def tagger_figures() -> dict:
    """F1 on drawings, and on the same drawings as the autoencoder gives them back."""
    scenes, pictures = unseen(256, SEED + 1)
    vae = AutoencoderKL.from_pretrained(str(PARTS["vae"]), torch_dtype=torch.float32).eval()
    seen = {"f1": pictures, "f1_reconstructed": reconstruct(vae, pictures)}
    return {name: f1(tag_scores(PARTS["tagger"], some), scenes) for name, some in seen.items()}


def clip_figures() -> dict:
    scenes, pictures = unseen(256, SEED + 2)
    return {"retrieval": retrieval(PARTS["clip"], pictures, [scene.caption() for scene in scenes])}


MEASURES: dict[str, Callable[[], dict]] = {
    "vae": vae_figures,
    "sd15": lambda: base_figures("sd15"),
    "sdxl": lambda: base_figures("sdxl"),
    "tagger": tagger_figures,
    "clip": clip_figures,
}


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def training_of(work: Path, part: str) -> dict:
    """Steps taken and seconds needed, from the part's checkpoint in the work folder."""
    checkpoint = work / part / "checkpoint.pt"
    if not checkpoint.exists():
        return {}
    state = torch.load(checkpoint, map_location="cpu")
    trained = {"steps": state["step"], "seconds": round(state["seconds"])}
    return trained | ({"note": state["note"]} if "note" in state else {})


def measure_all(work: Path) -> dict:
    """Every figure, also written to weights/figures.json."""
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    figures = {}
    for name, measured in MEASURES.items():
        if PARTS[name].is_dir():
            training = training_of(work, name) or known.get(name, {}).get("training", {})
            figures[name] = {"training": training, "bytes": size_of(PARTS[name]), **measured()}
            print(f"measured {name}", flush=True)
    decoder = training_of(work, "vae-decoder") or known.get("vae", {}).get("decoder_training", {})
    figures["vae"]["decoder_training"] = decoder
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _trained(training: dict) -> str:
    return f"{training['steps']:,} steps, {training['seconds'] / 60:.0f} min" if training else "–"


def _parts_table(figures: dict) -> str:
    what = {
        "vae": "AutoencoderKL, factor 8, 4 latent channels, shared by both bases",
        "sd15": "SD 1.5-shaped: UNet2DConditionModel, CLIPTextModel, CLIPTokenizer",
        "sdxl": "SDXL-shaped: the same with two text encoders, pooled embedding and time ids",
        "tagger": "WD14 format: model.onnx and selected_tags.csv",
        "clip": "CLIPModel with tokenizer",
    }
    rows = []
    for name, words in what.items():
        trained = _trained(figures[name]["training"])
        if name == "vae" and figures["vae"]["decoder_training"]:
            trained += "; decoder alone: " + _trained(figures["vae"]["decoder_training"])
        rows.append((f"`{name}`", words, f"{figures[name]['bytes'] / 1e6:.2f} MB", trained))
    total = sum(figures[name]["bytes"] for name in what)
    return _table(("part", "what", "size", "training"), [*rows, ("all", "", f"{total / 1e6:.2f} MB", "")])


def _found_table(figures: dict) -> str:
    bases = [name for name in ("sd15", "sdxl") if name in figures]
    rows = [
        (name.replace("_", " "), *(f"{figures[base]['found'].get(name, float('nan')):.0%}" for base in bases))
        for name in (*CHOICES, "all")
    ]
    return _table(("tag names the", *bases), rows)


def _held_back_table(figures: dict) -> str:
    rows = []
    for name in (*CHARACTERS, *STYLES):
        held, vae = HELD_BACK[name], figures["vae"]
        unknown = (f"{figures[base]['unknown'][name]:.2f}" for base in ("sd15", "sdxl"))
        words = (f"`{name}`", f"`{held.trigger}`", held.description)
        rows.append((*words, f"{vae['psnr'][name]:.1f} dB", f"{vae['fidelity'][name]:.2f}", *unknown))
    return _table(("name", "trigger", "what", "VAE", "after the VAE", "sd15", "sdxl"), rows)


def card_text(figures: dict) -> str:
    psnrs, tagger = figures["vae"]["psnr"], figures["tagger"]
    note = " " + figures["vae"]["training"].get("note", "")
    outside = [(name, f"{value:.1f} dB") for name, value in psnrs.items() if name not in PICTURES]
    return f"""# The toybox

A drawn miniature world of cartoon creatures, and small models trained on it from nothing by the scripts
beside this file. They have the real classes and file layouts of their big relatives at 128 px, so that the
whole way from a folder of pictures to a chosen epoch can be gone without a download. They know nothing but
this world. Everything here was drawn and trained by this project's own code and is under the project's
licence.

{_parts_table(figures)}

`python -m trainer.toybox.build all` trains all of it; `… build card` measures everything below again and
writes this file. The shipped bases come from several sittings: sd15 7,300 and sdxl 2,800 steps on the world
alone, then 1,700 and 2,000 more with the odd creatures of `oddities.py` among it, on a restarted rate. The
recipes mix both from the first step and have not been run through from nothing in one piece since. Weights are
half precision. Sizes are plain files, in MB of 1,000,000 bytes.

## Autoencoder

It has seen the held-back characters and styles, in other pictures than those measured; the bases have
not.{note} Mean PSNR of reconstructions at 128 px; the world's pictures are drawn from a seed that
training does not use; the other folders are drawings and photographs of the DreamBooth dataset, never
trained on.

{_table(("pictures", "PSNR"), outside)}

## Bases

{RENDERS} prompts of random scenes' full captions, fixed seeds, Euler a, {STEPS} steps, guidance
{GUIDANCE:g}. A tag counts as found when, of all values its attribute could have, the drawing with the
stated value is nearest to the render (`measure.read_tags`). Under "all": all stated tags together.

{_found_table(figures)}

The first 32 renders of each, sd15 above, sdxl below:

![sd15](sheets/sd15.webp)

![sdxl](sheets/sdxl.webp)

Two in five of the bases' pictures are odd creatures, put together at random from horns, spots, wings, plates
and one to three eyes in any colour (`oddities.py`), so that a LoRA finds parts to build a new character from.

Prompts are tags, comma-separated, as in `1creature, round body, blue body, top hat, red hat, smile, facing
left, arms up, scarf, moon, green background`. Words that the world does not know change little, by design:
a third of the training captions held a made-up word.

## Held back

No base has seen these. Each has a folder of twelve 256 px pictures in `pictures/`. "VAE" is the PSNR of
their reconstructions; the last three columns are `measure.fidelity`, 0 to 1: of those reconstructions, and
of each base's renders of prompts with the trigger word.

{_held_back_table(figures)}

## Tagger and CLIP

- Tagger, 256 unseen drawings, threshold {THRESHOLD}, all tags but the ratings: F1 {tagger["f1"]:.3f}; on
  the same drawings as the autoencoder gives them back: {tagger["f1_reconstructed"]:.3f}.
- CLIP: {figures["clip"]["retrieval"]:.0%} of 256 unseen pictures find their own full caption among all 256.
"""


def write_card(work: Path) -> None:
    (HERE / "MODELCARD.md").write_text(card_text(measure_all(work)), encoding="utf-8")
