"""How states, times and sizes are written, the same on the command line and in the studio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

MARKS = {
    "queued": "◌",
    "preparing": "●",
    "training": "●",
    "stopped": "■",
    "finished": "✔",
    "failed": "✖",
    "interrupted": "!",
}


def duration(seconds: float) -> str:
    """72 -> "1 min 12 s"; 5400 -> "1 h 30 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s" if seconds < 600 else f"{round(seconds / 60)} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def file_size(path: Path) -> str:
    """File size as people say it, in powers of 1000."""
    return size(path.stat().st_size)


def size(amount: float) -> str:
    """Bytes as people say them: 13655414 -> "13.7 MB"."""
    for unit in ("B", "KB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"


def about(member: Callable) -> str:
    """The help of a registry's member: its docstring as one paragraph."""
    return " ".join((member.__doc__ or "").split())


def base_name(base: str) -> str:
    """A base model as it is called: a file or folder without its way, a hub id or toybox/sd15 as it is."""
    path = Path(base)
    if path.suffix.lower() in (".safetensors", ".ckpt"):
        return path.stem
    return path.name if path.is_absolute() or path.is_dir() else base
