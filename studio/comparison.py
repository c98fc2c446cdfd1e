"""The grid of a comparison as a table: epochs or strengths down, prompts across, scores beside them."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import streamlit as st

from studio import charts, fullsize, panels
from studio.language import _
from studio.text import escape
from trainer.cells import Evaluation, Prompt, Rendered, is_base
from trainer.grid import METRICS, Table, metric_label, row_label

THUMBNAIL = 256  # longest side of a picture in the grid, px
STYLE = """<style>
.grid-of-epochs-frame { overflow-x: auto; }
.grid-of-epochs { width: 100%; border-collapse: separate; border-spacing: 0 6px; table-layout: fixed; }
.grid-of-epochs th { font-weight: 600; font-size: .8rem; text-align: left; padding: 2px 4px; opacity: .8;
  overflow-wrap: break-word; vertical-align: bottom; }
.grid-of-epochs th.head { width: 5.6rem; }
.grid-of-epochs th.score { width: 4.3rem; text-align: right; cursor: help; }
.grid-of-epochs th small { display: block; font-weight: 400; }
.grid-of-epochs td { padding: 4px; vertical-align: middle; }
.grid-of-epochs td.score { text-align: right; font-variant-numeric: tabular-nums; font-size: .85rem; }
.grid-of-epochs tr.best td { background: rgba(0, 114, 178, .13); }
.grid-of-epochs tr.best td:first-child { border-radius: 8px 0 0 8px; }
.grid-of-epochs tr.best td:last-child { border-radius: 0 8px 8px 0; }
.grid-of-epochs td.row { font-weight: 600; font-size: .85rem; }
.grid-of-epochs td.row span { display: block; font-weight: 400; opacity: .75; font-size: .78rem; }
.grid-of-epochs button { display: block; width: 100%; max-width: 20rem; padding: 0; border: 0; background: none;
  cursor: zoom-in; border-radius: 6px; }
.grid-of-epochs img { width: 100%; display: block; border-radius: 6px; }
.grid-of-epochs .none { aspect-ratio: 1; border: 1px dashed rgba(128, 128, 128, .5); border-radius: 6px; }
.grid-of-epochs .bar { height: 4px; border-radius: 2px; background: rgba(128, 128, 128, .22); margin-top: 4px; }
.grid-of-epochs .bar i { display: block; height: 4px; border-radius: 2px; background: #2d8fd0; }
.grid-of-epochs .bar.low i { background: #e69f00; }
@media (max-width: 900px) {
  .grid-of-epochs { table-layout: auto; width: max-content; min-width: 100%; }
  .grid-of-epochs th:not(.head):not(.score) { width: 96px; min-width: 96px; max-width: 96px; }
  .grid-of-epochs td.row, .grid-of-epochs th.head { position: sticky; left: 0; z-index: 1; width: 4.6rem;
    background: var(--grid-ground); }
}
</style>"""


def show_grid(evaluation: Evaluation, folder: Path) -> None:
    """Every epoch at one strength and seed."""
    strength, seed = choose_axes(evaluation)
    table = Table(evaluation, strength, seed)
    rows = [head(table)]
    for epoch in table.epochs:
        best = not is_base(epoch) and table.recommended(epoch, strength)
        label, note = named(evaluation, epoch)
        rows.append(row(table, folder, epoch, strength, seed, label + " ★" * best, note, best))
    draw(rows)
    fullsize.serve(evaluation, folder, "grid")


def named(evaluation: Evaluation, epoch: int) -> tuple[str, str]:
    """What a row is called in the reader's language: a name and what is said beneath it."""
    name, note = row_label(epoch, evaluation.labels)
    known = not is_base(epoch) and epoch not in evaluation.labels
    return _("epoch {n}").format(n=epoch) if known else _(name), _(note)


def show_strengths(evaluation: Evaluation, folder: Path) -> None:
    """One epoch at every strength that was rendered."""
    epochs = [number for number in evaluation.epochs if not is_base(number)]
    best = evaluation.recommended or {}
    with st.container(horizontal=True):
        epoch = st.selectbox(
            _("Epoch"),
            epochs,
            key="strength epoch",
            width=240 if evaluation.labels else 140,
            format_func=lambda number: evaluation.labels.get(number, str(number)),
            index=epochs.index(best["epoch"]) if best.get("epoch") in epochs else len(epochs) - 1,
        )
        seed = choose_seed(evaluation, "strength seed")
    table = Table(evaluation, None, seed)
    base = evaluation.base_of(epoch)
    rows = [head(table), row(table, folder, base, 1.0, seed, *named(evaluation, base), False)]
    for strength in evaluation.strengths:
        chosen = table.recommended(epoch, strength)
        rows.append(row(table, folder, epoch, strength, seed, f"× {strength:g}" + " ★" * chosen, "", chosen))
    draw(rows)
    fullsize.serve(evaluation, folder, "strengths")


def show_scores(evaluation: Evaluation) -> None:
    """Each score over the epochs, a line for each strength."""
    table = Table(evaluation)
    best = (evaluation.recommended or {}).get("epoch")
    names = table.metrics()
    if not names:
        st.caption(_("Nothing has been scored yet."))
        return
    with st.grid(3, min_column_width=260):
        for name in names:
            rows = [
                {**place(evaluation, one.epoch), "strength": one.strength, "score": one.scores[name]}
                for one in evaluation.rows
                if not is_base(one.epoch) and one.scores.get(name) is not None
            ]
            text, better = metric_label(name)
            with st.container():
                st.markdown(f"**{escape(_(text))}**{arrow(better)}", help=escape(explain(name)) or None)
                charts.over_epochs(rows, best)


def place(evaluation: Evaluation, epoch: int) -> dict[str, int | str]:
    """Which epoch of which run a row's number stands for: those of a second run follow the first one's."""
    run, _space, number = evaluation.labels.get(epoch, f"{evaluation.run} {epoch}").rpartition(" ")
    return {"epoch": int(number), "run": run.removesuffix(" epoch")}


def explain(name: str) -> str:
    """What a score means, which way is better, and when not to believe it."""
    metric = METRICS.get(name)
    if metric is None:
        return ""
    way = {"higher": _("↑ higher is better."), "lower": _("↓ lower is better.")}.get(metric.better, "")
    return " ".join(filter(None, [_(metric.meaning), way, _("Careful:"), _(metric.misleads)]))


def arrow(better: str) -> str:
    return {"higher": " ↑", "lower": " ↓"}.get(better, "")


def draw(rows: list[str]) -> None:
    frame = f'class="grid-of-epochs-frame" tabindex="0" role="region" aria-label="{html.escape(_("Grid"))}"'
    ground = st.get_option(f"theme.{st.context.theme.type or 'light'}.backgroundColor") or "Canvas"
    table = f'<table class="grid-of-epochs">{"".join(rows)}</table>'
    st.html(f'{STYLE}<div style="--grid-ground: {ground}" {frame}>{table}</div>')


def choose_axes(evaluation: Evaluation) -> tuple[float, int]:
    """Which strength and seed the grid shows; nothing is asked where there is one of it."""
    strengths = evaluation.strengths
    best = (evaluation.recommended or {}).get("strength", 1.0)
    strength = best if best in strengths else strengths[0]
    with st.container(horizontal=True):
        if len(strengths) > 1:
            strength = st.segmented_control(
                _("Strength"), strengths, default=strength, required=True, format_func="{:g}".format, key="strength"
            )
        seed = choose_seed(evaluation, "seed")
    return strength, seed


def choose_seed(evaluation: Evaluation, key: str) -> int:
    seeds = sorted({cell.seed for cell in evaluation.cells}) or [1]
    if len(seeds) < 2:
        return seeds[0]
    return st.segmented_control(_("Seed"), seeds, default=seeds[0], required=True, key=key)


def head(table: Table) -> str:
    cells = [f'<th class="head">{html.escape(_("epoch"))}</th>']
    question = " " + _("(leak?)")
    for prompt in table.prompts:
        leak = question if prompt.leak else ""
        cells.append(f'<th title="{html.escape(prompt.prompt)}">{html.escape(prompt.name + leak)}</th>')
    for name in table.deciding():
        text, better = metric_label(name)
        title = html.escape(explain(name))
        cells.append(f'<th class="score" title="{title}">{html.escape(_(text))}{arrow(better)}</th>')
    return f"<tr>{''.join(cells)}</tr>"


def row(table: Table, folder: Path, epoch: int, strength: float, seed: int, label: str, note: str, best: bool) -> str:
    cells = [f'<td class="row">{html.escape(label)}<span>{html.escape(note)}</span></td>']
    for prompt in table.prompts:
        seeds = table.seeds(prompt)
        shown = table.cell(prompt, epoch, strength, seed if seed in seeds else seeds[0]) if seeds else None
        cells.append(f"<td>{picture(shown, table, prompt, folder)}</td>")
    scores = table.scores(epoch, 1.0 if is_base(epoch) else strength)
    for metric in table.deciding():
        cells.append(f'<td class="score">{score(table, metric, scores.get(metric))}</td>')
    return f'<tr class="{"best" if best else ""}">{"".join(cells)}</tr>'


def picture(cell: Rendered | None, table: Table, prompt: Prompt, folder: Path) -> str:
    """A button with the thumbnail inside, which opens it at full size; a dashed frame where there is no picture."""
    small = panels.thumbnail(folder / cell.file, THUMBNAIL) if cell is not None and inside(cell.file) else None
    if small is None:
        return f'<div class="none" title="{html.escape(_("not rendered"))}"></div>'
    data = base64.b64encode(small.read_bytes()).decode()
    image = f'<img src="data:image/webp;base64,{data}" alt="{html.escape(prompt.name)}">'
    strengths = table.evaluation.strengths
    strength = 0 if is_base(cell.epoch) or cell.strength not in strengths else strengths.index(cell.strength)
    place = f"[{cell.epoch},{strength},{table.prompts.index(prompt)},{cell.seed}]"
    return f'<button data-cell="{place}" title="{html.escape(cell.infotext or prompt.prompt)}">{image}</button>'


def inside(file: str) -> bool:
    """An index that somebody else wrote must not show files from outside of its folder."""
    return Path(file).parts[:1] == ("cells",) and ".." not in Path(file).parts


def score(table: Table, metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    low = "low" if metric_label(metric)[1] == "lower" else ""
    share = max(0.0, min(1.0, table.share(metric, value)))
    return f'{value:.2f}<div class="bar {low}"><i style="width:{share:.0%}"></i></div>'


def explain_grid() -> None:
    ways = [_("↑ higher is better."), _("↓ lower is better.")]
    others = _("All scores, and what they mean, are in the Scores tab.")
    st.caption(escape(" ".join([_("Click a picture to see it at full size."), *ways, others])))
