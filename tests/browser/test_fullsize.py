"""A cell of Compare's grid at full size: the report's own viewer over the page, with all its keys."""

import pytest
from comparisons import make_comparison
from serving import served


@pytest.fixture
def viewer(page):
    return page.frame_locator("dialog iframe")


def test_a_click_opens_the_cell_and_closing_leads_back_to_it(page, viewer, settle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_comparison(3, more=("hat",))
    report = run.evaluation_folder("character") / "report.html"
    report.write_text("<p>written by another version</p>")

    def at() -> str:
        return viewer.locator("#where").inner_text()

    def focused() -> str:
        return page.evaluate("document.activeElement.dataset.cell")

    def opened(epoch: str) -> str:
        viewer.locator("#where").get_by_text(epoch).wait_for()
        viewer.locator("#stage:focus").wait_for()
        return at()

    with served(tmp_path) as studio:
        page.goto(f"{studio}/compare")
        settle(page)
        page.get_by_role("row", name="epoch 1").get_by_role("button").first.click()
        assert opened("epoch 1") == "epoch 1 · portrait · seed 1"
        assert "written by another version" not in report.read_text()

        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        assert at() == "epoch 2 ★ · hat · seed 1"
        page.keyboard.down(" ")
        assert viewer.locator("#before").inner_text() == "base" and viewer.locator("#before").is_visible()
        page.keyboard.up(" ")
        viewer.locator("#before").wait_for(state="hidden")
        page.keyboard.press("+")
        page.keyboard.press("+")
        zoom = viewer.locator("#fit").inner_text()
        assert zoom != "Fit"

        page.keyboard.press("Escape")
        page.locator("dialog[open]").wait_for(state="detached")
        assert focused() == "[2,0,1,1]", "where the viewer was left"
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        assert focused() == "[1,0,0,1]"
        page.keyboard.press("Enter")
        assert opened("epoch 1") == "epoch 1 · portrait · seed 1"
        assert viewer.locator("#fit").inner_text() == zoom, "zoom and place stay"
        page.keyboard.press("Escape")

        # Another seed of the grid is another picture of the same viewer.
        page.get_by_role("radio", name="2").or_(page.get_by_role("button", name="2", exact=True)).first.click()
        settle(page)
        page.get_by_role("row", name="epoch 3").get_by_role("button").last.click()
        assert opened("epoch 3") == "epoch 3 · hat · seed 2"
