"""SmilingWolf's WD taggers (v1.4, v2, v3): Danbooru tags from an ONNX model.

A model is a folder with `model.onnx` and `selected_tags.csv` (columns tag_id, name, category, count; one row
an output, in order). Input: float32 [batch, size, size, 3], channels blue-green-red, 0 to 255. Output: one
probability a tag, [batch, tags]. https://huggingface.co/SmilingWolf/wd-vit-tagger-v3
"""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from trainer.dataset import captions, images, sessions
from trainer.dataset.ahead import ahead
from trainer.dataset.names import shown
from trainer.errors import UserError
from trainer.taggers.base import DEFAULTS, Tagger, TagOptions, Tags
from trainer.taggers.sources import located

# Danbooru's categories, as the CSV numbers them; 9 is SmilingWolf's for the ratings.
GENERAL, CHARACTER, RATING = 0, 4, 9
MODEL, LABELS = "model.onnx", "selected_tags.csv"
SIZE = 448
"""Input side of all released models, for exports that leave it open."""


def wd14(where: str) -> Tagger:
    """WD tagger (booru tags): a folder with model.onnx and selected_tags.csv, or a hub id.

    Raises UserError, with the layout that is needed, when the model is not there or is no WD tagger.
    """
    return WD14(located(where, ((MODEL,), (LABELS,)), _layout))


class WD14:
    """A loaded model; runs on CUDA where this onnxruntime offers it, else on the CPU."""

    def __init__(self, folder: Path, batch_size: int = 8):
        folder = Path(folder)
        self.name = folder.name
        self.labels = _read_labels(folder / LABELS)
        self._session = sessions.opened(folder / MODEL)
        inputs, outputs = self._session.get_inputs()[0], self._session.get_outputs()[0]
        self._input = inputs.name
        self.size, fixed_batch = _input_size(inputs.shape, folder)
        self.batch_size = fixed_batch or batch_size
        self._pads = bool(fixed_batch)
        self._check_width(outputs.shape[-1], folder)

    def tag(
        self,
        paths: Sequence[Path],
        options: TagOptions = DEFAULTS,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[Path, Tags]]:
        """See `Tagger.tag`. Pictures are read, scaled and stacked on threads, and the model runs on one of its own, so
        that it waits neither for them nor for whoever writes its answers down."""
        writer = _Writer(self.labels, options)
        workers = min(32, os.cpu_count() or 1)  # a graphics card wants every core
        prepared = ahead(self._prepare, paths, workers=workers, depth=2 * max(self.batch_size, workers))
        stacked = ahead(self._stack, _chunks(prepared, self.batch_size), workers=1, depth=2)
        done = 0
        for batch, rows in ahead(self._answer, stacked, workers=1, depth=2):
            for path, row in zip(batch, rows, strict=True):
                yield path, writer.tags(row)
            done += len(batch)
            if progress:
                progress(done, len(paths))

    def _prepare(self, path: Path):
        return path, prepare(images.open_rgb(path), self.size)

    def _stack(self, batch: list):
        """(paths, their pixels [batch, side, side, 3])."""
        import numpy as np

        paths, pixels = map(list, zip(*batch))
        if self._pads:  # an export with a fixed batch takes no smaller one
            pixels += [pixels[-1]] * (self.batch_size - len(paths))
        return paths, np.stack(pixels)

    def _answer(self, batch: tuple):
        paths, pixels = batch
        return paths, self._run(pixels)[: len(paths)]

    def _run(self, pixels):
        """Probabilities [batch, tags], float32, of pixels [batch, side, side, 3]."""
        rows = self._session.run(None, {self._input: pixels})[0]
        if rows.shape[1] != len(self.labels) or not (rows.min() >= 0 and rows.max() <= 1):
            raise UserError(
                f"The tagger {shown(self.name)} gave {rows.shape[1]} values from {rows.min():.3g} to "
                f"{rows.max():.3g} for {len(self.labels)} tags, and a WD14 model gives probabilities: "
                f"take a model of that family."
            )
        return rows

    def _check_width(self, width, folder: Path) -> None:
        if isinstance(width, int) and width != len(self.labels):
            raise UserError(
                f"{shown(folder / LABELS)} names {len(self.labels)} tags and the model beside it gives "
                f"{width}: take both files from the same model."
            )


def prepare(picture, size: int):
    """An RGB picture as the model's input: float32 [size, size, 3], BGR, 0 to 255.

    Padded to a square with white, then resized (bicubic), as the models were trained.
    """
    import numpy as np
    from PIL import Image

    side = max(picture.size)
    square = Image.new("RGB", (side, side), (255, 255, 255))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    if side != size:
        # Photographs are halved until they are three times as large as they shall be, which no one can tell.
        square = square.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(square, dtype=np.float32)[:, :, ::-1])


def written(tag: str, *, spaces: bool = True, escape: bool = True) -> str:
    r"""The tag as it goes into a caption.

    >>> written("fate_(series)"), written(">_<"), written("blue_hair", spaces=False)
    ('fate \\(series\\)', '>_<', 'blue_hair')
    """
    if spaces and not _is_face(tag):
        tag = tag.replace("_", " ")
    return re.sub(r"(?<!\\)([()])", r"\\\1", tag) if escape else tag


def _is_face(tag: str) -> bool:
    """`^_^`, `>_<`, `o_o`, `|_|`, `(o)_(o)`: nowhere two letters or digits side by side, as words have."""
    return not re.search(r"[^\W_]{2}", tag)


class _Writer:
    """Turns rows of probabilities into tags; what depends on the options alone is worked out once."""

    def __init__(self, labels: list[tuple[str, int]], options: TagOptions):
        self._ratings = [index for index, (_, category) in enumerate(labels) if category == RATING]
        self._limits = _limits(labels, options)
        self._options = options
        unwanted = {captions.same(tag) for tag in options.exclude}
        replacements = {captions.same(old): new for old, new in options.replace.items()}
        self._texts = []
        for name, _ in labels:
            key = captions.same(name)
            text = written(name, spaces=options.spaces, escape=options.escape)
            self._texts.append("" if key in unwanted else replacements.get(key, text))

    def tags(self, row) -> Tags:
        """`row`: probabilities [tags]."""
        import numpy as np

        keep = row >= self._limits
        if self._options.ratings and self._ratings:
            keep[max(self._ratings, key=lambda index: row[index])] = True
        chosen = np.flatnonzero(keep)
        # Stable: equal probabilities stay in the order of the CSV, so results do not vary.
        chosen = chosen[np.argsort(-row[chosen], kind="stable")]
        return [(self._texts[index], float(row[index])) for index in chosen if self._texts[index]]


def _limits(labels: list[tuple[str, int]], options: TagOptions):
    """Least probability of each label, float32 [tags]; ratings are chosen otherwise and have none."""
    import numpy as np

    table = {RATING: np.inf, CHARACTER: options.character_threshold}
    return np.array([table.get(category, options.threshold) for _, category in labels], dtype=np.float32)


def _chunks(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk


# --- where the model is ---


def _layout(folder: Path) -> str:
    return (
        f"put {MODEL} and {LABELS} of a WD14 tagger there, as {shown(folder / MODEL)} and "
        f"{shown(folder / LABELS)} (for example from huggingface.co/SmilingWolf/wd-vit-tagger-v3)."
    )


# --- the files ---


def _read_labels(path: Path) -> list[tuple[str, int]]:
    """(name, category) of each output, in order."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            labels = [(row["name"], int(row["category"])) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{shown(path)} is not a WD14 tag list, a UTF-8 CSV with the columns tag_id,name,category,count: "
            f"fetch it again from where the model is from."
        ) from error
    if not labels:
        raise UserError(f"{shown(path)} names no tags: fetch it again from where the model is from.")
    return labels


def _input_size(shape: Sequence, folder: Path) -> tuple[int, int]:
    """(side, batch size that the export is fixed to or 0) from an input shape [batch, side, side, 3].

    Sides that the export leaves open are names or None.
    """
    numbers = [length if isinstance(length, int) else 0 for length in shape]
    if len(numbers) != 4 or numbers[3] not in (0, 3) or numbers[1] != numbers[2]:
        raise UserError(
            f"{shown(folder / MODEL)} takes an input of shape {shape}, and a WD14 tagger's is "
            f"[batch, side, side, 3]: take a model of that family."
        )
    return numbers[1] or SIZE, numbers[0]
