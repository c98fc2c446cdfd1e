"""Writes the crops that were drawn by hand: `python -m studio.cutting FOLDER TO [--only]`, as a job of the studio."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from trainer.dataset import byhand
from trainer.errors import UserError
from trainer.files import write_json

BOXES = Path(".studio") / "boxes"
"""One file a folder of datasets/: {relative name: [left, top, right, bottom]}."""


def main(folder: Path, to: Path, *, others: bool) -> int:
    """Exit code; the boxes are forgotten once the new folder is whole."""
    drawn = BOXES / f"{folder.name}.json"
    try:
        boxes = json.loads(drawn.read_text(encoding="utf-8"))
        there = {name: box for name, box in boxes.items() if (folder / name).is_file()}
        made = byhand.crop(folder, to, there, others=others, progress=_report)
    except UserError as error:
        print(f"lora-studio: {error}")
        return 1
    drawn.unlink(missing_ok=True)
    print(f"Made {len(made)} pictures in {to}.")
    return 0


def _report(done: int, total: int) -> None:
    path = os.environ.get("LORA_STUDIO_PROGRESS")
    if path and (done % 10 == 0 or done == total):
        write_json(Path(path), {"done": done, "total": total})


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), others="--only" not in sys.argv[3:]))
