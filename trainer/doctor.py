"""Does this machine have what training needs, and is it put together rightly? One function a check."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` says what to do when the level is not "ok"."""

    level: Literal["ok", "note", "problem"]
    what: str
    remedy: str = ""


def python() -> Iterator[Finding]:
    import sys

    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info < (3, 14):
        yield Finding("ok", f"Python {version}")
    else:
        yield Finding("problem", f"Python {version}", "Use Python 3.11, 3.12 or 3.13 in a fresh virtual environment.")


def torch_device() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        yield Finding("ok", f"torch {torch.__version__} on {properties.name}, {properties.total_memory / 2**30:.0f} GB")
    elif shutil.which("nvidia-smi"):
        remedy = "Install torch for CUDA as pytorch.org says for your system; a plain install can leave the CPU build."
        yield Finding("problem", f"torch {torch.__version__} has no CUDA, but an NVIDIA driver is here", remedy)
    else:
        yield Finding("note", f"torch {torch.__version__} on the CPU", "Enough for the toybox; real bases want a GPU.")


def hugging_face_datasets() -> Iterator[Finding]:
    import datasets

    if hasattr(datasets, "load_dataset"):
        yield Finding("ok", f"datasets {datasets.__version__}")
    else:
        yield Finding("problem", "the datasets package is shadowed", "Remove __init__.py from your datasets/ folder.")


def libraries() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    for package in ("diffusers", "transformers", "peft", "accelerate", "safetensors", "onnxruntime", "streamlit"):
        try:
            yield Finding("ok", f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Finding("problem", f"{package} is missing", "Run `pip install -e .` in the project's folder again.")


def eight_bit() -> Iterator[Finding]:
    try:
        import bitsandbytes

        yield Finding("ok", f"bitsandbytes {bitsandbytes.__version__} (8-bit optimizers)")
    except Exception as error:
        # Its import compiles against drivers and fails in many ways; each means: no 8-bit here.
        yield Finding("problem", f"bitsandbytes cannot load ({error})", "Train with optimizer.name=AdamW instead.")


def xformers() -> Iterator[Finding]:
    try:
        import xformers.ops  # noqa: F401

        yield Finding("ok", f"xformers {xformers.__version__}")
    except ImportError:
        yield Finding("note", "xformers is not here", "Not needed: attention runs on torch's own SDPA.")
    except Exception as error:
        remedy = "Its wheels fit one torch version each. Not needed: attention runs on torch's own SDPA."
        yield Finding("note", f"xformers cannot load beside this torch ({error})", remedy)


def memory() -> Iterator[Finding]:
    """What trains: the card's memory, or the machine's where there is none. What is taken already does not count."""
    import psutil
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        if total < 6e9:
            remedy = "Preset sd15-6gb is the smallest; `lora-studio estimate` says whether it fits, and what would."
            yield Finding("note", f"{total / 1e9:.1f} GB on the card, less than any preset is made for", remedy)
        elif free < 0.7 * total:
            remedy = "Close what else uses the card, or the run may not fit."
            yield Finding("note", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB on the card are free", remedy)
    free = psutil.virtual_memory().available
    if free < 8e9:
        remedy = "A full-size base is loaded through main memory: close other programs, or the machine will swap."
        yield Finding("note", f"{free / 1e9:.1f} GB of main memory are free", remedy)


def disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free / 1e9
    if free < 5:
        yield Finding("problem", f"{free:.1f} GB free here", "Free some space: ten SDXL epochs take up to 3 GB.")
    else:
        yield Finding("ok", f"{free:.0f} GB free here")


def toybox() -> Iterator[Finding]:
    from trainer.toybox import PARTS

    missing = [name for name, path in PARTS.items() if not path.is_dir()]
    if missing:
        remedy = "Install the project again, or build them with `python -m trainer.toybox.build all`."
        yield Finding("problem", f"toybox parts are missing: {', '.join(missing)}", remedy)
    else:
        yield Finding("ok", f"toybox: {', '.join(PARTS)}")


CHECKS = [python, torch_device, hugging_face_datasets, libraries, eight_bit, xformers, memory, disk, toybox]


def examine() -> list[Finding]:
    return [finding for check in CHECKS for finding in check()]
