"""A finished run with a comparison of drawn squares, for the pages that show one."""

from PIL import Image

from trainer import presets, report
from trainer.cells import Evaluation, Prompt, Rendered, Row
from trainer.run import Progress, Run


def make_comparison(epochs: int = 2, more: tuple[str, ...] = ()) -> Run:
    """A finished run whose comparison holds drawn squares, of one prompt and of those in `more`."""
    run = Run.create(presets.layer({"name": "moss", "data.trigger": "moss"}))
    for number in range(1, epochs + 1):
        run.epoch_path(number).write_bytes(b"LoRA")
    run.write_status("finished", "", Progress(epoch=epochs, epochs=epochs, step=8, steps=8))
    folder = run.evaluation_folder("character")
    cells, rows = [], []
    for epoch in range(epochs + 1):
        rows.append(Row(epoch, 1.0, {"likeness": epoch / 10, "bleed": 0.1}))
        for seed in (1, 2):
            file = f"cells/{epoch}-{seed}.png"
            (folder / "cells").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (epoch * 40, seed * 40, 90)).save(folder / file)
            cells += [Rendered(name, epoch, 1.0, seed, file, "moss\nSteps: 20") for name in ("portrait", *more)]
    prompts = [Prompt("portrait", "moss, <b>portrait</b>"), *(Prompt(name, f"moss, {name}") for name in more)]
    evaluation = Evaluation(
        run.name, "moss", {}, prompts, [1, 2], [1.0],
        list(range(epochs + 1)), cells, rows, {"epoch": 2, "strength": 1.0, "reason": "Likeness has *stopped* rising."},
    )  # fmt: skip
    evaluation.save(folder)
    report.write_report(evaluation, folder)
    return run
