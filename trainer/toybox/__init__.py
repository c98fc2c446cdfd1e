"""The toybox: a drawn miniature world and the small models trained on it, which everyone has.

Importing this package loads neither torch nor Pillow; the models are ordinary diffusers, transformers and
ONNX folders, and whatever reads a 7 GB checkpoint reads them the same way. `MODELCARD.md` tells more.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE / "weights"

# The two bases have no vae/ of their own: they share the one beside them.
PARTS: dict[str, Path] = {name: ROOT / name for name in ("sd15", "sdxl", "vae", "tagger", "clip")}

# What no base has seen: characters first, then styles. Twelve drawn pictures each.
CHARACTERS = ("moss", "buzzle", "cog")
STYLES = ("blueprint", "pastel", "neon")
PICTURES: dict[str, Path] = {name: HERE / "pictures" / name for name in (*CHARACTERS, *STYLES)}


def located(path: str | Path) -> Path:
    """The folder meant by `toybox/NAME`; any other path as it is, `~` unfolded."""
    name = str(path).removeprefix("toybox/")
    return PARTS[name] if str(path).startswith("toybox/") and name in PARTS else Path(path).expanduser()
