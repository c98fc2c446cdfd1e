"""Real journeys in Chromium: edit captions, train a tiny base, vote, and what the keyboard does on the way."""

import pytest
import tiny
from comparisons import make_comparison
from serving import served
from trainees import draw_pictures

from studio import preferences
from trainer import vote
from trainer.dataset import captions
from trainer.run import find_runs

PRESET = """
[model]
precision = "fp32"
base = "models/tiny"
[data]
resolution = 64
bucket_step = 32
[adapter]
rank = 4
alpha = 2
[optimizer]
name = "AdamW"
[loop]
epochs = 2
batch_size = 2
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_pictures(tmp_path / "datasets" / "moss")
    return tmp_path


def test_from_captions_to_a_finished_run(browser, page, settle, workplace):
    tiny.base_folder(workplace / "models" / "tiny", "sd15")
    (workplace / "presets").mkdir()
    (workplace / "presets" / "a-tiny.toml").write_text(PRESET)
    with served(workplace) as studio:
        page.goto(f"{studio}/train")
        settle(page)
        page.get_by_role("combobox", name="Preset").click()
        page.get_by_role("option", name="a-tiny").click()
        page.get_by_text("5 pictures × 1 repeat × 2 epochs").wait_for()
        page.get_by_role("button", name="Start training").click()
        page.wait_for_url("**/runs*")
        page.get_by_text("finished", exact=True).first.wait_for()
        (run,) = find_runs()
        assert run.status.state == "finished" and len(run.epochs()) == 2

        page.reload()
        settle(page)
        page.get_by_text(run.name).first.wait_for()
        page.get_by_role("button", name="Delete").click()
        page.get_by_text("No runs yet").wait_for()
        page.get_by_role("button", name="Trash (1)").click()
        page.get_by_role("button", name="Restore").click()
        page.get_by_text("finished", exact=True).first.wait_for()


def test_captions_by_chips_keyboard_and_two_tabs(browser, page, settle, workplace):
    folder = workplace / "datasets" / "moss"
    captions.write_captions(folder, {folder / "00.txt": "moss, <img src=x onerror=alert(1)>, hat"}, "test")
    (workplace / "tags.csv").write_text('blue_hair,0,900,"cyan_hair"\n')
    preferences.save(preferences.Preferences(tag_list=str(workplace / "tags.csv")))
    with served(workplace) as studio:
        page.goto(f"{studio}/dataset")
        settle(page)
        # What a caption holds is text, whatever it looks like.
        page.get_by_text("<img src=x onerror=alert(1)>").first.wait_for()
        page.get_by_role("button", name="remove hat").click()
        page.get_by_text("Saved 1 caption").wait_for()
        assert captions.caption_of(folder / "00.png").endswith("alert(1)>")

        # Autocomplete from the folder's own tags, then the filter by its key, then undo over a reload.
        second = page.get_by_role("group", name="01.png")
        box = second.get_by_role("textbox")
        box.press_sequentially("onerr")
        second.get_by_role("option").first.wait_for()
        box.press("ArrowDown")
        box.press("Enter")
        page.wait_for_timeout(500)
        settle(page)
        assert "onerror" in captions.caption_of(folder / "01.png")
        # Behind them a list of known tags on this machine, by another name of the tag.
        box = second.get_by_role("textbox")
        box.press_sequentially("cyan")
        second.get_by_role("option").get_by_text("blue hair").wait_for()
        box.press("ArrowDown")
        box.press("Enter")
        page.wait_for_timeout(500)
        settle(page)
        assert captions.split(captions.caption_of(folder / "01.png"))[-1] == "blue hair"
        page.get_by_role("button", name="Undo").click()
        page.get_by_text("Took back “edit 01").wait_for()
        settle(page)
        second.focus()
        page.keyboard.press("ArrowRight")
        assert "02.png" in page.evaluate(ACTIVE)
        page.keyboard.press("/")
        page.keyboard.type("onerror")
        page.keyboard.press("Enter")
        settle(page)
        assert page.get_by_role("group", name=".png").count() == 2
        page.reload()
        settle(page)
        page.get_by_role("button", name="Undo").click()
        page.get_by_text("Took back “edit 01").wait_for()
        assert "onerror" not in captions.caption_of(folder / "01.png")

        # Another tab: the second to save is told, and what the first wrote stays.
        other = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        other.goto(f"{studio}/dataset")
        settle(other)
        for tab, words in ((page, "from one tab"), (other, "from the other")):
            card = tab.get_by_role("group", name="03.png")
            card.get_by_role("button", name="as text").click()
            area = card.get_by_role("textbox")
            area.fill(words)
            area.press("Control+s")
            settle(tab)
        other.get_by_text("changed elsewhere").wait_for()
        assert captions.caption_of(folder / "03.png") == "from one tab"


# What has the focus, also inside of a component.
ACTIVE = """() => {
  let node = document.activeElement;
  while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
  return node?.getAttribute("aria-label") ?? "";
}"""


def test_a_vote_by_keyboard(page, settle, workplace):
    run = make_comparison(epochs=2)
    folder = run.evaluation_folder("character")
    with served(workplace) as studio:
        page.goto(f"{studio}/compare")
        settle(page)
        page.get_by_role("tab", name="Blind vote").click()
        page.get_by_text("Which is better?").wait_for()
        settle(page)
        for number, key in enumerate("120b", 1):
            page.keyboard.press(key)
            page.get_by_text(f"{number} votes").or_(page.get_by_text("votes (")).first.wait_for()
            settle(page)
        assert [one.outcome for one in vote.read_votes(folder)] == ["left", "right", "tie", "bad"]
        page.keyboard.press("u")
        settle(page)
        assert len(vote.read_votes(folder)) == 3
