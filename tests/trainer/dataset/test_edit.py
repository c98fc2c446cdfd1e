"""Edits of many captions: what each does, and that any sequence of them, undone, gives the same bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.dataset import captions, edit, formats, images
from trainer.errors import UserError


def run(text, name, *arguments):
    plan = edit.plan({"x": text}, name, arguments)
    return plan.changes[0].after if plan.changes else text


@pytest.mark.parametrize(
    ("text", "edit", "expected"),
    [
        ("moss,hat", "add smile, HAT", "moss,hat, smile"),
        (None, "add smile", "smile"),
        ("moss,hat", "prepend smile, HAT", "smile, moss,hat"),
        ("moss,hat", "prepend HAT", "moss,hat"),
        (None, "prepend smile", "smile"),
        ("moss,\nhat,  smile", "remove Hat", "moss,  smile"),
        ("moss, blue_hair, hair band", "remove *hair", "moss, hair band"),
        ("moss,  hat, smile", "replace hat|red hat, wool", "moss,  red hat, wool, smile"),
        ("a cat. The cat sits.", r"regex \b(c)at|\1ow", "a cow. The cow sits."),
        ("hat, moss, smile", "order moss|smile", "moss, smile, hat"),
        ("hat, moss, Apple", "order alphabet", "Apple, hat, moss"),
        ("moss,hat, Moss", "dedupe", "moss,hat"),
        ("moss, blue hair, hair, hat", "prune", "moss, blue hair, hat"),
        ("moss, blue hair, hat", "absorb", "moss, hat"),
        ("moss, blue hair, hat", "absorb hat", "moss, blue hair"),
        ("hat, moss", "trigger moss", "moss, hat"),
        (None, "trigger moss", "moss"),
        ("blue_hair, ^_^", "spaces", "blue hair, ^_^"),
        (None, "remove hat", None),
    ],
)
def test_what_each_edit_does(text, edit, expected):
    name, _, arguments = edit.partition(" ")
    assert run(text, name, *[part for part in arguments.split("|") if part]) == expected


def test_frequency_order_and_sentences():
    texts = {1: "rare, moss, hat", 2: "hat, moss", 3: "moss, hat. It sits on the table all day long."}
    plan = edit.plan(texts | {4: "moss"}, "order", ["frequency"])
    assert {change.picture: change.after for change in plan.changes} == {1: "moss, hat, rare", 2: "moss, hat"}
    assert plan.notes == ["1 caption in sentences stay as they are"]


def test_plans_explain():
    assert edit.plan({1: "moss, red hat, hat"}, "prune").notes == ["hat: said by red hat"]
    plan = edit.plan({1: "moss, blue hair"}, "absorb")
    assert plan.notes == [
        "blue hair: in 100% of the captions and part of the character (hair); without it the trigger word learns it"
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("ad", [], "Unknown edit 'ad': did you mean 'add'"),
        ("add", [], "add TAG"),
        ("replace", ["a"], "takes 2 arguments and was given 1"),
        ("regex", ["(", "x"], "regular expression"),
        ("regex", ["a", r"\2"], "regular expression"),
        ("dedupe", ["a"], "takes 0"),
    ],
)
def test_wrong_edits(name, arguments, said):
    with pytest.raises(UserError, match=said):
        edit.plan({1: "a"}, name, arguments)


words = st.sampled_from(["moss", "hat", "red hat", "Hair", "blue_hair", "a cat sits on a mat, all day.", "*"])
texts = st.lists(words, max_size=5).map(", ".join)
commands = st.one_of(
    st.tuples(st.sampled_from(["add", "remove", "trigger", "order"]), st.lists(words, min_size=1, max_size=2)),
    st.tuples(st.just("replace"), st.lists(words, min_size=2, max_size=2)),
    st.tuples(st.just("regex"), st.tuples(st.sampled_from(["a", "h.t", ", "]), st.sampled_from(["", "x", r"\g<0>!"]))),
    st.tuples(st.sampled_from(["dedupe", "prune", "absorb", "spaces"]), st.just([])),
)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


def bytes_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


@settings(max_examples=25, deadline=None)
@given(
    start=st.lists(
        st.tuples(texts, st.sampled_from(ENCODINGS), st.sampled_from(["\n", "\r\n"])), min_size=3, max_size=3
    ),
    steps=st.lists(commands, max_size=5),
    format=st.sampled_from(list(formats.FORMATS)),
)
def test_any_edits_undone_give_the_same_bytes(tmp_path_factory, start, steps, format):
    folder = tmp_path_factory.mktemp("set")
    pictures = [folder / f"{number}.png" for number in range(4)]
    for path in pictures:
        path.write_bytes(b"")
    if format in ("txt", "caption"):
        for path, (text, encoding, line_break) in zip(pictures, start):
            text = text.replace(", ", "," + line_break)
            path.with_suffix(f".{format}").write_bytes((text + line_break).encode(encoding))
    else:
        formats.write(folder, {path: text for path, (text, *_) in zip(pictures, start)}, "start", format)
    states = [bytes_of(folder)]
    for name, arguments in steps:
        plan = edit.plan(formats.read(folder, pictures, format), name, list(arguments))
        if edit.apply(folder, plan, format):
            states.append(bytes_of(folder))
            now = formats.read(folder, pictures, format)
            assert all(now[change.picture] == change.after.strip() for change in plan.changes)
        else:
            assert bytes_of(folder) == states[-1]
    for earlier in reversed(states[:-1]):
        captions.undo(folder)
        assert bytes_of(folder) == earlier


def test_a_plan_is_not_applied_over_newer_text(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("moss")
    plan = edit.plan(formats.read(tmp_path, images.find(tmp_path)), "add", ["hat"])
    (tmp_path / "a.txt").write_text("by hand")
    with pytest.raises(UserError, match="a.png has been changed since"):
        edit.apply(tmp_path, plan)
    assert (tmp_path / "a.txt").read_text() == "by hand"
