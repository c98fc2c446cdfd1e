"""The filter language, against Python's own reading of the same expression."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.dataset import query
from trainer.dataset.query import Item, parse
from trainer.errors import UserError

CAT = Item(Path("x/cat 1.png"), r"moss, Blue_Hair, hat, fate \(a\)", 512, 768, 2_000_000, frozenset({"blurry"}))
DOG = Item(Path("x/dog.png"), "moss, smile, :d", 512, 512)
BARE = Item(Path("x/bare.png"), None, 100, 100)
EMPTY = Item(Path("x/empty.png"), "", 100, 100)
ALL = [CAT, DOG, BARE, EMPTY]


def names(text: str) -> str:
    return " ".join(item.path.stem.split()[0] for item in query.select(ALL, text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "cat dog bare empty"),
        ("tag:blue hair", "cat"),
        ("tag:blue hair AND NOT tag:smile", "cat"),
        ("tag:moss tag:smile", "dog"),
        ("tag:hat OR tag:smile AND tag:hat", "cat"),
        ("(tag:hat OR tag:smile) AND tag:moss", "cat dog"),
        ("NOT NOT tag:hat", "cat"),
        ('tag:"fate (a)"', "cat"),
        (r"tag:fate \(a\)", "cat"),
        ("tag:*hair", "cat"),
        ("tag::d", "dog"),
        ("TAG:hat", "cat"),
        ("blue_hair", "cat"),
        ("caption:moss, s", "dog"),
        ('"smile, :d"', "dog"),
        ("name:cat 1", "cat"),
        ("name:*.PNG", "cat dog bare empty"),
        ("missing:caption", "bare empty"),
        ("missing:file", "bare"),
        ("missing:tags", "bare empty"),
        ("issue:blurry", "cat"),
        ("NOT issue:any", "dog bare empty"),
        ("width:>=512 height:<768", "dog"),
        ("width:100..200", "bare empty"),
        ("ratio:<1", "cat"),
        ("size:2", "cat"),
        ("tags:4", "cat"),
        ("tokens:>5", "cat dog"),
        ("tokens:0", "bare empty"),
    ],
)
def test_what_it_finds(text, expected):
    assert names(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tag:", "character 1: tag: says nothing"),
        ("tga:hat", "character 1: unknown field 'tga', did you mean 'tag'"),
        ("tag:a AND", "character 10: it ends"),
        ("AND tag:a", "character 1: AND needs"),
        ("(tag:a", "character 7: a '(' is not closed"),
        ("tag:a)", "character 6: there is a ')' too many"),
        ("tag:a OR )", "character 10: a ')' stands"),
        ('"a', "character 1: a quotation mark"),
        ("tokens:many", "character 1: 'many' is no number"),
        ("missing:hat", "character 1: missing: takes caption"),
    ],
)
def test_what_it_cannot_read_is_said_with_its_place(text, said):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert said in str(caught.value)


expressions = st.recursive(
    st.sampled_from(["tag:a", "tag:b", "tag:c d"]),
    lambda inner: st.one_of(
        st.tuples(st.just("NOT"), inner).map(" ".join),
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda parts: "({} {} {})".format(*parts)),
    ),
    max_leaves=8,
)


@given(expressions, st.sets(st.sampled_from(["a", "b", "c d"])))
def test_it_means_what_python_means(text, there):
    python = text.replace("tag:c d", str("c d" in there))
    python = python.replace("tag:a", str("a" in there)).replace("tag:b", str("b" in there)).lower()
    expected = eval(python.replace("true", "True").replace("false", "False"))
    assert parse(text)(Item(Path("x.png"), ", ".join(there))) is expected


@given(st.text(st.sampled_from('ab tgNOTANDR:"()\\*[].>1 '), max_size=30))
def test_anything_typed_is_read_or_said(text):
    try:
        found = parse(text)
    except UserError as error:
        assert "character" in str(error)
    else:
        assert found(DOG) in (True, False)


def test_it_says_what_it_needs_to_know():
    assert parse("width:>1").needs_sizes and not parse("tag:a").needs_sizes
    assert parse("NOT issue:blurry").needs_issues and not parse("width:>1").needs_issues
