"""Runs: what is training, what waits, what has finished, what went wrong and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path

import streamlit as st

from studio import charts, jobs, line, panels, places, state, trash
from studio.language import _, plural
from studio.sentences import said
from studio.text import escape
from trainer import presets
from trainer.errors import UserError
from trainer.run import ACTIVE, COMMANDS, Run, Status
from trainer.texts import MARKS, duration, file_size, size

REFRESH = 2.0  # seconds between looks at the run folders while something trains
LISTED = 25  # runs in the list before the older ones are folded away
SAMPLES = 6  # newest pictures
BADGES = {"training": "blue", "preparing": "blue", "finished": "green", "failed": "red", "interrupted": "orange"}


def remedies() -> dict[str, str]:
    """A sign of trouble in a message or log -> what to do about it."""
    return {
        "out of memory": _(
            "Lower the batch size or the resolution, or turn gradient checkpointing on: duplicate the "
            "run with that change."
        ),
        "no space left": _("Free some space on the disk, then press Resume."),
        "not finite": _("Lower the learning rate: duplicate the run with that change."),
        "cuda driver": _("The graphics driver is older than torch needs: update it, or install torch for that driver."),
        "no kernel image": _("This torch was not built for the graphics card: install the one that pytorch.org names."),
    }


def is_busy(run: Run) -> bool:
    """Somebody is at work on it, or a worker is just coming up."""
    job = jobs.job_of(run)
    return run.is_locked() or (job is not None and job.active)


def anything_moves() -> bool:
    tensorboard = jobs.latest("tensorboard")
    coming_up = tensorboard is not None and tensorboard.active and not jobs.address(tensorboard)
    return bool(line.names()) or coming_up or any(map(is_busy, places.runs()))


def show() -> None:
    """All of the page that changes while something trains."""
    runs = {run.name: run for run in places.runs()}
    if not runs:
        panels.empty(
            _("No runs yet"),
            _("A run is one training, with every epoch saved. Choose pictures and a base model, and start one."),
            "views/train.py",
            _("Set up a training"),
        )
        show_trash()
        return
    busy = anything_moves()
    if busy != st.session_state.get("runs busy", busy):
        st.session_state["runs busy"] = busy
        st.rerun()  # the fragment's clock is set outside of it
    st.session_state["runs busy"] = busy
    chosen = state.chosen("run", list(runs))
    listing, detail = st.columns([1, 2.6], gap="large")
    with listing:
        show_line()
        show_list(list(runs.values()), chosen)
        st.space("small")
        show_tensorboard()
        show_trash()
    with detail:
        show_run(runs[chosen], runs)


# ── the list ────────────────────────────────────────────────────────────────────────────────────────────


def show_line() -> None:
    """The runs that wait for the device, to be put into another order or taken out."""
    waiting = line.names()
    if not waiting:
        return
    with st.container(border=True, gap="xxsmall"):
        st.caption(_("Waiting for the device, first to start first"))
        for place, name in enumerate(waiting):
            with st.container(horizontal=True, gap="xxsmall", vertical_alignment="center"):
                st.text(name, width="stretch")
                moves = (
                    ("up", ":material/arrow_upward:", place == 0, line.move, (name, -1), _("Earlier")),
                    ("down", ":material/arrow_downward:", name == waiting[-1], line.move, (name, 1), _("Later")),
                    ("out", ":material/close:", False, line.remove, (name,), _("Take out of the queue")),
                )
                for key, icon, off, what, args, hint in moves:
                    st.button(
                        "",
                        key=f"{key} {name}",
                        icon=icon,
                        disabled=off,
                        on_click=what,
                        args=args,
                        type="tertiary",
                        help=hint,
                    )


def show_list(runs: list[Run], chosen: str) -> None:
    for run in runs[:LISTED]:
        list_entry(run, chosen)
    if runs[LISTED:]:
        with st.expander(_("{n} older runs").format(n=len(runs) - LISTED)):
            for run in runs[LISTED:]:
                list_entry(run, chosen)


def list_entry(run: Run, chosen: str) -> None:
    status = run.status
    with st.container(border=run.name == chosen, gap=None):
        st.button(
            f"{MARKS[status.state]} {escape(run.name)}",
            key=f"open {run.name}",
            type="tertiary",
            wrap=True,
            on_click=state.choose,
            args=("run", run.name),
        )
        epochs = _("{n} of {total} epochs").format(n=len(run.epochs()), total=status.progress.epochs or "?")
        st.caption(escape(f"{_(status.state)} · {epochs}"))


def show_tensorboard() -> None:
    """TensorBoard over all runs, started on demand."""
    job = jobs.latest("tensorboard", places.RUNS.as_posix())
    if job is not None and job.active:
        if address := jobs.address(job):
            with st.container(horizontal=True, gap="xsmall"):
                st.link_button(_("Open TensorBoard"), address, icon=":material/open_in_new:")
                st.button(
                    "", key="end tensorboard", icon=":material/stop:", on_click=job.cancel, help=_("End TensorBoard")
                )
        else:
            st.caption(_("TensorBoard is starting …"))
        return
    if st.button(
        "TensorBoard",
        key="tensorboard",
        icon=":material/show_chart:",
        type="tertiary",
        help=_("Start TensorBoard over all runs, for this machine only."),
    ):
        jobs.start_tensorboard(places.RUNS)
        st.rerun()


def show_trash() -> None:
    thrown = trash.runs()
    if not thrown:
        return
    with st.popover(_("Trash ({n})").format(n=len(thrown)), icon=":material/delete:", type="tertiary"):
        for run in thrown:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.text(run.name, width="stretch")
                st.button(_("Restore"), key=f"restore {run.name}", on_click=trying, args=(trash.restore, run.name))
        sure = st.checkbox(_("Delete them for good, with every epoch in them"), key="empty sure")
        st.button(_("Empty the trash"), key="empty", disabled=not sure, on_click=trying, args=(trash.empty,))


def trying(what, *arguments) -> None:
    """Do it; what keeps it from being done is said on the page."""
    try:
        what(*arguments)
    except UserError as error:
        state.notify(str(error))


# ── one run ─────────────────────────────────────────────────────────────────────────────────────────────


def show_run(run: Run, runs: dict[str, Run]) -> None:
    status, job = run.status, jobs.job_of(run)
    starting = job is not None and job.active and not run.is_locked()
    with st.container(horizontal=True, vertical_alignment="center"):
        # st.text shows names as they are: a run called "**x**" or "<b>" is not markup.
        st.text(run.name, width="content")
        st.badge(_("starting") if starting else _(status.state), color=BADGES.get(status.state, "gray"))
    say_message(run, status, starting)
    show_progress(run, status)
    show_buttons(run, status, starting)
    show_curves(run, runs)
    show_samples(run)
    show_epochs(run)
    with st.expander(_("Log"), expanded=status.state in ("failed", "interrupted"), key=f"log {run.name}"):
        show_log(run)


def say_message(run: Run, status: Status, starting: bool) -> None:
    """The run's own words; for what went wrong with the remedy."""
    job = jobs.job_of(run)
    if starting:
        waits = said(job.progress.text)
        st.info(escape(waits or _("Starting: loading torch and the base model takes a moment.")))
    elif status.state in ("failed", "interrupted"):
        st.error(escape(" ".join(filter(None, [said(status.message), remedy_for(status.message)]))))
    elif status.state == "queued" and job is not None and job.state in ("failed", "lost"):
        why = said(job.tail(1).removeprefix("lora-studio: ")) or _("the worker ended without a word")
        st.error(escape(_("It did not start: {why}").format(why=why)))
    elif status.message:
        st.caption(escape(said(status.message)))
    if status.state == "training" and status.progress.alarm:
        st.warning(escape(said(status.progress.alarm)))


def remedy_for(text: str) -> str:
    return next((remedy for sign, remedy in remedies().items() if sign in text.lower()), "")


def show_log(run: Run) -> None:
    """The tail, with what is known about the trouble in it above."""
    tail = jobs.tail(run.path / "train.log", 60)
    if remedy := remedy_for(tail):
        st.warning(escape(remedy))
    panels.show_log(tail)


def show_progress(run: Run, status: Status) -> None:
    progress = status.progress
    if status.state in ACTIVE and progress.steps:
        st.progress(min(1.0, progress.step / progress.steps))
    left = progress.seconds_left
    figures = {
        _("Epoch"): _("{n} of {total}").format(n=len(run.epochs()), total=progress.epochs) if progress.epochs else "–",
        _("Step"): f"{progress.step}/{progress.steps}" if progress.steps else "–",
        _("Speed"): f"{progress.seconds_per_step:.2f} s/step" if progress.seconds_per_step else "–",
        _("Time left"): duration(left) if left and status.state in ACTIVE else "–",
        _("Loss"): f"{progress.loss:.4f}" if progress.loss is not None else "–",
        _("Learning rate"): f"{progress.learning_rate:.2g}" if progress.learning_rate is not None else "–",
        _("Memory"): size(progress.memory) if progress.memory else "–",
    }
    known = {label: value for label, value in figures.items() if value != "–"}
    with st.container(horizontal=True, gap="medium"):
        for label, value in known.items():
            with st.container(width="content", gap=None):
                st.caption(label)
                st.text(value)


def show_buttons(run: Run, status: Status, starting: bool) -> None:
    running, job = run.is_locked(), jobs.job_of(run)
    with st.container(horizontal=True):
        if running:
            st.button(_("Save now"), key="save now", on_click=run.request, args=("save",), icon=":material/save:")
            st.button(
                _("Sample now"),
                key="sample now",
                on_click=run.request,
                args=("sample",),
                icon=":material/brush:",
                help=_("Saves at the next step and renders a few prompts with it. Training waits, and ends the same."),
            )
            st.button(
                _("Stop"),
                key="stop",
                on_click=run.request,
                args=("stop",),
                icon=":material/stop:",
                help=_("Saves at the next step, then ends. Resume goes on from there."),
            )
        elif not starting and status.state != "finished":
            label = _("Start") if status.state == "queued" else _("Resume")
            st.button(label, key="resume", on_click=resume, args=(run,), type="primary", icon=":material/play_arrow:")
            if run.name not in line.names():
                st.button(
                    _("Add to queue"),
                    key="enqueue",
                    on_click=trying,
                    args=(line.add, run),
                    icon=":material/playlist_add:",
                )
        if run.epochs() and st.button(_("Compare epochs"), key="compare", icon=":material/grid_view:"):
            st.switch_page("views/compare.py", query_params={"run": run.name})
        if st.button(_("Duplicate with changes"), key="duplicate", icon=":material/content_copy:"):
            duplicate(run)
        if job is not None and job.active:
            with st.popover(_("Kill"), icon=":material/dangerous:"):
                st.text(_("Ends it at once, without saving. What was saved before stays, and Resume goes on from it."))
                st.button(_("Kill it now"), key="kill", on_click=job.kill)
        elif not running:
            st.button(
                _("Delete"),
                key="delete",
                on_click=throw,
                args=(run,),
                icon=":material/delete:",
                help=_("To the trash, from where it can be restored."),
            )
    waiting = [command for command in COMMANDS if (run.path / "control" / command).exists()]
    if running and waiting:
        st.caption(_("Asked to {what}: it obeys at the next step.").format(what=", ".join(map(_, waiting))))


def throw(run: Run) -> None:
    line.remove(run.name)
    trying(trash.throw, run)


def resume(run: Run) -> None:
    try:
        run.take_request("stop")  # a request that came too late must not end the new start
        line.remove(run.name)
        jobs.start_training(run)
    except UserError as error:
        state.notify(str(error))


def duplicate(run: Run) -> None:
    """The run's settings as the train page's draft; nothing is copied until that one is started."""
    try:
        changed = {path: value for path, (_default, value) in presets.differences(run.config).items()}
    except UserError as error:
        st.error(escape(error))
        return
    state.set_draft(changed, "Defaults")
    folder = changed.get("data.folder", "")
    name = next(
        (name for name in places.datasets() if (places.DATASETS / name).resolve() == Path(folder).resolve()), ""
    )
    if name:
        st.session_state["last dataset"] = name
    elif folder:
        state.notify(
            _("Its pictures lie in {folder}, which is not in datasets/: choose a folder.").format(folder=folder)
        )
    st.switch_page("views/train.py")


# ── what it has made ────────────────────────────────────────────────────────────────────────────────────


def show_curves(run: Run, runs: dict[str, Run]) -> None:
    """Loss, learning rate and whatever else the run wrote down, over its steps."""
    names = charts.measured(metrics_of(run.name, size_of(run)))
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        shown = "loss"
        if len(names) > 1:
            shown = st.segmented_control(
                _("Curve"), names, default=names[0], required=True, key="curve", label_visibility="collapsed"
            )
        else:
            st.text(_("Loss"))
        with st.popover(_("Chart"), icon=":material/tune:"):
            smoothing = st.slider(_("Smoothing"), 0.0, 0.99, 0.9, 0.01, key="smoothing")
            log = st.toggle(_("Logarithmic"), key="log scale")
            clip = st.toggle(
                _("Cut outliers off"), value=True, key="clip", help=_("The axis ends at the 99th percentile.")
            )
            others = [name for name in runs if name != run.name]
            overlaid = st.multiselect(_("Compare with"), others, key="overlaid", disabled=not others)
    curves = {name: metrics_of(name, size_of(runs[name])) for name in [run.name, *overlaid]}
    charts.over_steps(curves, shown, smoothing, log, clip)


def size_of(run: Run) -> int:
    try:
        return (run.path / "metrics.jsonl").stat().st_size
    except OSError:
        return 0


@st.cache_data(max_entries=20, show_spinner=False)
def metrics_of(name: str, size: int) -> list[dict]:
    """Keyed by size: the file only ever grows."""
    return Run(places.RUNS / name).metrics()


def show_samples(run: Run) -> None:
    """The pictures that were rendered last, by a comparison or because somebody asked for them while it trains."""
    found = [*run.path.glob("evaluations/*/cells/*.png"), *run.path.glob("samples/*.png")]
    newest = sorted(found, key=lambda path: -path.stat().st_mtime)[:SAMPLES]
    small = [(path, thumbnail) for path in newest if (thumbnail := panels.thumbnail(path, 256))]
    if not small:
        return
    st.text(_("Newest samples"))
    with st.container(horizontal=True, gap="small"):
        for path, thumbnail in small:
            with st.container(width=110, gap="xxsmall"):
                st.image(str(thumbnail), width="stretch", alt=_("Rendered picture"))
                if asked := re.match(r"step(\d+)-\d+-(.+)", path.stem):
                    st.caption(escape(_("step {n}").format(n=int(asked[1])) + f" · {asked[2]}"))


def show_epochs(run: Run) -> None:
    epochs = run.epochs()
    if not epochs:
        return
    with st.expander(plural(len(epochs), "saved epoch"), key=f"epochs {run.name}"):
        st.caption(escape(epochs[0].path.parent.as_posix() + "/"))
        for epoch in reversed(epochs):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.text(_("epoch {n}").format(n=epoch.number), width=90)
                st.caption(f"{escape(epoch.path.name)} · {file_size(epoch.path)}")


st.title(_("Runs"))
state.show_notice()
busy = anything_moves()
st.session_state["runs busy"] = busy
st.fragment(show, run_every=REFRESH if busy else None)()
