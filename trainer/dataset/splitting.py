"""Hold pictures back for validation, honestly: what shows the same stays on one side."""

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from trainer import files
from trainer.dataset import captions, duplicates, masks
from trainer.dataset.images import Picture
from trainer.dataset.names import shown
from trainer.errors import UserError


def split(pictures: Sequence[Picture], share: float, *, seed: int = 0) -> tuple[list[Picture], list[Picture]]:
    """(for training, held out), each in the order given.

    A picture and its near duplicates are one group, and groups are drawn whole, so that a validation loss is not
    taken on pictures that were learned. `share`: of the pictures, 0 to 1, met as nearly as groups allow, but at
    least one picture on each side. The same (pictures, share, seed) always gives the same split. Raises UserError
    for a share that leaves one side empty, and when all pictures show the same.
    """
    if not 0 < share < 1:
        raise UserError(f"The share held out is {share:g}: give one between 0 and 1, such as 0.1.")
    grouped = duplicates.grouped(pictures)
    inside = {picture.path for group in grouped for picture in group}
    groups = grouped + [[picture] for picture in pictures if picture.path not in inside]
    if len(groups) < 2:
        raise UserError("There are not two pictures that show something different, so none can be held out: add some.")
    # By content, so that names and order of files do not change the draw.
    groups.sort(key=lambda group: min(picture.digest for picture in group))
    random.Random(f"held out/{seed}").shuffle(groups)
    wanted = share * len(pictures)
    held: set = set()
    for place, group in enumerate(groups):
        better = abs(len(held) + len(group) - wanted) < abs(len(held) - wanted)
        others = sum(map(len, groups)) - len(held) - len(group)
        if others and (better or (not held and place == len(groups) - 1)):
            held |= {picture.path for picture in group}
    if not held:
        held = {picture.path for picture in min(groups, key=len)}
    return [p for p in pictures if p.path not in held], [p for p in pictures if p.path in held]


def check_target(folder: Path, to: Path) -> None:
    """Raises UserError unless `to` is a new or empty folder outside of the one that is read."""
    folder, to = Path(folder).resolve(), Path(to).resolve()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{shown(to)} is there already: name a new folder, so that nothing is written over.")
    if to == folder or folder in to.parents:
        raise UserError(f"{shown(to)} lies in the folder that the pictures are taken from: name one outside.")


def copy(folder: Path, to: Path, sides: Mapping[str, Sequence[Path]]) -> None:
    """Copy each side's pictures, captions and masks to `to/SIDE/`; `to` is whole or not there.

    `to/split.json` says what is where.
    """
    folder, to = Path(folder), Path(to)
    check_target(folder, to)
    with files.new_folder(to) as part:
        for side, paths in sides.items():
            for path in paths:
                for source in [path, *(captions.sidecar(path, ending) for ending in (".txt", ".caption"))]:
                    if source.exists():
                        files.write_with(part / side / source.relative_to(folder), partial(_fill, source))
                if mask := masks.of(folder, path):
                    there = masks.path(part / side, part / side / path.relative_to(folder))
                    files.write_with(there, partial(_fill, mask))
        names = {side: [path.relative_to(folder).as_posix() for path in paths] for side, paths in sides.items()}
        # Escaped, because a name need not be Unicode.
        files.write_text(part / "split.json", json.dumps({"source": str(folder.resolve())} | names, indent=2) + "\n")


def _fill(source: Path, temporary: Path) -> None:
    shutil.copyfile(source, temporary)
