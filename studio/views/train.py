"""Train: choose base, pictures and settings, see what will happen, start."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import streamlit as st

from studio import forecast, forms, handwork, importing, jobs, line, panels, places, problems, state, subject
from studio.language import _, plural
from studio.text import escape
from trainer import checks, presets
from trainer.config import DataConfig, TrainConfig, settings
from trainer.dataset import buckets
from trainer.errors import UserError
from trainer.examples import Example, count_epochs, count_steps, folders, load_examples, trained
from trainer.files import write_text
from trainer.run import Run, slug

OWN = ("name", "model.base", "data.folder", "data.trigger")  # drawn by hand, above the others
NO_PRESET = "Defaults"
LISTED = 12  # crops shown before they are counted


def main() -> None:
    st.title(_("Train"))
    state.show_notice()
    form, outcome = st.columns([3, 2], gap="large")
    with form:
        preset = choose_preset()
        with st.expander(_("Import from kohya"), icon=":material/input:", key="importing"):
            importing.ask(NO_PRESET)
        usual = subject.ask(preset)
        st.divider()
        front = [s.path for s in settings() if s.front and s.path not in OWN]
        forms.show(front, preset)
        show_advanced(preset)
    with outcome, st.container(border=True):
        show_outcome(preset, usual)


# ── what is trained on what ─────────────────────────────────────────────────────────────────────────────


def choose_preset() -> dict[str, Any]:
    """The preset's values; changing it keeps what was set by hand."""
    names = [*presets.find(), NO_PRESET]
    current = st.session_state.get(state.PRESET) or first_preset(names)
    index = names.index(current) if current in names else 0
    name = st.selectbox(_("Preset"), names, index=index, key=f"preset {state.generation()}")
    if name != current:
        state.set_draft(state.draft(), name)
        st.rerun()
    st.session_state[state.PRESET] = name
    if name == NO_PRESET:
        return {}
    try:
        preset = presets.load(name)
        presets.layer(preset.values, where=f"The preset {name}")  # a widget cannot hold what is out of range
    except UserError as error:
        st.error(escape(error))
        return {}
    about = " ".join(preset.about.split())
    st.caption(escape(_(about)))
    return preset.values


def first_preset(names: list[str]) -> str:
    """The usual one; where the toybox is the only base there is, the one that was made for it."""
    wanted = "sd15-character" if places.bases() else "toybox"
    return wanted if wanted in names else names[0]


def show_advanced(preset: dict[str, Any]) -> None:
    """The other settings part by part, of which one is drawn: a hundred fields would slow every click down."""
    paths = [s.path for s in settings() if not s.front and s.path not in OWN]
    # What differs is said below and not in the title: one that changes is another expander, and shut.
    with st.expander(_("Advanced"), key=f"advanced {state.generation()}", on_change="rerun") as expander:
        if expander.open:
            show_part(paths, preset)
    if differing := [
        _(setting.label) for setting in settings() if setting.path in paths and setting.path in state.draft()
    ]:
        st.caption(escape(_("Changed in there: {settings}").format(settings=", ".join(differing))))


def show_part(paths: list[str], preset: dict[str, Any]) -> None:
    parts = {part: list(members) for part, members in groupby(paths, key=lambda path: path.split(".")[0])}

    part = st.selectbox(
        _("Part"),
        list(parts),
        key=f"part {state.generation()}",
        format_func=lambda part: _(forms.TITLES.get(part, part)),
    )
    if about := forms.PARTS.get(part):
        st.caption(escape(_(about)))
    forms.show(parts[part], preset)


# ── what will happen ────────────────────────────────────────────────────────────────────────────────────


def show_outcome(preset: dict[str, Any], usual: dict[str, str]) -> None:
    """Steps, buckets, problems, and the button; whatever is wrong stands where the button would be."""
    st.header(_("What will happen"))
    try:
        config = configure(preset, usual)
        if not config.data.folder:
            st.info(_("Choose a folder of pictures, and this column says what training will do with it."))
            return
        stamp = stamp_of(config.data)
        examples = cached_examples(config.data.model_dump_json(), stamp)
    except UserError as error:
        st.error(escape(error))
        subject.link_pictures()
        return
    show_steps(config, examples)
    say_waiting(config.data)
    blocked = problems.show(checks.check(config, examples))
    show_buckets(config, examples)
    forecast.show(config, stamp)
    show_actions(config, preset, blocked)


def configure(preset: dict[str, Any], usual: dict[str, str]) -> TrainConfig:
    """Preset and draft as a checked configuration; name and trigger follow from the folder if not given."""
    return presets.layer(preset, usual, state.draft(), where="This form")


def stamp_of(data: DataConfig) -> tuple:
    """Changes whenever a file of any folder does that training would read."""
    return tuple(panels.stamp(folder, data.caption_extension) for folder in folders(data) if folder.is_dir())


@st.cache_resource(max_entries=20, show_spinner=False)  # nobody changes them, and copies of 10,000 take long
def cached_examples(data: str, stamp: tuple) -> list[Example]:
    """`stamp` makes the answer old when a file changes."""
    return load_examples(DataConfig.model_validate_json(data))


def show_steps(config: TrainConfig, examples: list[Example]) -> None:
    steps, per_epoch = count_steps(examples, config)
    st.metric(_("Steps"), plural(steps, "step"), label_visibility="collapsed")
    seen, loop = trained(examples), config.loop
    repeats = {example.repeats for example in seen}
    # Folders called 10_name, more folders and regularisation pictures have repeats of their own.
    times = (
        plural(repeats.pop(), "repeat")
        if len(repeats) == 1
        else _("their repeats, {n} in an epoch").format(n=sum(example.repeats for example in seen))
    )
    pictures = f"{plural(len(seen), 'picture')} × {times} × {plural(count_epochs(examples, config), 'epoch')}"
    size = f"{loop.batch_size}" + f" × {loop.gradient_accumulation}" * (loop.gradient_accumulation > 1)
    st.text(_("{pictures} ÷ batch {size}").format(pictures=pictures, size=size))
    if held := len(examples) - len(seen):
        st.caption(_("{pictures} held back for validation.").format(pictures=plural(held, "picture")))
    each = _("{steps} an epoch. Every epoch is saved as a finished file in runs/.")
    st.caption(each.format(steps=plural(per_epoch, "step")))


def say_waiting(data: DataConfig) -> None:
    """Crops that were drawn and not written yet, which this run would not see."""
    if waiting := handwork.boxes(Path(data.folder)):
        text = _("{crops} drawn by hand not written yet: these pictures would be trained whole.")
        st.warning(text.format(crops=plural(len(waiting), "crop")))
        subject.link_pictures()


def show_buckets(config: TrainConfig, examples: list[Example]) -> None:
    examples = trained(examples)
    plan = buckets.describe(
        [example.path.name for example in examples],
        [example.placement for example in examples],
        [example.repeats for example in examples],
        config.loop.batch_size,
    )
    cropped = sorted((e for e in examples if e.placement.lost > 0), key=lambda e: -e.placement.lost)
    title = _("{buckets}, {n} pictures cropped").format(buckets=plural(len(plan.buckets), "bucket"), n=len(cropped))
    with st.expander(title, key="buckets"):
        for line in plan.buckets:
            st.text(str(line))
        for example in cropped[:LISTED]:
            lost = _("{share} cut off").format(share=f"{example.placement.lost:.0%}")
            st.caption(f"{escape(example.path.name)}: {escape(lost)}")
        if len(cropped) > LISTED:
            st.caption(_("… and {n} more").format(n=len(cropped) - LISTED))


def show_actions(config: TrainConfig, preset: dict[str, Any], blocked: bool) -> None:
    waits = line.busy() or bool(line.names())
    if waits:
        st.caption(_("Something is training: this run would wait in the queue until the device is free."))
    label, icon = (
        (_("Add to queue"), ":material/playlist_add:") if waits else (_("Start training"), ":material/play_arrow:")
    )
    if st.button(label, type="primary", width="stretch", disabled=blocked, icon=icon, key="start"):
        start(config, waits)
    if not waits and st.button(
        _("Make the run, start it later"), width="stretch", disabled=blocked, key="later", icon=":material/schedule:"
    ):
        start(config, None)
    left, right = st.columns(2)
    untouched = not state.draft().keys() - {"data.folder"}
    if left.button(_("Reset to the preset"), width="stretch", disabled=untouched, key="reset"):
        state.set_draft({})
        st.rerun()
    with right.popover(_("Save as preset"), width="stretch"):
        save_preset(config)


def start(config: TrainConfig, waits: bool | None) -> None:
    """Make the run and hand it to a worker, put it into the queue, or (None) leave it at that."""
    try:
        run = Run.create(config, places.RUNS)
        if waits:
            line.add(run)
        elif waits is not None:
            jobs.start_training(run)
    except UserError as error:
        st.error(escape(error))
        return
    state.choose("run", run.name)
    st.switch_page("views/runs.py", query_params={"run": run.name})


def save_preset(config: TrainConfig) -> None:
    name = st.text_input(_("Name of the preset"), key="preset name")
    about = st.text_input(_("What it is for"), key="preset about")
    if not st.button(_("Save"), key="save preset", disabled=not name.strip()):
        return
    path = places.PRESETS / f"{slug(name)}.toml"
    if path.exists():
        st.error(escape(_("{file} is there already: choose another name.").format(file=path)))
        return
    changed = {
        path: value for path, (_default, value) in presets.differences(config).items() if path not in OWN[:1] + OWN[2:]
    }
    try:
        write_text(path, presets.to_toml(presets.nest(changed), about.strip()))
    except UserError as error:
        st.error(escape(error))
        return
    state.set_draft({path: value for path, value in state.draft().items() if path in OWN}, path.stem)
    state.notify(_("Saved {name}.").format(name=path))
    st.rerun()


main()
