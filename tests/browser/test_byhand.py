"""A crop drawn and a mask painted in Chromium: what arrives on the disk is what was drawn."""

import numpy as np
from PIL import Image
from serving import SCREENSHOTS, served

from studio import handwork
from trainer.dataset import byhand, images


def test_a_crop_and_a_mask(page, settle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "datasets" / "moss"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown as 400×800
    for name in ("00 猫.jpg", "01.jpg"):
        Image.effect_noise((800, 400), 90).convert("RGB").save(folder / name, exif=exif)
    with served(tmp_path) as studio:
        page.goto(f"{studio}/dataset")
        settle(page)
        box = page.get_by_role("textbox", name="Filter")
        box.fill("name:0")
        box.press("Enter")
        settle(page)
        card = page.get_by_role("group", name="00 猫.jpg")
        card.focus()
        page.keyboard.press("c")
        stage = page.get_by_role("application")
        page.locator("#byhand[data-ready=true]").wait_for()
        area = stage.bounding_box()

        def drag(*points):
            places = [(area["x"] + area["width"] * x, area["y"] + area["height"] * y) for x, y in points]
            page.mouse.move(*places[0])
            page.mouse.down()
            for place in places[1:]:
                page.mouse.move(*place)
            page.mouse.up()

        # A box from corner to corner, squared by the lock, moved by a key; undo takes one step back.
        drag((0.1, 0.1), (0.3, 0.3), (0.9, 0.3))
        page.get_by_label("Shape").select_option("1:1")
        stage.focus()
        page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Control+z")
        page.keyboard.press("b")
        drag((0.1, 0.9), (0.9, 0.9))
        page.screenshot(path=SCREENSHOTS / "byhand.png") if SCREENSHOTS.exists() else None
        page.keyboard.press("PageDown")
        page.get_by_text("Saved the mask of 00").wait_for()
        page.get_by_text("moss / 01.jpg").wait_for()
        left, top, right, bottom = handwork.boxes(folder)["00 猫.jpg"]
        assert abs(left - 120) < 5 and right - left == bottom - top and abs(bottom - top - 160) < 5
        assert abs(top - 90) < 5  # the middle stayed, then ten pixels down
        grey = np.asarray(byhand.mask_of(folder, "00 猫.jpg"))
        assert grey.shape == (800, 400) and grey[720, 60:340].max() < 40 and grey[:600].min() > 250

        # Opened again it shows what was saved; inverted it is the other way round.
        page.locator("#byhand[data-ready=true]").wait_for()
        page.get_by_role("button", name="Previous picture").click()
        page.get_by_text("moss / 00").wait_for()
        page.locator("#byhand[data-ready=true]").wait_for()
        page.get_by_role("button", name="Paint").click()
        page.get_by_role("button", name="Invert").click()
        page.get_by_role("button", name="Done").click()
        page.get_by_role("group", name="01.jpg").wait_for()
        settle(page)
        assert box.input_value() == "name:0"
        grey = np.asarray(byhand.mask_of(folder, "00 猫.jpg"))
        assert grey[720, 60:340].min() > 215 and grey[:600].max() < 5

        page.get_by_role("button", name="Write it").click()
        page.get_by_text("Wrote datasets/moss-cropped").wait_for()
        made = {path.name: images.open_rgb(path).size for path in images.find(tmp_path / "datasets/moss-cropped")}
        assert made == {"00 猫.png": (right - left, bottom - top), "01.png": (400, 800)}
        assert (tmp_path / "datasets/moss-cropped/.masks/00 猫.png").exists()

        # A picture that was copied somewhere goes into the folder.
        page.locator("body").evaluate(PASTE)
        page.get_by_text("Added 1 file to datasets/moss").wait_for()
        (pasted,) = folder.glob("pasted-*.png")
        assert images.open_rgb(pasted).size == (30, 20)


def test_what_leads_away_takes_the_drawing_along(page, settle, until, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "datasets" / "moss"
    folder.mkdir(parents=True)
    for name in ("00.png", "01.png"):
        Image.effect_noise((400, 400), 90).save(folder / name)
    stage, left = page.get_by_role("application"), page.get_by_label("Left edge")

    def opened(name):
        card = page.get_by_role("group", name=name)
        card.focus()
        page.keyboard.press("c")
        page.locator("#byhand[data-ready=true]").wait_for()
        settle(page)

    def drag(start, to):
        area = stage.bounding_box()
        for x, act in ((start, page.mouse.down), ((start + to) / 2, None), (to, page.mouse.up)):
            page.mouse.move(area["x"] + area["width"] * x, area["y"] + area["height"] * x)
            act() if act else None

    with served(tmp_path) as studio:
        page.goto(f"{studio}/dataset")
        settle(page)
        opened("00.png")
        drag(0.1, 0.3)
        drag(0.5, 0.7)
        first = left.input_value()
        drag(0.8, 0.9)
        stage.focus()
        page.keyboard.press("Control+s")
        until(lambda: "00.png" in handwork.boxes(folder), "the crop that was saved")
        settle(page)
        # Undo takes one step back, however often the page has been drawn anew meanwhile.
        page.keyboard.press("Control+z")
        assert left.input_value() == first and abs(int(first) - 200) < 3
        page.go_back()
        until(lambda: handwork.boxes(folder)["00.png"][0] == int(first), "the crop as it was at the browser's Back")
        page.get_by_role("group", name="01.png").wait_for()
        settle(page)

        opened("01.png")
        page.keyboard.press("b")
        drag(0.2, 0.8)
        page.get_by_role("link", name="Train").click()
        page.wait_for_url("**/train*")
        assert byhand.mask_of(folder, "01.png") is not None


PASTE = """async body => {
  const canvas = new OffscreenCanvas(30, 20);
  canvas.getContext("2d").fillRect(5, 5, 9, 9);
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([await canvas.convertToBlob()], "image.png", { type: "image/png" }));
  body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}"""
