"""Does the recommendation find the good epoch? Twenty toybox runs whose truth is known.

    python benchmarks/recommend.py --work FOLDER [--only 3] [--jobs 2]

Trains, renders and scores twenty runs of different characters, families, seeds, ranks and learning rates, some of
them overcooked on purpose, then compares the recommended epoch's fidelity with the best epoch's. Fidelity is the
drawn world's own measure, here of twelve pictures an epoch, and takes no part in the recommendation. What is trained
and rendered already in the work folder is only scored anew; `--again` recommends anew from the scores that are there,
which is how recommend.py's constants were set: on the first ten runs (SETTLED_ON), so that the others can tell.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLOSE = 0.05  # how much less fidelity than the best epoch's still counts as found
SETTLED_ON = 10  # runs by which the constants were chosen; the others confirm


def plan() -> list[dict]:
    """Family, character and overrides of each run. Rates of 4e-3, and a constant one for long, overcook."""
    rows = []
    ways = [
        {"optimizer.learning_rate": 3e-3, "adapter.rank": 32, "adapter.alpha": 32},
        {"optimizer.learning_rate": 1.5e-3, "adapter.rank": 32, "adapter.alpha": 32, "data.repeats": 16},
        {"optimizer.learning_rate": 3e-3, "adapter.rank": 16, "adapter.alpha": 16, "optimizer.schedule": "constant"},
        {"optimizer.learning_rate": 4e-3, "adapter.rank": 32, "adapter.alpha": 32, "optimizer.schedule": "constant"},
        {"optimizer.learning_rate": 3e-3, "adapter.rank": 64, "adapter.alpha": 64, "data.repeats": 20}
        | {"optimizer.schedule": "constant"},
    ]
    who = [("sdxl", "moss"), ("sd15", "cog"), ("sdxl", "buzzle"), ("sd15", "moss")]
    for number, (family, character) in enumerate(who):
        for turn, way in enumerate(ways):
            seed = 100 * number + turn
            own = {"data.repeats": 12, "evaluation.seeds": [1, 2, 3], "loop.seed": seed}
            rows.append({"family": family, "character": character, "set": own | way})
    return rows


def make(number: int, work: Path) -> Path:
    """Train and render one of the runs. Returns the run's folder."""
    from trainer import demo, presets
    from trainer.evaluate import evaluate
    from trainer.loop import train
    from trainer.run import Run
    from trainer.toybox import PARTS, PICTURES

    row = plan()[number]
    home = work / f"{number:02d}"
    home.mkdir(parents=True, exist_ok=True)
    os.chdir(home)
    folder = demo.copy_pictures(PICTURES[row["character"]], home / "datasets" / row["character"])
    demo.tag(folder, PARTS["tagger"], row["character"])
    own = {
        "name": row["character"],
        "model.base": f"toybox/{row['family']}",
        "data.folder": str(folder),
        "data.trigger": row["character"],
        "evaluation.prompts": str(presets.SHIPPED / "prompts" / "toybox.toml"),
    }
    preset = presets.load(str(presets.SHIPPED / "toybox.toml"))
    found = sorted((home / "runs").glob("*"))
    run = Run.open(str(found[-1])) if found else Run.create(presets.layer(preset.values, own | row["set"]))
    if run.status.state != "finished":
        train(run)
    evaluate(run, run.config.evaluation, clip=str(PARTS["clip"]))
    return run.path


def judge(number: int, work: Path) -> dict | None:
    """Recommended and best epoch of a finished run, by what the scores say now; None where there is none yet."""
    from trainer import demo
    from trainer.cells import Evaluation
    from trainer.recommend import recommend

    folders = sorted((work / f"{number:02d}").glob("runs/*/evaluations/*/scores.json"))
    if not folders:
        return None
    folder = folders[-1].parent
    kept = work / f"{number:02d}" / "fidelity.json"
    evaluation = Evaluation.load(folder)
    if not kept.exists():
        kept.write_text(json.dumps(demo.fidelities(evaluation, folder, plan()[number]["character"])))
    fidelity = {int(epoch): value for epoch, value in json.loads(kept.read_text()).items()}
    said = recommend(evaluation.rows) or {"epoch": evaluation.epochs[-1], "reason": "nothing recommended"}
    best = max(fidelity, key=fidelity.get)
    return {
        "number": number,
        "chosen": said["epoch"],
        "best": best,
        "fidelity": fidelity[said["epoch"]],
        "most": fidelity[best],
        "reason": said["reason"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", type=int, help="make only this run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, a process each")
    parser.add_argument("--again", action="store_true", help="judge what is there")
    options = parser.parse_args()
    work = options.work.resolve()
    if options.only is not None:
        make(options.only, work)
        return
    todo = [] if options.again else list(range(len(plan())))
    while todo:
        batch, todo = todo[: options.jobs], todo[options.jobs :]
        command = [sys.executable, __file__, "--work", str(work), "--only"]
        started = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in batch]
        if any(process.wait() for process in started):
            sys.exit(1)
    found = [judged for number in range(len(plan())) if (judged := judge(number, work))]
    for one in found:
        mark = "✓" if one["fidelity"] >= one["most"] - CLOSE else "✗"
        print(
            f"{mark} {one['number']:2d}  epoch {one['chosen']:2d} at {one['fidelity']:.2f}, "
            f"best {one['best']:2d} at {one['most']:.2f}  {one['reason']}"
        )
    for name, part in (("settled on", found[:SETTLED_ON]), ("confirming", found[SETTLED_ON:]), ("all", found)):
        gaps = [one["most"] - one["fidelity"] for one in part]
        if gaps:
            close, mean = sum(gap <= CLOSE for gap in gaps), sum(gaps) / len(gaps)
            print(f"{name}: {close} of {len(gaps)} within {CLOSE} of the best epoch, {mean:.3f} below it on average")


if __name__ == "__main__":
    main()
