"""Compare: every epoch beside the base, scored and judged, and the chosen one exported."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import streamlit as st

from studio import ballot, comparison, fullsize, jobs, panels, places, prompt_sets, state
from studio.language import _, plural
from studio.sentences import said
from studio.text import escape
from trainer import presets
from trainer.cells import BASE_EPOCH, Evaluation
from trainer.errors import UserError
from trainer.run import Run, slug

REFRESH = 2.0
NEWS = 600.0  # seconds for which a finished export is worth telling


def main() -> None:
    st.title(_("Compare"))
    state.show_notice()
    runs = {run.name: run for run in places.runs()}
    trained = sorted((name for name, run in runs.items() if run.epochs()), key=lambda name: not compared(runs[name]))
    if not trained:
        panels.empty(
            _("Nothing to compare yet"),
            _(
                "Once a run has saved its first epoch, the base and every epoch are drawn here side by side, "
                "from the same prompts and seeds."
            ),
            "views/runs.py" if runs else "views/train.py",
            _("See the runs") if runs else _("Set up a training"),
        )
        return
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        run = runs[state.select(_("Run"), "run", trained)]
    with right, panels.popover("render", _("Render …"), icon=":material/brush:"):
        ask_render(run, {name: runs[name] for name in trained if name != run.name})
    job = jobs.latest("evaluate", run.name)
    st.fragment(watch, run_every=REFRESH if job and job.active else None)(run.name, "evaluate", _("Rendering"))
    try:
        show_comparison(run)
    except UserError as error:
        st.error(escape(error))


def compared(run: Run) -> bool:
    """Runs that have something to show come first, newest first among themselves."""
    return bool(run.comparisons())


# ── rendering ───────────────────────────────────────────────────────────────────────────────────────────


def ask_render(run: Run, others: dict[str, Run]) -> None:
    """What to render, and beside which second run; pictures that are there already are kept."""
    try:
        settings = run.config.evaluation
    except UserError as error:
        st.error(escape(error))
        return
    # A run may name a set of its own by its path.
    names = list(dict.fromkeys([settings.prompts, *presets.find("prompts")]))
    prompts = st.selectbox(_("Prompt set"), names, format_func=lambda name: Path(name).stem, key=f"prompts {run.name}")
    if st.button(_("Edit the prompts"), key="edit prompts", type="tertiary", icon=":material/edit:"):
        prompt_sets.edit(prompts)
    saved = [epoch.number for epoch in run.epochs()]
    epochs = st.multiselect(_("Epochs"), saved, placeholder=_("All"), key=f"render epochs {run.name}")
    strengths = st.text_input(_("Strengths"), listed(settings.strengths), key=f"st {run.name}")
    seeds = st.text_input(_("Seeds"), ", ".join(map(str, settings.seeds)), key=f"seeds {run.name}")
    beside = ask_second(run, others) if others else []
    st.caption(_("Only pictures that are missing are rendered."))
    if st.button(_("Render missing"), type="primary", key="render", icon=":material/play_arrow:"):
        render(run, prompts, epochs, strengths, seeds, beside)


def ask_second(run: Run, others: dict[str, Run]) -> list[str]:
    """Options that put a second run's epochs below the first one's."""
    name = st.selectbox(
        _("Beside a second run"),
        list(others),
        index=None,
        placeholder=_("None"),
        key=f"against {run.name}",
        help=_("Its epochs are put below, drawn from the same prompts and seeds. The vote decides between the two."),
    )
    if name is None:
        return []
    saved = [epoch.number for epoch in others[name].epochs()]
    epochs = st.multiselect(_("Its epochs"), saved, placeholder=_("All"), key=f"against epochs {name}")
    chosen = ["--against-epochs=" + ",".join(map(str, sorted(epochs)))] if epochs else []
    return [f"--against={others[name].path}", *chosen]


def render(run: Run, prompts: str, epochs: list[int], strengths: str, seeds: str, beside: list[str]) -> None:
    said = {"strengths": strengths.strip(), "seeds": seeds.strip()}
    try:
        presets.layer(dict(presets.parse_override(f"evaluation.{key}={value}") for key, value in said.items()))
    except UserError as error:
        st.error(escape(error))
        return
    arguments = [str(run.path), f"--prompts={prompts}", f"--strengths={said['strengths']}", f"--seeds={said['seeds']}"]
    if epochs:
        arguments.append("--epochs=" + ",".join(map(str, sorted(epochs))))
    jobs.start("evaluate", *arguments, *beside, *panels.clip_option(), subject=run.name)
    panels.close("render")
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
    found = run.comparisons()
    if not found:
        offer(run)
        return
    names = [folder.name for folder in found]
    name = names[0] if len(names) == 1 else state.select(_("Comparison"), "comparison", names)
    folder = run.path / "evaluations" / name
    evaluation = Evaluation.load(folder)
    say_missing(run, evaluation)
    with st.container(key="recommendation"):
        show_recommendation(run, evaluation)
    show_views(run, evaluation, folder)


def offer(run: Run) -> None:
    """The first comparison of a run, as its settings have it; nothing while the bar above tells how far it is."""
    job = jobs.latest("evaluate", run.name)
    if job and job.active:
        return
    number = plural(len(run.epochs()), "saved epoch")
    about = _("{epochs} to look at. **Render …** draws the same prompts with the base and with each of them.")
    panels.empty(_("Not rendered yet"), about.format(epochs=number))
    with st.container(horizontal=True, horizontal_alignment="center"):
        if st.button(_("Render all epochs"), type="primary", key="render all", icon=":material/brush:"):
            usual = run.config.evaluation
            render(run, usual.prompts, [], listed(usual.strengths), ", ".join(map(str, usual.seeds)), [])


def listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def show_views(run: Run, evaluation: Evaluation, folder: Path) -> None:
    """The same pictures in several ways; only the one that is looked at is drawn."""

    def export(epoch: int, key: str) -> None:
        export_button(run, epoch, key)

    views = {
        _("Grid"): lambda: (st.fragment(comparison.show_grid)(evaluation, folder), comparison.explain_grid()),
        _("Viewer"): lambda: show_viewer(evaluation, folder),
        _("Scores"): lambda: comparison.show_scores(evaluation),
        _("Blind vote"): lambda: ballot.show(evaluation, folder, export),
    }
    if len(evaluation.strengths) > 1:
        views[_("Strengths")] = lambda: st.fragment(comparison.show_strengths)(evaluation, folder)
    for tab, draw in zip(st.tabs(list(views), key="view", on_change="rerun"), views.values()):
        if tab.open:
            with tab:
                draw()


def say_missing(run: Run, evaluation: Evaluation) -> None:
    missing = [epoch.number for epoch in run.epochs() if epoch.number not in evaluation.epochs]
    if missing:
        numbers = ", ".join(map(str, missing))
        st.caption(_("Not in this comparison: epoch {n}. **Render …** adds what is missing.").format(n=numbers))


def show_recommendation(run: Run, evaluation: Evaluation) -> None:
    """Why this epoch, and the way to take it."""
    best = evaluation.recommended or {}
    text, action = st.columns([3, 1], vertical_alignment="center")
    with text:
        if best:
            st.info(escape(said(best.get("reason", ""))), icon=":material/star:")
        elif evaluation.labels:
            st.caption(_("Scores depend on what each run was trained on: between two runs the blind vote decides."))
            for key, value in evaluation.about.items():
                if key.startswith("Scores of "):
                    st.caption(escape(f"{key}: {value}"))
        else:
            st.caption(_("The scores do not set one epoch apart: look, and choose by eye."))
    # A second run's epochs are exported from its own comparison.
    epochs = [number for number in evaluation.epochs if number != BASE_EPOCH and number not in evaluation.labels]
    with action:
        if best.get("epoch") in epochs:
            export_button(run, best["epoch"], "export best", best.get("strength", 1.0))
        with panels.popover("export", _("Export another …") if best else _("Export …"), icon=":material/ios_share:"):
            ask_export(run, epochs, best.get("epoch"))
    st.fragment(watch_export, run_every=REFRESH if exporting(run) else None)(run.name)


def exporting(run: Run) -> bool:
    job = jobs.latest("export", run.name)
    return job is not None and job.active


def export_button(run: Run, epoch: int, key: str, strength: float = 1.0) -> None:
    """One click: the epoch goes to models/ under the run's name, numbered where that is taken."""
    label = _("Export epoch {n}").format(n=epoch)
    if st.button(label, type="primary", key=key, width="stretch", disabled=exporting(run), icon=":material/ios_share:"):
        start_export(run, epoch, free_name(f"{slug(run.config.name)}-e{epoch}"), strength)


def free_name(stem: str) -> str:
    taken = {path.stem for path in places.MODELS.glob("*.safetensors")}
    return stem if stem not in taken else next(f"{stem}-{n}" for n in range(2, 10_000) if f"{stem}-{n}" not in taken)


def start_export(run: Run, epoch: int, name: str, strength: float = 1.0, replace: bool = False) -> None:
    arguments = [str(run.path), f"--epoch={epoch}", f"--name={name}", *["--overwrite"] * replace]
    if strength != 1.0:
        arguments.append(f"--strength={strength:g}")
    jobs.start("export", *arguments, subject=run.name)
    panels.close("export")
    st.rerun()


def ask_export(run: Run, epochs: list[int], best: int | None) -> None:
    saved = [number for number in epochs if run.epoch_path(number).exists()]
    if not saved:
        st.caption(_("None of these epochs is in the run's folder any more."))
        return
    index = saved.index(best) if best in saved else len(saved) - 1
    number = st.selectbox(_("Epoch"), saved, index=index, key="export")
    name = st.text_input(_("Name"), f"{slug(run.config.name)}", key=f"export name {run.name}").strip()
    strength = st.number_input(
        _("Strength"),
        0.1,
        2.0,
        1.0,
        0.1,
        key="export strength",
        help=_("Baked in: at weight 1 the exported file is what the epoch is at this strength."),
    )
    target = places.MODELS / f"{slug(name)}.safetensors"
    replace = target.exists() and st.checkbox(_("Replace the file of that name"), key="export replace")
    if target.exists() and not replace:
        text = _("{file} is in the library already: choose another name, or replace it.")
        st.caption(escape(text.format(file=target.name)))
    blocked = not name or (target.exists() and not replace)
    if st.button(_("Export epoch {n}").format(n=number), type="primary", key="export go", disabled=blocked):
        start_export(run, number, name, strength, replace)


def watch_export(subject: str) -> None:
    watch(subject, "export", _("Exporting: the file is written, loaded again and checked …"))
    job = jobs.latest("export", subject)
    if job and job.state == "done" and time.time() - job.ended < NEWS:
        with st.container(border=True):
            for line in job.tail(5).splitlines():
                st.text(said(line))
            st.page_link("views/library.py", label=_("Open the library"), icon=":material/arrow_forward:")


def show_viewer(evaluation: Evaluation, folder: Path) -> None:
    """The comparison's own report: synchronised zoom, keys, before and after. It lives in a sandboxed frame."""
    report = fullsize.page(evaluation, folder)
    st.caption(
        _(
            "Click a picture. Arrow keys go through prompts and epochs, zoom and place stay; hold Space for the "
            "base, B for before and after under one slider."
        )
    )
    st.iframe(report, height=860)
    st.download_button(_("Download the report"), report.encode(), f"{slug(folder.parent.parent.name)}.html")


main()
