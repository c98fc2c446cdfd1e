import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from trainer import report
from trainer.cells import Evaluation, Prompt, Rendered, Row
from trainer.report import write_report

COLORS = {0: (200, 60, 60), 1: (60, 180, 60), 2: (60, 60, 200)}
TAKE = "document.title='taken'"
COLUMNS = ("portrait", "hat", "leak")
HOSTILE = f'</script><script>{TAKE}</script><img src=x onerror="{TAKE}">\'`${{1}}&amp;\u2028'


def make(folder, strengths=(1.0,), seeds=(1,), prompts=COLUMNS, size=(128, 128)):
    """An evaluation of the base and two epochs whose pictures have one colour per epoch."""
    (folder / "cells").mkdir(exist_ok=True)
    cells = []
    for column, name in enumerate(prompts):
        for epoch, color in COLORS.items():
            for strength in strengths if epoch else strengths[:1]:
                for seed in seeds:
                    file = f"cells/{column}-{epoch}-{strength}-{seed}.png"
                    image = Image.new("RGB", size, color)
                    image.paste("white", (0, 0, 10 + 10 * column, 10))
                    image.save(folder / file)
                    infotext = f"{name} {epoch}\nSteps: 20"
                    cells.append(Rendered(name, epoch, strength, seed, file, infotext, {"burn": 0.1}))
    rows = [Row(0, strengths[0], {"likeness": 0.4})]
    rows += [Row(epoch, s, {"likeness": 0.4 + 0.1 * epoch, "burn": 0.1}) for epoch in (1, 2) for s in strengths]
    columns = [Prompt(name, f"moss, {name}", "blurry", leak=name == "leak") for name in prompts]
    best = {"epoch": 2, "strength": strengths[-1], "reason": "Epoch 2: likeness has stopped rising."}
    about, settings = {"Sampler": "Euler a"}, "[loop]\n"
    chosen = columns, list(seeds), list(strengths), [0, 1, 2]
    return Evaluation("run", "moss", about, *chosen, cells, rows, best, settings)


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def picture(uri):
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_one_file_with_everything_in_it(tmp_path):
    path = write_report(make(tmp_path), tmp_path)
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)\s*=\s*"?(https?:|//|[\w./-]+\.(js|css|png))', text)
    assert "default-src 'none'" in text
    data = data_of(path)
    assert (data["title"], data["epochs"], len(data["cells"]), len(data["pictures"])) == ("moss", [0, 1, 2], 9, 9)
    assert data["recommended"] == {"epoch": 2, "strength": 0, "reason": "Epoch 2: likeness has stopped rising."}
    assert data["settings"] == "[loop]\n"
    assert data["metrics"][0]["misleads"]


def test_small_pictures_are_stored_without_loss(tmp_path):
    evaluation = make(tmp_path)
    data = data_of(write_report(evaluation, tmp_path))
    for cell, shown in zip(evaluation.cells, data["cells"], strict=True):
        with Image.open(tmp_path / cell.file) as original:
            assert picture(data["pictures"][shown["picture"]]).convert("RGB").tobytes() == original.tobytes()


def test_the_worst_pictures_for_any_format_stay_within_the_limit(tmp_path, monkeypatch):
    """A tenth of a grid of 10 x 8 pictures of noise and of its limit."""
    monkeypatch.setattr(report, "MOST_BYTES", report.MOST_BYTES // 10)
    evaluation = make(tmp_path, prompts=("portrait",), size=(512, 512))
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cells" / "noise.png")
    for index in range(8):
        shutil.copy(tmp_path / "cells" / "noise.png", tmp_path / "cells" / f"noise{index}.png")
        evaluation.cells.append(Rendered("portrait", 1, 1.0, 100 + index, f"cells/noise{index}.png"))
    path = write_report(evaluation, tmp_path)
    assert path.stat().st_size <= 3_000_000
    assert len(data_of(path)["pictures"]) == 11


def test_pictures_shrink_only_as_far_as_needed(tmp_path, monkeypatch):
    evaluation = make(tmp_path, size=(512, 384))
    assert picture(data_of(write_report(evaluation, tmp_path))["pictures"][0]).size == (512, 384)
    monkeypatch.setattr(report, "MOST_BYTES", 10)
    smallest = data_of(write_report(evaluation, tmp_path))
    assert picture(smallest["pictures"][0]).size == (128, 96)
    assert (smallest["prompts"][0]["width"], smallest["prompts"][0]["height"]) == (512, 384)


def test_what_is_not_rendered_has_no_picture(tmp_path):
    evaluation = make(tmp_path)
    (tmp_path / evaluation.cells[1].file).unlink()
    (tmp_path / evaluation.cells[2].file).write_bytes(b"broken")
    data = data_of(write_report(evaluation, tmp_path))
    assert [cell["picture"] for cell in data["cells"]][:4] == [0, -1, -1, 1]


def test_an_evaluation_with_nothing_in_it_is_still_a_page(tmp_path):
    empty = Evaluation("run", "moss", {}, [], [], [], [0], [])
    assert data_of(write_report(empty, tmp_path))["pictures"] == []


def test_scores_that_are_not_finite_are_left_out(tmp_path):
    evaluation = make(tmp_path)
    evaluation.rows[1].scores["likeness"] = float("nan")
    evaluation.cells[1].scores["burn"] = float("inf")
    data = data_of(write_report(evaluation, tmp_path))
    assert "likeness" not in data["rows"][1]["scores"]
    assert "burn" not in data["cells"][1]["scores"]


def hostile(folder):
    evaluation = make(folder)
    evaluation.prompts = [Prompt(p.name + HOSTILE, HOSTILE, HOSTILE, leak=p.leak) for p in evaluation.prompts]
    for cell in evaluation.cells:
        cell.column += HOSTILE
        cell.infotext = HOSTILE
    for row in evaluation.rows:
        row.scores[HOSTILE] = 0.5
    evaluation.title = evaluation.run = evaluation.settings = HOSTILE + "{{data}}{{title}}"
    evaluation.about = {HOSTILE: HOSTILE + "\ud800"}
    evaluation.recommended["reason"] = HOSTILE
    return evaluation


def test_no_text_can_leave_its_place(tmp_path):
    path = write_report(hostile(tmp_path), tmp_path)
    text = path.read_text(encoding="utf-8")
    plain = write_report(make(tmp_path), tmp_path).read_text(encoding="utf-8")
    for tag in ("<script", "</script", "<img", "<title"):
        assert text.count(tag) == plain.count(tag)
    path.write_text(text, encoding="utf-8")
    data = data_of(path)
    assert data["title"] == HOSTILE + "{{data}}{{title}}"
    assert data["prompts"][0]["prompt"] == HOSTILE
    assert data["cells"][0]["infotext"] == HOSTILE


def test_the_page_never_makes_html_from_data():
    script = report.TEMPLATE.read_text(encoding="utf-8").rpartition("<script>")[2]
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way not in script


# In a real browser


@pytest.fixture
def open_page(browser):
    """Opens a report from disk; fails when the page reports an error or asks for anything on a network."""
    pages, trouble = [], []

    def opening(path, **context):
        page = browser.new_context(**context).new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: trouble.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield opening
    for page in pages:
        page.context.close()
    assert trouble == []


def cell(page, row, column):
    return page.locator(f'.cell[data-row="{row}"][data-column="{column}"]').first


def shown(page):
    """The picture on the stage and where it is: source, transform."""
    return page.evaluate(
        "(({src, style}) => [src, style.transform])(document.querySelector('#over img'))",
    )


def test_the_grid_has_the_base_first_and_marks_the_recommended_row(tmp_path, open_page):
    page = open_page(write_report(make(tmp_path), tmp_path))
    names = page.locator("tbody th b").all_inner_texts()
    assert [name.strip() for name in names] == ["base", "epoch 1", "epoch 2 ★"]
    assert page.locator("tr.best").count() == 1
    assert page.locator("#recommended").inner_text().endswith("Epoch 2: likeness has stopped rising.")
    assert page.locator(".cell img").count() == 9
    assert all(page.locator(".cell img").evaluate_all("images => images.map(image => image.alt)"))
    assert page.locator(".curve svg path").count() == 2


def test_rows_of_a_second_run_have_their_own_names_and_curves(tmp_path, open_page):
    evaluation = make(tmp_path)
    evaluation.rows += [Row(1, 1.0, {"likeness": 0.5})]
    evaluation.epochs, evaluation.labels = [0, 1, 2], {2: "fern epoch 1"}
    page = open_page(write_report(evaluation, tmp_path))
    names = page.locator("tbody th b").all_inner_texts()
    assert [name.strip() for name in names] == ["base", "epoch 1", "fern epoch 1 ★"]
    assert " against fern epoch 1 " in page.locator("#summary").inner_text()
    assert page.locator(".curve svg path").first.get_attribute("d").count("M") == 2
    cell(page, 2, 0).click()
    assert page.locator("#where").inner_text().startswith("fern epoch 1")
    page.keyboard.press("Escape")
    under = page.locator(".curve svg text").all_text_contents()
    assert "moss" in under and "fern" in under


def test_a_second_base_stands_above_its_run_and_is_what_that_is_compared_with(tmp_path, open_page):
    evaluation = make(tmp_path)
    evaluation.epochs, evaluation.labels = [0, 1, -1, 2], {2: "fern epoch 1", -1: "fern base"}
    for one in [one for one in evaluation.cells if one.epoch == 0]:
        file = one.file.replace("-0-", "-other-")
        Image.new("RGB", (128, 128), "orange").save(tmp_path / file)
        evaluation.cells.append(Rendered(one.column, -1, one.strength, one.seed, file, "x\nSteps: 20"))
    page = open_page(write_report(evaluation, tmp_path))
    names = page.locator("tbody th b").all_inner_texts()
    assert [name.strip() for name in names] == ["base", "epoch 1", "fern base", "fern epoch 1 ★"]
    assert [note.strip() for note in page.locator("tbody th small").all_inner_texts()] == ["no LoRA", "no LoRA"]
    cell(page, 3, 0).click()
    page.keyboard.press("b")
    assert page.locator("#before").inner_text() == "fern base"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.locator("#before").inner_text() == "base"
    assert page.locator("#where").inner_text().startswith("epoch 1")


def test_the_strength_of_each_curve_stands_behind_it(tmp_path, open_page):
    evaluation = make(tmp_path, strengths=(0.5, 1.0))
    for row in evaluation.rows:
        row.scores["likeness"] += 0.5 * row.strength * row.epoch
    page = open_page(write_report(evaluation, tmp_path))
    first = page.locator(".curve svg").first.locator("text").all_text_contents()
    assert "× 0.5" in first and "× 1" in first


def test_zoom_and_place_stay_while_prompts_and_epochs_change(tmp_path, open_page):
    page = open_page(write_report(make(tmp_path), tmp_path))
    cell(page, 1, 0).click()
    page.mouse.move(300, 300)
    page.mouse.wheel(0, -400)
    page.wait_for_function("document.querySelector('#over img').style.transform.includes('scale(2.')")
    source, transform = shown(page)
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#over img').style.transform")
    moved_source, moved_transform = shown(page)
    assert moved_source != source and moved_transform == transform
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.querySelector('#over img').style.transform")
    assert shown(page)[1] == transform
    assert page.locator("#where").inner_text().startswith("epoch 2 ★")
    page.keyboard.press("Escape")
    # The viewer's end is an event of its own, a moment after the key.
    page.locator(".cell[data-row='2'][data-column='1']:focus").wait_for()


def test_space_held_down_shows_the_base(tmp_path, open_page):
    page = open_page(write_report(make(tmp_path), tmp_path))
    cell(page, 2, 0).click()
    clip = "document.querySelector('#over').style.clipPath"
    page.keyboard.down(" ")
    assert page.evaluate(clip).startswith("inset(0px 0px 0px 100%")
    assert page.locator("#before").inner_text() == "base"
    page.keyboard.up(" ")
    assert page.evaluate(clip) == "none"


def test_the_slider_divides_base_and_epoch(tmp_path, open_page):
    page = open_page(write_report(make(tmp_path), tmp_path))
    cell(page, 2, 0).click()
    page.keyboard.press("b")
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 100)
    page.mouse.up()
    assert page.locator("#split").get_attribute("aria-valuenow") == "40"
    assert page.locator("#before").inner_text() == "base" and page.locator("#after").inner_text() == "epoch 2"
    picture = Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")
    colors = [picture.getpixel((round(picture.width * part), picture.height // 2)) for part in (0.35, 0.5)]
    assert colors == [COLORS[0], COLORS[2]]


def test_infotext_is_copied(tmp_path, open_page):
    page = open_page(write_report(make(tmp_path), tmp_path), permissions=["clipboard-read", "clipboard-write"])
    cell(page, 1, 1).click()
    page.locator("#copy").click()
    page.wait_for_selector("#toast.on")
    assert page.evaluate("navigator.clipboard.readText()") == "hat 1\nSteps: 20"


def test_all_cells_zoom_together_around_the_pointer(tmp_path, open_page):
    page = open_page(write_report(make(tmp_path), tmp_path))
    box = cell(page, 0, 0).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    page.wait_for_function("document.documentElement.style.getPropertyValue('--zoom') > 2")
    style = "all => [...new Set(all.map(one => getComputedStyle(one).{}))]"
    (transform,) = page.locator(".cell img").evaluate_all(style.format("transform"))
    (origin,) = page.locator(".cell img").evaluate_all(style.format("transformOrigin"))
    assert "matrix(2." in transform
    across, down = (float(part.removesuffix("px")) for part in origin.split())
    assert across / box["width"] == pytest.approx(0.25, abs=0.02)
    assert down / box["height"] == pytest.approx(0.75, abs=0.02)


READ = """() => {
  const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode())
    if (!texts.currentNode.parentNode.closest("script, noscript")) found.push(texts.currentNode.data);
  for (const name of ["title", "alt", "aria-label", "aria-valuetext"])
    for (const one of document.querySelectorAll(`[${name}]`)) found.push(one.getAttribute(name));
  return found;
}"""


def loud(text):
    """Capital letters, but for what is filled in."""
    return re.sub(r"{\w+}|[^{]+", lambda part: part[0] if part[0][0] == "{" else part[0].upper(), text)


def test_every_text_of_the_page_can_be_had_in_other_words(tmp_path, open_page):
    evaluation = make(tmp_path, strengths=(0.5, 1.0), seeds=(1, 2))
    (tmp_path / evaluation.cells[1].file).unlink()
    path = write_report(evaluation, tmp_path)
    texts = {text: loud(text) for text in (*report.own_texts(), *report.texts_about(evaluation))}
    english = path.read_text(encoding="utf-8")
    path.write_text(report.in_words(english, "zh-CN", texts), encoding="utf-8")
    assert report.is_current(path.read_text(encoding="utf-8"))
    assert report.in_words(path.read_text(encoding="utf-8"), "en", {}) == english
    page = open_page(path)
    page.get_by_role("group", name="STRENGTH").get_by_text("ALL").click()
    cell(page, 2, 0).click()
    page.keyboard.press("b")
    page.keyboard.press("c")
    page.locator("#toast.on").wait_for()
    said = page.evaluate(READ)
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    for text in ("EPOCH 1 AT 0.5", "HOLD: BASE", "NOT RENDERED", "NO LORA", "NO TRIGGER", "50 % BASE"):
        assert any(text in one for one in said), text
    given = "|".join([*COLUMNS, "loop", "moss", "blurry", "Euler", "run"])
    assert [one for one in said if re.search("[a-z]{2}", re.sub(given, "", one))] == []


def test_strengths_and_seeds_can_be_chosen(tmp_path, open_page):
    page = open_page(write_report(make(tmp_path, strengths=(0.5, 1.0), seeds=(1, 2)), tmp_path))
    assert page.locator(".cell").count() == 3 * 3 * 2
    page.get_by_role("group", name="Seed").get_by_text("2", exact=True).click()
    assert page.locator(".cell").count() == 3 * 3
    page.get_by_role("group", name="Strength").get_by_text("all").click()
    assert page.locator(".cell").count() == 5 * 3
    cell(page, 1, 0).click()
    page.keyboard.press("]")
    assert "strength 1 " in page.locator("#where").inner_text()
    page.keyboard.press("s")
    assert "seed" in page.locator("#where").inner_text()


def test_arrow_keys_and_enter_work_in_the_grid_and_skip_what_is_missing(tmp_path, open_page):
    evaluation = make(tmp_path)
    (tmp_path / "cells" / "1-0-1.0-1.png").unlink()
    page = open_page(write_report(evaluation, tmp_path))
    cell(page, 0, 0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("[document.activeElement.dataset.row, document.activeElement.dataset.column]") == ["1", "2"]
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    assert page.get_by_text("not rendered").count() >= 1


def test_hostile_texts_are_shown_and_do_nothing(tmp_path, open_page):
    page = open_page(write_report(hostile(tmp_path), tmp_path))
    cell(page, 1, 0).click()
    page.wait_for_timeout(200)
    assert page.title() != "taken"
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("#text").inner_text().startswith("</script><script>")


def test_it_fits_a_phone_and_swipes(tmp_path, open_page):
    page = open_page(
        write_report(make(tmp_path), tmp_path), viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    cell(page, 1, 0).tap()
    assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= 400
    touch = page.context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [{"x": 300, "y": 400}]),
        ("touchMove", [{"x": 200, "y": 405}]),
        ("touchMove", [{"x": 120, "y": 405}]),
        ("touchEnd", []),
    ):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert " hat " in page.locator("#where").inner_text()
    for kind, apart in (("touchStart", 30), ("touchMove", 60), ("touchMove", 90), ("touchEnd", 0)):
        points = [{"x": 200 - apart, "y": 400, "id": 1}, {"x": 200 + apart, "y": 400, "id": 2}] if apart else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    scale = page.evaluate("+document.querySelector('#over img').style.transform.match(/scale\\((.*)\\)/)[1]")
    assert scale == pytest.approx(3, rel=0.1)
