"""Real journeys in Chromium, each over a working folder of its own."""

import io
import json
import tomllib
import zipfile

import pytest
import tiny
from comparisons import make_comparison
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from serving import PATIENCE, served
from trainees import draw_pictures

from studio import preferences
from trainer import presets, toybox, vote
from trainer.cells import Evaluation
from trainer.checkpoint import load_state
from trainer.dataset import captions
from trainer.run import Progress, Run, find_runs

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
expect.set_options(timeout=PATIENCE)

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


def test_captions_by_chips_keyboard_and_two_tabs(new_context, page, settle, until, workplace):
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
        until(lambda: "onerror" in captions.caption_of(folder / "01.png"), "the tag in the caption")
        settle(page)
        # Behind them a list of known tags on this machine, by another name of the tag.
        box = second.get_by_role("textbox")
        box.press_sequentially("cyan")
        second.get_by_role("option").get_by_text("blue hair").wait_for()
        box.press("ArrowDown")
        box.press("Enter")
        until(lambda: captions.caption_of(folder / "01.png").endswith(", blue hair"), "the known tag in the caption")
        settle(page)
        page.get_by_role("button", name="Undo").click()
        page.get_by_text("Took back “edit 01").wait_for()
        settle(page)
        second.focus()
        page.keyboard.press("ArrowRight")
        assert "02.png" in page.evaluate(ACTIVE)
        page.keyboard.press("/")
        page.keyboard.type("onerror")
        page.keyboard.press("Enter")
        page.get_by_role("group", name="02.png").wait_for(state="detached")
        expect(page.get_by_role("group", name=".png")).to_have_count(2)
        settle(page)
        page.reload()
        settle(page)
        page.get_by_role("button", name="Undo").click()
        page.get_by_text("Took back “edit 01").wait_for()
        assert "onerror" not in captions.caption_of(folder / "01.png")

        # Another tab: the second to save is told, and what the first wrote stays.
        other = new_context().new_page()
        other.goto(f"{studio}/dataset")
        settle(other)
        for tab, words in ((page, "from one tab"), (other, "from the other")):
            card = tab.get_by_role("group", name="03.png")
            card.get_by_role("button", name="as text").click()
            area = card.get_by_role("textbox")
            area.fill(words)
            area.press("Control+s")
            until(lambda: captions.caption_of(folder / "03.png") == "from one tab", "the first tab's words")
            settle(tab)
        other.get_by_text("changed elsewhere").wait_for()  # with both texts, until it is closed
        assert captions.caption_of(folder / "03.png") == "from one tab"


# What has the focus, also inside of a component.
ACTIVE = """() => {
  let node = document.activeElement;
  while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
  return node?.getAttribute("aria-label") ?? "";
}"""


def test_a_vote_by_keyboard_until_there_is_a_winner(page, settle, until, workplace):
    run = make_comparison(epochs=2)
    folder = run.evaluation_folder("character")

    def votes() -> int:
        return len(vote.read_votes(folder))

    with served(workplace) as studio:
        page.goto(f"{studio}/compare")
        settle(page)
        page.get_by_role("tab", name="Blind vote").click()
        page.get_by_text("Which is better?").wait_for()
        settle(page)
        # Both pictures, the answers and how sure they are: nothing of it has to be looked for at 900 px.
        below = page.get_by_text("No votes yet").locator("xpath=..").bounding_box()
        assert below["y"] + below["height"] < 900
        assert not page.get_by_role("button", name="Export epoch").first.is_visible(), "what the scores say is not told"
        for number, key in enumerate("120b", 1):
            page.keyboard.press(key)
            until(lambda number=number: votes() == number, f"vote {number}")
            page.get_by_text(f"{number} vote").or_(page.get_by_text("votes (")).first.wait_for()
            settle(page)
        assert [one.outcome for one in vote.read_votes(folder)] == ["left", "right", "tie", "bad"]
        page.keyboard.press("u")
        until(lambda: votes() == 3, "one vote less")
        settle(page)
        # From now on the second epoch is always the better one: what is asked next can be read from the disk.
        ballot = vote.Ballot(Evaluation.load(folder), folder)
        while (pair := ballot.next()) is not None:
            before = votes()
            assert before < 60, "there is no end to it"
            page.keyboard.press("1" if pair.left.epoch == 2 else "2")
            until(lambda before=before: votes() == before + 1, "the next vote")
            settle(page)
            ballot = vote.Ballot(Evaluation.load(folder), folder)
        page.get_by_text("Epoch 2 is the clear winner").wait_for()
        page.get_by_role("button", name="Export epoch 2").last.wait_for()


def test_a_run_is_watched_sampled_killed_resumed_and_stopped(page, workplace, until):
    tiny.base_folder(workplace / "models" / "tiny", "sd15")
    (workplace / "prompts.toml").write_text('[[prompt]]\nname = "face"\nprompt = "[trigger], face"\n')
    own = {"data.folder": "datasets/moss", "data.trigger": "moss"}
    own |= {"evaluation.prompts": "prompts.toml", "evaluation.steps": 1}
    # One that is at work for as long as the test looks at it, and one that is soon done.
    short = Run.create(presets.layer(parsed(PRESET), own, {"name": "short"}))
    short.write_status("training", "", Progress(epochs=2, step=1, steps=6))  # as a trainer that was killed leaves it
    long = Run.create(presets.layer(parsed(PRESET), own, {"name": "long", "data.repeats": 5000}))

    def state(word: str):
        return page.get_by_text(word, exact=True).first

    with served(workplace) as studio:
        page.goto(f"{studio}/runs?run={long.name}")
        page.get_by_role("button", name="Start", exact=True).click()
        state("training").wait_for()
        page.get_by_role("button", name="Sample now").click()
        page.get_by_text("· face").wait_for()
        page.reload()  # and everything is as it was
        state("training").wait_for()
        page.get_by_text("· face").wait_for()
        assert long.is_locked()

        page.get_by_role("button", name="Kill").click()
        page.get_by_role("button", name="Kill it now").click()
        state("interrupted").wait_for()
        assert long.status.state == "interrupted"
        saved = load_state(long.path / "state")["position"].step
        page.get_by_role("button", name="Resume").click()
        state("training").wait_for()
        # Streamlit shows a Stop of its own above the page while a script runs.
        page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop").click()
        state("stopped").wait_for()
        assert long.status.state == "stopped" and long.status.progress.step >= saved

        page.goto(f"{studio}/runs?run={short.name}")
        state("interrupted").wait_for()
        page.get_by_role("button", name="Resume").click()
        state("finished").wait_for()
        assert short.status.state == "finished" and len(short.epochs()) == 2

        page.reload()
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Trash (1)").click()
        assert [run.name for run in find_runs()] == [long.name]
        page.get_by_role("button", name="Restore").click()
        # Its name stands on the page already, in the trash, so what is on the disk is looked at.
        until(lambda: {run.name for run in find_runs()} == {long.name, short.name}, "the run is back")


PASTE = """content => {
  const pasted = new DataTransfer();
  pasted.items.add(new File([Uint8Array.from(content)], "image.png", {type: "image/png"}));
  document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: pasted, bubbles: true}));
}"""


def test_a_picture_is_pasted_into_png_info(page, settle, workplace):
    text = PngInfo()
    text.add_text("parameters", "a <b>mossy</b> portrait\nSteps: 21, Sampler: Euler, CFG scale: 7.0, Seed: 5")
    drawn = io.BytesIO()
    Image.new("RGB", (32, 32)).save(drawn, "PNG", pnginfo=text)
    with served(workplace) as studio:
        page.goto(f"{studio}/png_info")
        settle(page)
        page.evaluate(PASTE, list(drawn.getvalue()))
        page.get_by_text("a <b>mossy</b> portrait").wait_for()
        page.get_by_text("21", exact=True).wait_for()


KOHYA = {"pretrained_model_name_or_path": "x", "network_dim": 12, "network_alpha": 6, "epoch": 7, "train_batch_size": 3}


def test_kohyas_settings_fill_the_form(page, settle, workplace):
    (workplace / "<b>kohya<b>.json").write_text(json.dumps(KOHYA))
    with served(workplace) as studio:
        page.goto(f"{studio}/train")
        settle(page)
        page.get_by_text("Import from kohya").click()
        page.locator("[data-testid=stFileUploader] input[type=file]").set_input_files(workplace / "<b>kohya<b>.json")
        page.get_by_role("button", name="Fill the form").click()
        for name, value in (("Network dim", "12"), ("Network alpha", "6"), ("Epochs", "7"), ("Batch size", "3")):
            # The dot marks what differs from the preset: the field as it was before may still stand there for a moment.
            expect(page.get_by_role("spinbutton", name=f"● {name}", exact=True)).to_have_value(value)
        page.get_by_text("<b>kohya<b>.json").first.wait_for()


def test_a_newcomer_from_nothing_to_an_exported_lora(page, settle, until, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets" / "prompts").mkdir(parents=True)
    (tmp_path / "presets" / "a-toy.toml").write_text(TOY)
    (tmp_path / "presets" / "prompts" / "toy.toml").write_text(TWO_PROMPTS)
    outside = {path for path in tmp_path.parent.iterdir()}
    with zipfile.ZipFile(tmp_path / "moss.zip", "w") as archive:
        for number, picture in enumerate(sorted(toybox.PICTURES["moss"].glob("*.png"))[:3]):
            archive.write(picture, f"../../{number}.png")
        archive.writestr("/etc/evil.sh", "no picture")
    with served(tmp_path) as studio:
        page.goto(f"{studio}/dataset")
        page.get_by_text("No pictures yet").wait_for()
        page.locator("[data-testid=stFileUploader] input[type=file]").set_input_files(tmp_path / "moss.zip")
        page.get_by_text("moss.zip").wait_for()
        page.get_by_role("textbox", name="Into the folder").fill("moss")
        page.get_by_role("button", name="Add", exact=True).click()
        until(lambda: len(list((tmp_path / "datasets").glob("moss/*.png"))) == 3, "the pictures")
        # Whatever a zip calls its files, they land in the folder; and what is no picture does not.
        assert set(tmp_path.parent.iterdir()) == outside and not list(tmp_path.rglob("evil*"))

        page.goto(f"{studio}/dataset")
        settle(page)
        page.get_by_role("button", name="Tag with").click()
        page.get_by_role("combobox", name="Tagger").click()
        page.get_by_role("option", name="toybox").click()
        page.get_by_role("textbox", name="Trigger word").fill("moss")
        page.keyboard.press("Tab")
        settle(page)
        page.get_by_role("button", name="Start", exact=True).click()
        until(lambda: len(list((tmp_path / "datasets").glob("moss/*.txt"))) == 3, "the captions")

        page.goto(f"{studio}/train")
        settle(page)
        page.get_by_role("combobox", name="Preset").click()
        page.get_by_role("option", name="a-toy").click()
        page.get_by_text("3 pictures × 1 repeat × 1 epoch").wait_for()
        page.get_by_role("button", name="Start training").click()
        page.wait_for_url("**/runs*")
        page.get_by_role("button", name="Compare epochs").wait_for()
        until(lambda: find_runs()[0].status.state == "finished", "the end of the training")
        page.get_by_role("button", name="Compare epochs").click()
        page.wait_for_url("**/compare*")
        page.get_by_role("button", name="Render …").click()
        page.get_by_role("button", name="Render missing").click()
        page.get_by_role("button", name="Export").first.wait_for()
        settle(page)
        page.get_by_role("button", name="Export").last.click()  # … another, or … where none is recommended
        page.get_by_role("textbox", name="Name").fill("my moss")
        page.keyboard.press("Tab")
        settle(page)
        page.get_by_role("button", name="Export epoch 1").last.click()
        until(lambda: (tmp_path / "models" / "my-moss.safetensors").exists(), "the exported LoRA")
        page.goto(f"{studio}/library")
        page.get_by_text("<lora:my-moss:1> moss").wait_for()


TOY = """# The toybox, as quickly as it goes.
[model]
base = "toybox/sd15"
precision = "fp32"
[data]
resolution = 128
bucket_step = 32
[adapter]
rank = 4
alpha = 2
[optimizer]
name = "AdamW"
[loop]
epochs = 1
batch_size = 3
[evaluation]
prompts = "toy"
steps = 2
seeds = [1]
loss_pictures = 0
"""
TWO_PROMPTS = "".join(f'[[prompt]]\nname = "{name}"\nprompt = "[trigger], {name}"\n' for name in ("smile", "hat"))


def parsed(text: str) -> dict:
    return presets.flatten(tomllib.loads(text))
