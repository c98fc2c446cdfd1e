"""What is subject and what is background: rembg's models, from where rembg keeps them.

A network sees the whole picture at one size and gives one value a pixel, [1, 1, side, side]. Sizes, means and
deviations are those of rembg's sessions, which belong to the files: https://github.com/danielgatis/rembg. U²-Net: Qin
et al. 2020 (arXiv 2005.09007), IS-Net: Qin et al. 2022 (2203.03041), BiRefNet: Zheng et al. 2024 (2401.03407).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from trainer.dataset import sessions
from trainer.dataset.names import shown
from trainer.errors import UserError, nearest

MEAN = (0.485, 0.456, 0.406)
RELEASES = "github.com/danielgatis/rembg/releases/tag/v0.0.0"


@dataclass(frozen=True)
class Layout:
    """What a model file wants and gives."""

    side: int
    """px of the square that the picture is scaled to."""
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """By which red, green and blue are divided, once MEAN is taken off."""
    logits: bool = False
    """Gives values that become probabilities by a sigmoid."""


_ISNET = Layout(1024, (1.0, 1.0, 1.0))
_BIREFNET = Layout(1024, logits=True)
MODELS: dict[str, Layout] = {
    "u2net": Layout(320),
    "u2netp": Layout(320),
    "u2net_human_seg": Layout(320),
    "silueta": Layout(320),
    "isnet-general-use": _ISNET,
    "isnet-anime": _ISNET,
    "birefnet-general": _BIREFNET,
    "birefnet-general-lite": _BIREFNET,
    "birefnet-portrait": _BIREFNET,
    "birefnet-dis": _BIREFNET,
    "birefnet-hrsod": _BIREFNET,
    "birefnet-cod": _BIREFNET,
    "birefnet-massive": _BIREFNET,
}
"""rembg's names, which are also those of the files (`u2net.onnx`)."""


def home() -> Path:
    """The folder in which rembg keeps its models."""
    folder = os.environ.get("U2NET_HOME") or os.path.join(os.environ.get("XDG_DATA_HOME") or "~", ".u2net")
    return Path(folder).expanduser()


def located(where: str) -> Path:
    """The file that a name of MODELS, or a path to such a file, means.

    Raises UserError for an unknown name, and with the exact place when the file is not there.
    """
    named = where.endswith(".onnx")
    path = Path(where) if named else home() / f"{where}.onnx"
    if path.stem not in MODELS:
        hint = "name the file as rembg does, such as isnet-anime.onnx" if named else nearest(where, MODELS)
        raise UserError(f"Unknown model '{shown(where)}' for removing the background: {hint}")
    if not path.is_file():
        raise UserError(
            f"The model {path.stem} for removing the background is not there: put {path.name} from {RELEASES} at "
            f"{shown(path)}."
        )
    return path


class Background:
    """A loaded model; `where` as for `located`. Raises UserError when it is not there or is something else."""

    def __init__(self, where: str):
        path = located(where)
        self.name = path.stem
        self._layout = MODELS[path.stem]
        self._see = sessions.Seer(path, self._layout.side)

    def mask(self, picture: Image.Image) -> Image.Image:
        """Mode L in the picture's size: 255 where the subject is, 0 where the background is.

        Where the model tells nothing apart, all of it counts as subject.
        """
        import numpy as np

        small = picture.convert("RGB").resize((self._see.width, self._see.height), Image.Resampling.LANCZOS)
        pixels = np.asarray(small, np.float32)
        pixels = pixels / max(float(pixels.max()), 1e-6)  # by the brightest, as rembg does
        outputs = self._see((pixels - np.float32(MEAN)) / np.float32(self._layout.deviation))
        answer = next(iter(outputs.values()))  # U²-Net gives its inner maps after it
        if answer.ndim != 4 or answer.shape[0] != 1 or min(answer.shape[2:]) < 2:
            raise UserError(
                f"{shown(self._see.path)} gives values of shape {list(answer.shape)} and {self.name} gives "
                f"[1, 1, side, side]: fetch it again from {RELEASES}."
            )
        values = answer[0, 0].astype(np.float64)
        if self._layout.logits:
            values = 1 / (1 + np.exp(-values))
        low, high = values.min(), values.max()
        if not high - low > 1e-6:  # also when there are NaNs
            return Image.new("L", picture.size, 255)
        grey = Image.fromarray(((values - low) / (high - low) * 255).astype(np.uint8))
        return grey.resize(picture.size, Image.Resampling.LANCZOS)
