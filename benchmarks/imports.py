"""What each library adds to the memory of a process on Linux: read from /proc/self/smaps_rollup, printed as a table.

python benchmarks/imports.py                 one after the other, as a training imports them
python benchmarks/imports.py --apart         each in a process of its own, torch being there
python benchmarks/imports.py scipy streamlit  these
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from pathlib import Path

TRAINING = "torch accelerate datasets trainer.loop diffusers.models.unets transformers peft torch.utils.tensorboard"
HEADER = "| | MB | of these its own pages | seconds | modules |\n|---|--:|--:|--:|--:|"


def held() -> tuple[float, float]:
    """MB of 10⁶ bytes: all that is resident, and what of it belongs to no file."""
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    sizes = {words[0].rstrip(":"): int(words[1]) * 1024 / 1e6 for words in lines}
    return sizes["Rss"], sizes["Anonymous"]


def row(name: str) -> str:
    started, modules, (resident, anonymous) = time.perf_counter(), len(sys.modules), held()
    importlib.import_module(name)
    now, own = held()
    seconds = time.perf_counter() - started
    return f"| {name} | {now - resident:.0f} | {own - anonymous:.0f} | {seconds:.1f} | {len(sys.modules) - modules} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=TRAINING.split())
    parser.add_argument("--apart", action="store_true", help="each in a process of its own")
    arguments = parser.parse_args()
    if not arguments.apart:
        print(HEADER, *map(row, arguments.names), sep="\n")
        return
    print(HEADER)
    for name in arguments.names:
        code = f"import imports, torch; print(imports.row({name!r}))"
        print(subprocess.check_output([sys.executable, "-c", code], cwd=Path(__file__).parent, text=True).strip())


if __name__ == "__main__":
    main()
