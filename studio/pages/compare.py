"""Compare: every epoch beside the base, scored, and the chosen one exported."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import streamlit as st

from studio import jobs, panels, places, state
from studio.language import _, plural
from studio.text import escape
from trainer import presets
from trainer.cells import BASE_EPOCH, Evaluation, Prompt, Rendered
from trainer.errors import UserError
from trainer.grid import Table, metric_label
from trainer.run import Run, slug

REFRESH = 2.0
THUMBNAIL = 256  # longest side of a picture in the grid, px
STYLE = """<style>
.grid-of-epochs { width: 100%; border-collapse: separate; border-spacing: 0 6px; table-layout: fixed; }
.grid-of-epochs th { font-weight: 600; font-size: .8rem; text-align: left; padding: 2px 4px; opacity: .75;
  overflow-wrap: anywhere; vertical-align: bottom; }
.grid-of-epochs th.head { width: 5.6rem; }
.grid-of-epochs th.score { width: 5.2rem; text-align: right; }
.grid-of-epochs td { padding: 4px; vertical-align: middle; }
.grid-of-epochs td.score { text-align: right; font-variant-numeric: tabular-nums; font-size: .85rem; }
.grid-of-epochs tr.best td { background: rgba(0, 114, 178, .13); }
.grid-of-epochs tr.best td:first-child { border-radius: 8px 0 0 8px; }
.grid-of-epochs tr.best td:last-child { border-radius: 0 8px 8px 0; }
.grid-of-epochs td.row { font-weight: 600; font-size: .85rem; }
.grid-of-epochs td.row span { display: block; font-weight: 400; opacity: .65; font-size: .78rem; }
.grid-of-epochs img { width: 100%; display: block; border-radius: 6px; }
.grid-of-epochs .none { aspect-ratio: 1; border: 1px dashed rgba(128, 128, 128, .5); border-radius: 6px; }
.grid-of-epochs .bar { height: 4px; border-radius: 2px; background: rgba(128, 128, 128, .22); margin-top: 4px; }
.grid-of-epochs .bar i { display: block; height: 4px; border-radius: 2px; background: #2d8fd0; }
.grid-of-epochs .bar.low i { background: #e69f00; }
</style>"""


def main() -> None:
    st.title("Compare")
    state.show_notice()
    runs = {run.name: run for run in places.runs()}
    trained = sorted((name for name, run in runs.items() if run.epochs()), key=lambda name: not compared(runs[name]))
    if not trained:
        panels.empty(
            "Nothing to compare yet",
            "Once a run has saved its first epoch, the base and every epoch are drawn here side by side, "
            "from the same prompts and seeds.",
            "pages/runs.py" if runs else "pages/train.py",
            "See the runs" if runs else "Set up a training",
        )
        return
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        run = runs[state.select("Run", "run", trained)]
    with right, st.popover("Render …", width="stretch", icon=":material/brush:"):
        ask_render(run)
    job = jobs.latest("evaluate", run.name)
    st.fragment(watch, run_every=REFRESH if job and job.active else None)(run.name, "evaluate", "Rendering")
    try:
        show_comparison(run)
    except UserError as error:
        st.error(escape(error))


def compared(run: Run) -> bool:
    """Runs that have something to show come first, newest first among themselves."""
    return any((run.path / "evaluations").glob("*/evaluation.json"))


# ── rendering ───────────────────────────────────────────────────────────────────────────────────────────


def ask_render(run: Run) -> None:
    """What to render; pictures that are there already are kept."""
    try:
        settings = run.config.evaluation
    except UserError as error:
        st.error(escape(error))
        return
    names = list(presets.find("prompts"))
    usual = settings.prompts if settings.prompts in names else names[0]
    prompts = st.selectbox("Prompt set", names, index=names.index(usual), key=f"prompts {run.name}")
    saved = [epoch.number for epoch in run.epochs()]
    epochs = st.multiselect("Epochs", saved, placeholder="All", key=f"render epochs {run.name}")
    strengths = st.text_input("Strengths", ", ".join(f"{s:g}" for s in settings.strengths), key=f"st {run.name}")
    seeds = st.text_input("Seeds", ", ".join(map(str, settings.seeds)), key=f"seeds {run.name}")
    st.caption("Only pictures that are missing are rendered.")
    if st.button("Render missing", type="primary", key="render", icon=":material/play_arrow:"):
        render(run, prompts, epochs, strengths, seeds)


def render(run: Run, prompts: str, epochs: list[int], strengths: str, seeds: str) -> None:
    said = {"strengths": strengths.strip(), "seeds": seeds.strip()}
    try:
        presets.layer(dict(presets.parse_override(f"evaluation.{key}={value}") for key, value in said.items()))
    except UserError as error:
        st.error(escape(error))
        return
    arguments = [str(run.path), f"--prompts={prompts}", f"--strengths={said['strengths']}", f"--seeds={said['seeds']}"]
    if epochs:
        arguments.append("--epochs=" + ",".join(map(str, sorted(epochs))))
    jobs.start("evaluate", *arguments, *panels.clip_option(), subject=run.name)
    st.rerun()


def watch(subject: str, verb: str, label: str) -> None:
    """The newest job of this kind; the whole page again once it has ended, since there is something to show."""
    job = jobs.latest(verb, subject)
    key = f"{verb} {subject}"
    active = panels.show_job(job, key, label)
    if st.session_state.get(f"watched {key}", False) and not active:
        st.session_state[f"watched {key}"] = False
        st.rerun()
    st.session_state[f"watched {key}"] = active


# ── the comparison ──────────────────────────────────────────────────────────────────────────────────────


def show_comparison(run: Run) -> None:
    found = sorted((run.path / "evaluations").glob("*/evaluation.json"), key=lambda path: -path.stat().st_mtime)
    if not found:
        number = plural(len(run.epochs()), "saved epoch")
        panels.empty(
            "Not rendered yet",
            f"{number} to look at. **Render …** draws the same prompts with the base and with each of them.",
        )
        return
    names = [path.parent.name for path in found]
    name = names[0] if len(names) == 1 else state.select("Comparison", "comparison", names)
    folder = run.path / "evaluations" / name
    try:
        evaluation = Evaluation.load(folder)
    except UserError as error:
        st.error(escape(error))
        return
    say_missing(run, evaluation)
    show_recommendation(run, evaluation)
    grid, viewer = st.tabs(["Grid", "Viewer"], key="view", on_change="rerun")
    if viewer.open:
        with viewer:
            show_viewer(folder)
    else:
        with grid:
            show_grid(evaluation, folder)


def say_missing(run: Run, evaluation: Evaluation) -> None:
    missing = [epoch.number for epoch in run.epochs() if epoch.number not in evaluation.epochs]
    if missing:
        numbers = ", ".join(map(str, missing))
        st.caption(f"Not in this comparison: epoch {numbers}. **Render …** adds what is missing.")


def show_recommendation(run: Run, evaluation: Evaluation) -> None:
    """Why this epoch, and the way to take it."""
    best = evaluation.recommended or {}
    text, action = st.columns([3, 1], vertical_alignment="center")
    with text:
        if best:
            st.info(escape(best.get("reason", "")), icon=":material/star:")
        else:
            st.caption("The scores do not set one epoch apart: look, and choose by eye.")
    epochs = [number for number in evaluation.epochs if number != BASE_EPOCH]
    with action, st.popover("Export …", width="stretch", icon=":material/ios_share:"):
        ask_export(run, epochs, best.get("epoch"))
    st.fragment(watch_export, run_every=REFRESH if exporting(run) else None)(run.name)


def exporting(run: Run) -> bool:
    job = jobs.latest("export", run.name)
    return job is not None and job.active


def ask_export(run: Run, epochs: list[int], best: int | None) -> None:
    saved = [number for number in epochs if run.epoch_path(number).exists()]
    if not saved:
        st.caption("None of these epochs is in the run's folder any more.")
        return
    number = st.selectbox("Epoch", saved, index=saved.index(best) if best in saved else len(saved) - 1, key="export")
    name = st.text_input("Name", f"{slug(run.config.name)}", key=f"export name {run.name}").strip()
    target = places.MODELS / f"{slug(name)}.safetensors"
    replace = target.exists() and st.checkbox("Replace the file of that name", key="export replace")
    if target.exists() and not replace:
        st.caption(f"{escape(target.name)} is in the library already: choose another name, or replace it.")
    blocked = not name or (target.exists() and not replace)
    if st.button(f"Export epoch {number}", type="primary", key="export go", disabled=blocked):
        arguments = [str(run.path), f"--epoch={number}", f"--name={name}", *["--overwrite"] * bool(replace)]
        jobs.start("export", *arguments, subject=run.name)
        st.rerun()


def watch_export(subject: str) -> None:
    watch(subject, "export", "Exporting: the file is written, loaded again and checked …")
    job = jobs.latest("export", subject)
    if job and job.state == "done" and st.session_state.get("export said") != job.folder.name:
        with st.container(border=True):
            st.text(job.tail(5))
            st.page_link("pages/library.py", label="Open the library", icon=":material/arrow_forward:")


# ── the grid ────────────────────────────────────────────────────────────────────────────────────────────


def show_grid(evaluation: Evaluation, folder: Path) -> None:
    strength, seed = choose_axes(evaluation)
    table = Table(evaluation, strength, seed)
    rows = [head(table)] + [row(table, folder, epoch, strength, seed) for epoch in table.epochs]
    st.html(f'{STYLE}<table class="grid-of-epochs">{"".join(rows)}</table>')
    for name in table.metrics():
        text, better = metric_label(name)
        if better:
            st.caption(f"{escape(text)}: {better} is better.", width="content")


def choose_axes(evaluation: Evaluation) -> tuple[float, int]:
    """Which strength and seed the grid shows; nothing is asked where there is one of it."""
    strengths, seeds = evaluation.strengths, sorted({cell.seed for cell in evaluation.cells}) or [1]
    best = (evaluation.recommended or {}).get("strength", 1.0)
    strength = best if best in strengths else strengths[0]
    seed = seeds[0]
    with st.container(horizontal=True):
        if len(strengths) > 1:
            strength = st.segmented_control(
                "Strength", strengths, default=strength, required=True, format_func="{:g}".format, key="strength"
            )
        if len(seeds) > 1:
            seed = st.segmented_control("Seed", seeds, default=seed, required=True, key="seed")
    return strength, seed


def head(table: Table) -> str:
    cells = ['<th class="head"></th>']
    for prompt in table.prompts:
        leak = " (leak?)" if prompt.leak else ""
        cells.append(f'<th title="{html.escape(prompt.prompt)}">{html.escape(prompt.name + leak)}</th>')
    for name in table.metrics():
        cells.append(f'<th class="score">{html.escape(metric_label(name)[0])}</th>')
    return f"<tr>{''.join(cells)}</tr>"


def row(table: Table, folder: Path, epoch: int, strength: float, seed: int) -> str:
    best = epoch != BASE_EPOCH and table.recommended(epoch, strength)
    name = "base<span>no LoRA</span>" if epoch == BASE_EPOCH else f"epoch {epoch}{' ★' * best}"
    cells = [f'<td class="row">{name}</td>']
    for prompt in table.prompts:
        seeds = table.seeds(prompt)
        shown = table.cell(prompt, epoch, strength, seed if seed in seeds else seeds[0]) if seeds else None
        cells.append(f"<td>{picture(shown, prompt, folder)}</td>")
    scores = table.scores(epoch, strength if epoch != BASE_EPOCH else 1.0)
    for metric in table.metrics():
        cells.append(f'<td class="score">{score(table, metric, scores.get(metric))}</td>')
    return f'<tr class="{"best" if best else ""}">{"".join(cells)}</tr>'


def picture(cell: Rendered | None, prompt: Prompt, folder: Path) -> str:
    """An <img> with the thumbnail inside; a dashed frame where there is no picture."""
    inside = cell is not None and Path(cell.file).parts[:1] == ("cells",) and ".." not in Path(cell.file).parts
    small = panels.thumbnail(folder / cell.file, THUMBNAIL) if inside else None
    if small is None:
        return '<div class="none" title="not rendered"></div>'
    data = base64.b64encode(small.read_bytes()).decode()
    title = html.escape(cell.infotext or prompt.prompt)
    return f'<img src="data:image/webp;base64,{data}" alt="{html.escape(prompt.name)}" title="{title}">'


def score(table: Table, metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    low = "low" if metric_label(metric)[1] == "lower" else ""
    share = max(0.0, min(1.0, table.share(metric, value)))
    return f'{value:.2f}<div class="bar {low}"><i style="width:{share:.0%}"></i></div>'


def show_viewer(folder: Path) -> None:
    """The comparison's own report: synchronised zoom, keys, before and after. It lives in a sandboxed frame."""
    report = folder / "report.html"
    if not report.is_file():
        st.caption("The report is written at the end of rendering.")
        return
    st.iframe(report.read_text(encoding="utf-8"), height=860)
    st.download_button("Download the report", report.read_bytes(), f"{slug(folder.parent.parent.name)}.html")


main()
