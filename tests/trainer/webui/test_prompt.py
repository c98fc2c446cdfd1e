import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import UserError
from trainer.webui.chunking import chunks, pad
from trainer.webui.prompt import Network, attention, extract_networks, parse, split_and, strip_comments
from trainer.webui.prompt_editing import schedule
from trainer.webui.styles import apply_style, read_styles

MARKS = [
    "a",
    "b ",
    " c",
    "[",
    "]",
    "(",
    ")",
    ":",
    "|",
    ":3",
    ":0.5]",
    "\\(",
    "\\",
    "\n",
    "AND",
    "BREAK",
    ":1.2)",
]
FRAGMENTS = st.lists(st.sampled_from([*MARKS, "<lora:x:0.5>", "#", "😀", "[a|b]", "[c:d:5]"]), max_size=14)
TEXTS = FRAGMENTS.map("".join) | st.text(max_size=60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [["", 1.0]]),
        ("normal text", [["normal text", 1.0]]),
        ("an (important) word", [["an ", 1.0], ["important", 1.1], [" word", 1.0]]),
        ("(unbalanced", [["unbalanced", 1.1]]),
        ("unbalanced)", [["unbalanced)", 1.0]]),
        ("\\(literal\\]", [["(literal]", 1.0]]),
        ("back\\slash \\\\", [["backslash \\", 1.0]]),
        ("(unnecessary)(parens)", [["unnecessaryparens", 1.1]]),
        ("[less]", [["less", 1 / 1.1]]),
        ("(a:-0.5)", [["a", -0.5]]),
        ("(a: 1.2 )", [["a", 1.2]]),
        ("(a:1.2.3)", [["a:1.2.3)", 1.1]]),
        ("((a:2)b)", [["a", 2.2], ["b", 1.1]]),
        ("[(a]:1.5)", [["a", 1.5 / 1.1]]),
        ("a BREAK b", [["a", 1.0], ["BREAK", -1.0], ["b", 1.0]]),
        ("(a BREAK b)", [["a", 1.1], ["BREAK", -1.1], ["b", 1.1]]),
        ("BREAKFAST", [["BREAKFAST", 1.0]]),
        ("ratio 3:4", [["ratio 3:4", 1.0]]),
        ("(😀:1.3)", [["😀", 1.3]]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ["a ", 1.0], ["house", 1.573], [" ", 1.1], ["on", 1.0], [" a ", 1.1], ["hill", 0.55],
                [", sun, ", 1.1], ["sky", 1.4641], [".", 1.1],
            ],
        ),
    ],
)  # fmt: skip
def test_attention_is_a1111s(text, expected):
    read = attention(text)
    assert [text for text, _ in read] == [text for text, _ in expected]
    assert [weight for _, weight in read] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test", [(10, "test")]),
        ("", [(10, "")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b::0.5] c", [(5, "a b c"), (10, "a  c")]),
        ("a [b:c:1.0]", [(10, "a b")]),
        ("a [b:c:0]", [(10, "a c")]),
        ("a [b:c:-2]", [(10, "a c")]),
        ("a [b:c:99]", [(10, "a b")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("\\[a:b:3\\]", [(10, "\\[a:b:3\\]")]),
        ("[a|(b:1.1)]", [(i, "(b:1.1)" if i % 2 == 0 else "a") for i in range(1, 11)]),
        ("[fe|]male", [(i, "male" if i % 2 == 0 else "female") for i in range(1, 11)]),
        # A mark that the grammar has no rule for leaves the whole prompt unscheduled.
        ("a | b [c:3]", [(10, "a | b [c:3]")]),
        ("[c:3] \\", [(10, "[c:3] \\")]),
    ],
)
def test_schedules_are_a1111s(text, expected):
    assert schedule(text, 10) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a [b:.5] c", [(10, "a b c")]),
        ("a [b:1.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b:c:5]", [(10, "a c")]),
        ("a [b:c:15]", [(5, "a b"), (10, "a c")]),
    ],
)
def test_the_hires_pass_has_its_own_numbers(text, expected):
    assert schedule(text, 10, 10) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat AND a dog", [("a cat", 1.0), (" a dog", 1.0)]),
        ("a cat :1.2 AND a dog:0.5 AND z", [("a cat", 1.2), (" a dog", 0.5), (" z", 1.0)]),
        ("SAND AND LAND", [("SAND", 1.0), (" LAND", 1.0)]),
        ("a clock at 12:30", [("a clock at 12", 30.0)]),
        ("(a:1.2)", [("(a:1.2)", 1.0)]),
        ("a:-1", [("a", -1.0)]),
    ],
)
def test_and_splits_with_weights(text, expected):
    assert split_and(text) == expected


def test_networks_leave_the_text():
    text, networks = extract_networks("a <lora:cat:0.8> b <lyco:x:te=0.5:unet=0.7><hypernet:h>")
    assert text == "a  b "
    assert networks == (
        Network("lora", "cat", ("0.8",)),
        Network("lyco", "x", ("te=0.5", "unet=0.7")),
        Network("hypernet", "h"),
    )
    assert [network.is_lora for network in networks] == [True, True, False]


@pytest.mark.parametrize(
    ("args", "weights"),
    [((), (1, 1)), (("0.8",), (0.8, 0.8)), (("0.8", "0.5"), (0.8, 0.5)), (("te=0.2",), (0.2, 0.2)),
     (("unet=0.3",), (1, 0.3)), (("0.5", "unet=-1"), (0.5, -1))],
)  # fmt: skip
def test_network_weights(args, weights):
    assert Network("lora", "x", args).weights == weights


def test_a_network_weight_that_is_no_number_is_named():
    with pytest.raises(UserError, match="<lora:x:much>"):
        _ = Network("lora", "x", ("much",)).weights


def test_a_negative_prompt_has_neither_networks_nor_and():
    read = parse("a AND b <lora:x:1>", negative=True)
    assert read.networks == ()
    assert [branch.text for branch in read.branches] == ["a AND b <lora:x:1>"]


def test_comments_and_emphasis_can_be_left_alone():
    assert strip_comments("# all\na, b # rest\nc") == "\na, b \nc"
    assert parse("a # b").branches[0].text == "a"
    assert parse("a # b", comments=False).branches[0].text == "a # b"
    assert parse("(a:1.2)", emphasis=False).branches[0].schedule[0].attention == (("(a:1.2)", 1.0),)


def test_a_schedule_is_looked_up_with_a1111s_offset():
    branch = parse("[a:b:3]", 10).branches[0]
    assert [branch.index_at(step) for step in range(6)] == [0, 0, 0, 0, 1, 1]


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 50), st.none() | st.integers(1, 50))
def test_no_prompt_crashes(text, steps, hires_steps):
    read = parse(text, steps, hires_steps)
    for branch in read.branches:
        untils = [entry.until for entry in branch.schedule]
        assert untils == sorted(set(untils))
        assert untils[-1] == (hires_steps or steps)


@pytest.mark.parametrize("text", ["[" * 5000, "(" * 5000 + ")" * 5000, "[a:" * 3000 + "b" + ":3]" * 3000])
def test_deep_brackets_are_read_in_reasonable_time(text):
    assert parse(text, 10).branches


# ── chunks ─────────────────────────────────────────────────────────────────────────────────────────────


def tokenize(text):
    """One token a word, commas apart; the id is the word's number or its hash."""
    words = text.replace(",", " , ").split()
    return [267 if word == "," else int(word[1:]) if word[1:].isdecimal() else 5000 + len(word) for word in words]


def words(start, end):
    return " ".join(f"w{i}" for i in range(start, end))


def test_an_empty_prompt_is_one_padded_chunk():
    (chunk,) = chunks(attention(""), tokenize)
    assert chunk.ids == (49406, *[49407] * 76)
    assert chunk.weights == (1.0,) * 77
    assert (chunk.count, chunk.text) == (0, "")


def test_weights_stand_beside_their_tokens():
    (chunk,) = chunks(attention("w1 (w2 w3:1.5)"), tokenize, bos=1, eos=2)
    assert chunk.ids[:5] == (1, 1, 2, 3, 2)
    assert chunk.weights[:5] == (1.0, 1.0, 1.5, 1.5, 1.0)


def test_75_tokens_fill_a_chunk_and_the_next_opens_another():
    assert [chunk.count for chunk in chunks(attention(words(0, 75)), tokenize)] == [75]
    assert [chunk.count for chunk in chunks(attention(words(0, 200)), tokenize)] == [75, 75, 50]


def test_a_comma_within_twenty_tokens_moves_the_break():
    text = words(100, 160) + ", " + words(200, 230)
    first, second = chunks(attention(text), tokenize)
    assert (first.count, second.count) == (61, 30)
    assert first.text == words(100, 160) + ","
    assert second.text == words(200, 230)
    far = words(100, 150) + ", " + words(200, 240)
    assert [chunk.count for chunk in chunks(attention(far), tokenize)] == [75, 16]
    assert [chunk.count for chunk in chunks(attention(text), tokenize, backtrack=0)] == [75, 16]


def test_a_comma_that_would_open_a_chunk_does():
    read = chunks(attention(words(100, 175) + ", w1"), tokenize)
    assert [chunk.count for chunk in read] == [75, 2]


def test_break_pads_the_chunk():
    read = chunks(attention("w1 BREAK w2 BREAK"), tokenize)
    assert [(chunk.count, chunk.text) for chunk in read] == [(1, "w1"), (1, "w2")]
    assert [chunk.count for chunk in chunks(attention("BREAK w1"), tokenize)] == [0, 1]


def test_an_embedding_takes_its_slots():
    (chunk,) = chunks(attention("w1 (w7 w8:1.2) w9"), tokenize, embeddings={"w7": 1, "w7 w8": 3})
    assert chunk.embeddings == ((2, "w7 w8"),)
    assert chunk.ids[:7] == (49406, 1, 0, 0, 0, 9, 49407)
    assert chunk.weights[2:5] == (1.2,) * 3
    first, second = chunks(attention(words(100, 174) + " w7"), tokenize, embeddings={"w7": 2})
    assert (first.count, second.count, second.embeddings) == (74, 2, ((1, "w7"),))


def test_backtracking_takes_embeddings_along():
    text = words(100, 165) + ", w7 " + words(200, 220)
    first, second = chunks(attention(text), tokenize, embeddings={"w7": 3})
    assert (first.count, first.embeddings) == (66, ())
    assert second.embeddings == ((1, "w7"),)
    assert second.ids[1:5] == (0, 0, 0, 200)


def test_an_embedding_longer_than_a_chunk_is_refused():
    with pytest.raises(UserError, match="76 vectors"):
        chunks(attention("w7"), tokenize, embeddings={"w7": 76})


def test_other_padding_keeps_the_first_end_mark():
    (chunk,) = chunks(attention("w1"), tokenize)
    assert chunk.padded_with(0) == (49406, 1, 49407, *[0] * 74)
    assert [part.count for part in pad([chunk], 3)] == [1, 0, 0]


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_chunks_hold_every_token_once(text):
    read = chunks(attention(text), tokenize)
    total = sum(len(tokenize(part)) for part, weight in attention(text) if (part, weight) != ("BREAK", -1.0))
    assert sum(chunk.count for chunk in read) == total
    assert all(len(chunk.ids) == len(chunk.weights) == 77 for chunk in read)


def test_styles_merge():
    assert apply_style("a cat", "oil painting of {prompt}, thick") == "oil painting of a cat, thick"
    assert apply_style("a cat ", " detailed") == "a cat, detailed"
    assert apply_style("", "detailed") == "detailed"


def test_styles_are_read_from_a1111s_file(tmp_path):
    file = tmp_path / "styles.csv"
    file.write_text('name,prompt,negative_prompt\nOil,"oil painting, {prompt}",blurry\nNone,,\n', encoding="utf-8-sig")
    assert read_styles(file) == {"Oil": ("oil painting, {prompt}", "blurry"), "None": ("", "")}
    with pytest.raises(UserError, match="missing.csv"):
        read_styles(tmp_path / "missing.csv")
