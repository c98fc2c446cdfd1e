"""Where faces are, by an ONNX detector that the user has put into `models/faces/`.

Two layouts, told apart by their outputs, both with an input [1, 3, height, width]:

- YOLOv8 and YOLO11 with the one class "face", as ultralytics exports ADetailer's `face_yolov8n.pt`, and as
  huggingface.co/deepghs/anime_face_detection has them: RGB in [0, 1], padded with grey; one output [1, 5, places] of
  centre, width and height in pixels of the input, and a probability.
- YuNet, github.com/opencv/opencv_zoo (Wu et al. 2023, doi 10.1007/s11633-023-1423-y): BGR from 0 to 255, padded with
  black; for the strides 8, 16 and 32 `cls_8` and `obj_8` [1, places, 1] and `bbox_8` [1, places, 4], row by row, the
  centre as distance from the place in strides, the size as logarithm of strides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from trainer.dataset import sessions
from trainer.dataset.buckets import Box
from trainer.dataset.names import shown
from trainer.errors import UserError

FOLDER = Path("models/faces")
SIDE = 640
"""Input side, px, where the export leaves it open."""
STRIDES = (8, 16, 32)
MOST = 300
"""Candidates that are looked at, the surest ones."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face; `box` in pixels of the picture."""

    box: Box
    score: float
    """Probability, 0 to 1."""

    @property
    def side(self) -> int:
        """Its longer side, px."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


def located(where: str = "") -> Path:
    """The detector's file: the one named, else the first in FOLDER.

    Raises UserError with the place and where models come from when there is none.
    """
    found = [Path(where)] if where else sorted(FOLDER.glob("*.onnx"))
    if not found or not found[0].is_file():
        place = found[0] if found else FOLDER / "face_detect_v1.4_s.onnx"
        raise UserError(
            f"Looking for faces needs a detector, and there is none at {shown(place)}: put one there, for drawings "
            f"model.onnx of huggingface.co/deepghs/anime_face_detection/tree/main/face_detect_v1.4_s, for photographs "
            f"face_detection_yunet_2023mar.onnx of github.com/opencv/opencv_zoo."
        )
    return found[0]


class Faces:
    """A loaded detector; `where` as for `located`. Raises UserError when it is not there or of another kind."""

    def __init__(self, where: str = ""):
        path = located(where)
        self.name = path.name
        self._see = sessions.Seer(path, SIDE)
        outputs = self._see.outputs
        layout = YUNET if set(outputs) >= YUNET_OUTPUTS else YOLO if len(outputs) == 1 else None
        if layout is None:
            raise self._other(f"gives {', '.join(outputs)[:80]}")
        self._layout = layout

    def find(self, picture: Image.Image) -> list[Face]:
        """Every face in an RGB picture, the largest first."""
        import numpy as np

        layout = self._layout
        scale = min(self._see.width / picture.width, self._see.height / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        sheet = Image.new("RGB", (self._see.width, self._see.height), (layout.padding,) * 3)
        sheet.paste(picture.resize(size, Image.Resampling.BILINEAR), (0, 0))
        outputs = self._see(layout.pixels(np.asarray(sheet, np.float32)))
        try:
            rows = layout.read(outputs, self._see.width)
        except (ValueError, IndexError) as error:
            raise self._other(str(error)) from error
        rows = rows[np.isfinite(rows).all(axis=1) & (rows[:, 4] >= layout.threshold)]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")][:MOST]
        found = []
        for row in _apart(rows, layout.overlap):
            corners = np.concatenate([row[:2] - row[2:4] / 2, row[:2] + row[2:4] / 2])
            corners = corners / np.array([size[0] / picture.width, size[1] / picture.height] * 2)
            box = tuple(int(v) for v in np.clip(corners.round(), 0, [*picture.size] * 2))
            if box[2] > box[0] and box[3] > box[1]:
                found.append(Face(box, float(row[4])))
        return sorted(found, key=lambda face: -face.side)

    def _other(self, what: str) -> UserError:
        return UserError(
            f"{shown(self._see.path)} {what}, which is no face detector that can be used: take a YOLOv8 or YOLO11 "
            f"export with one class and without NMS, or YuNet of 2023."
        )


@dataclass(frozen=True)
class Layout:
    """How one kind of network is fed and read."""

    padding: int
    pixels: Callable
    """RGB float32 [h, w, 3] of 0 to 255 -> the same as the network wants it."""
    read: Callable
    """(outputs by name, input width in px) -> rows (centre x, centre y, width, height, score) in input pixels."""
    threshold: float
    overlap: float
    """Share of two boxes' union that they may have in common, above which they are one face."""


def _read_yolo(outputs: Mapping, _):
    (answer,) = outputs.values()
    if answer.ndim != 3 or answer.shape[1] != 5:
        raise ValueError(f"gives values of shape {list(answer.shape)}")
    return answer[0].T


def _read_yunet(outputs: Mapping, width: int):
    import numpy as np

    rows = []
    for stride in STRIDES:
        # Nothing in the graph keeps them below 1.
        kind, thing = (np.clip(outputs[f"{name}_{stride}"].reshape(-1), 0, 1) for name in ("cls", "obj"))
        boxes = outputs[f"bbox_{stride}"].reshape(-1, 4)
        down, across = np.divmod(np.arange(len(boxes)), width // stride)
        centre = (np.stack([across, down], 1) + boxes[:, :2]) * stride
        sizes = np.exp(np.minimum(boxes[:, 2:], 20)) * stride
        rows.append(np.concatenate([centre, sizes, np.sqrt(kind * thing)[:, None]], 1))
    return np.concatenate(rows)


# Thresholds and overlaps are those of ADetailer and OpenCV Zoo.
YOLO = Layout(114, lambda pixels: pixels / 255, _read_yolo, 0.3, 0.7)
YUNET = Layout(0, lambda pixels: pixels[:, :, ::-1], _read_yunet, 0.6, 0.3)
YUNET_OUTPUTS = {f"{name}_{stride}" for name in ("cls", "obj", "bbox") for stride in STRIDES}


def _apart(rows, overlap: float) -> list:
    """Of rows that lie on one another the first, which is the surest (non-maximum suppression)."""
    kept: list = []
    for row in rows:
        if all(_shared(row, other) <= overlap for other in kept):
            kept.append(row)
    return kept


def _shared(one, other) -> float:
    """Intersection over union of two boxes (centre, size)."""
    sides = [min(one[a] + one[a + 2] / 2, other[a] + other[a + 2] / 2) for a in (0, 1)]
    starts = [max(one[a] - one[a + 2] / 2, other[a] - other[a + 2] / 2) for a in (0, 1)]
    both = max(0.0, sides[0] - starts[0]) * max(0.0, sides[1] - starts[1])
    return both / max(one[2] * one[3] + other[2] * other[3] - both, 1e-9)
