import numpy as np
import pytest
from PIL import Image

from trainer import drawing, lettering
from trainer.cells import Evaluation, Prompt, Rendered, Row
from trainer.drawing import draw_grid, save_grid
from trainer.errors import UserError
from trainer.grid import Table, summary
from trainer.lettering import text_width, wrap

COLORS = {0: (200, 60, 60), 1: (60, 180, 60), 2: (60, 60, 200)}


def make(folder, epochs=(0, 1, 2), strengths=(1.0,), seeds=(1,), prompts=("portrait", "leak"), size=(128, 128)):
    """An evaluation whose pictures have one colour per epoch."""
    (folder / "cells").mkdir(exist_ok=True)
    cells = []
    for name in prompts:
        for epoch in epochs:
            for strength in strengths if epoch else strengths[:1]:
                for seed in seeds:
                    file = f"cells/{prompts.index(name)}-{epoch}-{strength}-{seed}.png"
                    Image.new("RGB", size, COLORS.get(epoch, (90, 90, 90))).save(folder / file)
                    cells.append(Rendered(name, epoch, strength, seed, file))
    rows = [
        Row(epoch, strength, {"likeness": 0.4 + 0.1 * epoch} | ({"bleed": 0.1 * epoch} if epoch else {}))
        for epoch in epochs
        for strength in (strengths if epoch else strengths[:1])
    ]
    columns = [Prompt(name, f"moss, {name}, standing in a green meadow", leak=name == "leak") for name in prompts]
    return Evaluation(
        "run", "moss", {"Sampler": "Euler a"}, columns, list(seeds), list(strengths), list(epochs), cells, rows
    )


def count(image, color):
    return int((np.asarray(image) == np.array(color, np.uint8)).all(2).sum())


def test_every_picture_is_there_whole_and_doubled_when_small(tmp_path):
    image = draw_grid(make(tmp_path), tmp_path)
    assert image.mode == "RGB"
    for color in COLORS.values():
        assert count(image, color) == 2 * 256 * 256


def test_cell_sets_the_longest_side_and_nothing_is_cropped(tmp_path):
    image = draw_grid(make(tmp_path, size=(96, 144)), tmp_path, cell=90)
    assert count(image, COLORS[1]) == 2 * 60 * 90


def test_a_picture_of_another_shape_is_letterboxed(tmp_path):
    evaluation = make(tmp_path)
    Image.new("RGB", (128, 64), COLORS[1]).save(tmp_path / evaluation.cells[1].file)
    image = draw_grid(evaluation, tmp_path)
    assert count(image, COLORS[1]) == 256 * 256 + 256 * 128


def test_rows_stand_in_order_with_the_base_on_top(tmp_path):
    pixels = np.asarray(draw_grid(make(tmp_path), tmp_path))
    tops = [np.argwhere((pixels == np.array(color, np.uint8)).all(2))[0][0] for color in COLORS.values()]
    assert tops == sorted(tops)


def test_the_recommended_row_is_framed_and_its_reason_stands_on_top(tmp_path):
    evaluation = make(tmp_path)
    plain = draw_grid(evaluation, tmp_path)
    evaluation.recommended = {"epoch": 2, "strength": 1.0, "reason": "Epoch 2: likeness has stopped rising."}
    marked = draw_grid(evaluation, tmp_path)
    tint = (0xEA, 0xF4, 0xFA)
    assert count(plain, tint) == 0
    assert count(marked, tint) > 10_000
    assert marked.height > plain.height


def test_strengths_are_blocks_and_one_can_be_chosen(tmp_path):
    evaluation = make(tmp_path, strengths=(0.5, 1.0))
    both = draw_grid(evaluation, tmp_path)
    assert count(both, COLORS[1]) == 4 * 256 * 256
    assert count(both, COLORS[0]) == 4 * 256 * 256  # the base on top of either
    assert count(draw_grid(evaluation, tmp_path, strength=0.5), COLORS[1]) == 2 * 256 * 256
    with pytest.raises(UserError, match="strength 0.7; there are: 0.5, 1"):
        draw_grid(evaluation, tmp_path, strength=0.7)


def test_seeds_stand_side_by_side_and_one_can_be_chosen(tmp_path):
    evaluation = make(tmp_path, seeds=(1, 2))
    assert count(draw_grid(evaluation, tmp_path), COLORS[1]) == 4 * 256 * 256
    assert count(draw_grid(evaluation, tmp_path, seed=2), COLORS[1]) == 2 * 256 * 256
    with pytest.raises(UserError, match="seed 3; there are: 1, 2"):
        draw_grid(evaluation, tmp_path, seed=3)


def test_a_prompt_that_pins_its_seed_stays_when_another_is_chosen(tmp_path):
    evaluation = make(tmp_path, seeds=(1, 2))
    evaluation.prompts[1] = Prompt("leak", "dog", seed=9)
    evaluation.cells = [cell for cell in evaluation.cells if cell.column != "leak" or cell.seed == 1]
    for cell in evaluation.cells:
        cell.seed = 9 if cell.column == "leak" else cell.seed
    table = Table(evaluation, seed=2)
    assert [table.seeds(prompt) for prompt in table.prompts] == [[2], [9]]


@pytest.mark.parametrize("damage", ["missing", "broken", "no cell"])
def test_what_is_not_rendered_is_an_empty_frame(tmp_path, damage):
    evaluation = make(tmp_path)
    path = tmp_path / evaluation.cells[1].file
    if damage == "missing":
        path.unlink()
    elif damage == "broken":
        path.write_bytes(path.read_bytes()[:60])
    else:
        del evaluation.cells[1]
    image = draw_grid(evaluation, tmp_path)
    assert count(image, COLORS[1]) == 256 * 256


def test_nothing_rendered_nothing_scored_still_draws(tmp_path):
    evaluation = make(tmp_path)
    evaluation.cells, evaluation.rows, evaluation.about = [], [], {}
    assert draw_grid(evaluation, tmp_path).width > 256
    evaluation.prompts, evaluation.epochs = [], []
    assert draw_grid(evaluation, tmp_path).width > 256


def test_scores_that_are_not_numbers_are_not_drawn(tmp_path):
    evaluation = make(tmp_path)
    evaluation.rows[1].scores["likeness"] = float("nan")
    evaluation.rows[1].scores["fidelity"] = 0.5
    draw_grid(evaluation, tmp_path)
    assert "likeness" not in Table(evaluation).scores(1, 1.0)


def test_a_large_comparison_stays_within_the_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "LONGEST_SIDE", 1200)
    evaluation = make(tmp_path, epochs=range(30))
    image = draw_grid(evaluation, tmp_path)
    assert max(image.size) <= 1200
    monkeypatch.setattr(drawing, "LONGEST_SIDE", 12_000)
    monkeypatch.setattr(drawing, "MOST_PIXELS", 400_000)
    image = draw_grid(make(tmp_path), tmp_path)
    assert image.width * image.height <= 400_000


def test_save_grid_writes_the_same_picture_whole(tmp_path):
    evaluation = make(tmp_path)
    path = save_grid(evaluation, tmp_path)
    assert path == tmp_path / "grid.png"
    with Image.open(path) as saved:
        assert saved.convert("RGB").tobytes() == draw_grid(evaluation, tmp_path).tobytes()
    assert not list(tmp_path.glob(".*"))


# Rows, columns, bars


def test_bars_run_over_their_column_but_do_not_blow_up_noise(tmp_path):
    table = Table(make(tmp_path))
    assert [round(table.share("likeness", value), 3) for value in (0.4, 0.5, 0.6)] == [0, 0.5, 1]
    evaluation = make(tmp_path)
    for row in evaluation.rows:
        row.scores = {"likeness": 0.70 + 0.001 * row.epoch}
    assert Table(evaluation).share("likeness", 0.702) < 0.05


def test_known_metrics_come_in_their_order_and_others_after_them(tmp_path):
    evaluation = make(tmp_path)
    evaluation.rows[0].scores["a fidelity of my own"] = 1.0
    assert Table(evaluation).metrics() == ["likeness", "bleed", "a fidelity of my own"]


def test_the_scores_that_decide_stand_beside_the_pictures_and_leave_them_the_room(tmp_path):
    evaluation = make(tmp_path)
    few = draw_grid(evaluation, tmp_path)
    for row in evaluation.rows:
        row.scores.update(burn=1.0, memorisation=0.1, prompt=0.5, aesthetic=5.0)
    table = Table(evaluation)
    assert table.deciding() == ["likeness", "bleed"] and len(table.metrics()) == 6
    assert draw_grid(evaluation, tmp_path).width == few.width
    for row in evaluation.rows:  # of scores that are all of somebody's own, the first few
        row.scores = {f"own {number}": 0.5 for number in range(9)}
    assert len(Table(evaluation).deciding()) == 4


@pytest.mark.parametrize(
    ("epochs", "words"),
    [((0, 1, 2, 3), "epochs 1 to 3"), ((0, 2, 4), "epochs 2, 4"), ((0, 7), "epoch 7"), ((0,), "base only")],
)
def test_the_line_under_the_title(tmp_path, epochs, words):
    assert " · ".join(summary(Table(make(tmp_path, epochs=epochs)))) == f"{words} · strength 1 · 2 prompts · seed 1"


# Type


def test_pillows_font_has_what_our_own_labels_are_made_of():
    for char in "abcxyzABCXYZ0123456789.,:;·()[]<>%/+-\"'_…":
        assert lettering._has(None, char), char


def test_no_character_is_drawn_as_an_empty_box():
    boxes = lettering._font(None, 20).getmask("\U0010ffff")
    for text in ("猫耳", "кот", "émile", "한글", "–—×", "🐱", "a\u0301", "\u200b", "\x07", "\ud800"):
        for font, run in lettering.runs(text, 20):
            for char in run.replace(" ", ""):
                missing = font.getmask("\U0010ffff")
                assert bytes(font.getmask(char)) != bytes(missing) or bytes(missing) != bytes(boxes), (text, char)
                assert bytes(font.getmask(char)) != bytes(missing), (text, char)


def test_without_any_other_font_letters_are_spelt_out(monkeypatch):
    monkeypatch.setattr(lettering, "FALLBACK_FONTS", ())
    lettering.runs.cache_clear()
    try:
        assert "".join(run for _, run in lettering.runs("émile – 猫", 21)) == "emile - <732B>"
    finally:
        lettering.runs.cache_clear()


def test_hostile_and_foreign_names_do_not_stop_the_drawing(tmp_path):
    evaluation = make(tmp_path)
    evaluation.title = "猫\n" * 50 + "\x00\ud800" + "🐱" * 200
    evaluation.prompts[0] = Prompt(evaluation.prompts[0].name, "ねこ" * 300 + " " + "x" * 900 + "\t\r\n")
    evaluation.about = {"Notes": "Ж" * 500}
    evaluation.recommended = {"epoch": 1, "strength": 1.0, "reason": "가" * 300}
    image = draw_grid(evaluation, tmp_path)
    assert image.width < 3000


def test_wrapping_keeps_within_the_width_and_says_when_text_is_left():
    text = "one two three four five six seven eight nine ten"
    lines = wrap(text, 16, 100, most=9)
    assert " ".join(lines) == text
    assert all(text_width(line, 16) <= 100 for line in lines)
    short = wrap(text, 16, 100, most=2)
    assert len(short) == 2 and short[-1].endswith("…")
    assert all(text_width(line, 16) <= 100 for line in wrap("x" * 200, 16, 100, most=3))
    assert wrap("", 16, 100, most=2) == []
