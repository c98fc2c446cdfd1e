"""Every page in both themes and languages, wide and narrow: nothing overflows, axe finds nothing serious."""

import urllib.error
import urllib.request

import pytest
from comparisons import make_comparison
from PIL import Image
from serving import SCREENSHOTS, served
from trainees import draw_pictures

PAGES = ["", "dataset", "dataset?picture=00.png", "train", "runs", "compare", "library", "png_info", "settings"]
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A studio over a folder with pictures, a run and a comparison."""
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_pictures(folder / "datasets" / "moss")
        shapes = folder / "datasets" / "shapes"
        shapes.mkdir()
        for name, size in (("tall", (300, 900)), ("wide", (900, 300))):
            Image.new("RGB", size, "teal").save(shapes / f"{name}.png")
        (shapes / "wide.txt").write_text(", ".join(f"tag {number}" for number in range(40)))
        make_comparison()
        with served(folder) as address:
            yield address


@pytest.mark.parametrize("name", PAGES)
def test_page(name, new_context, studio, settle):
    SCREENSHOTS.mkdir(exist_ok=True)
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    for theme, locale, width in (("light", "en-US", 1280), ("dark", "zh-CN", 1280), ("dark", "en-US", 400)):
        context = new_context(
            viewport={"width": width, "height": 1200}, color_scheme=theme, locale=locale, reduced_motion="reduce"
        )
        page = context.new_page()
        page.goto(f"{studio}/{name}")
        settle(page)
        page.screenshot(path=SCREENSHOTS / f"{name.replace('?', '-') or 'home'}-{theme}-{locale}-{width}.png")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{theme} {width}: overflows"
        found = axe.Axe().run(page).response["violations"]
        problems = [
            (one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found if one["impact"] in SERIOUS
        ]
        assert problems == [], f"{theme} {width}"
        context.close()


INSIDE = """image => {
  const [inner, outer] = [image, image.parentElement].map(one => one.getBoundingClientRect());
  return inner.height > 20 && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1;
}"""


def test_no_picture_is_cut_off_in_its_card(page, studio, settle):
    page.goto(f"{studio}/dataset?dataset=shapes")
    settle(page)
    for name in ("tall.png", "wide.png"):
        image = page.get_by_role("group", name=name).get_by_role("img")
        image.scroll_into_view_if_needed()
        assert image.evaluate(INSIDE), name
    # Many tags neither push the next row away nor hide one.
    chips = page.get_by_role("group", name="wide.png").locator(".chips")
    assert chips.bounding_box()["height"] < 300
    chips.get_by_role("button", name="Remove tag 39").scroll_into_view_if_needed()


def test_an_upload_without_the_xsrf_token_is_refused(studio, browser):
    request = urllib.request.Request(
        f"{studio}/_stcore/upload_file/00000000-0000-0000-0000-000000000000/1", data=b"x", method="PUT"
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    assert refused.value.code in (400, 403)


def test_a_studio_that_listens_asks_for_its_password_before_every_page(page, settle, tmp_path):
    (tmp_path / "datasets" / "secret-set").mkdir(parents=True)
    with served(tmp_path, "--listen=127.0.0.1", LORA_STUDIO_PASSWORD="correct horse") as address:
        for name in PAGES:
            page.goto(f"{address}/{name}")
            page.get_by_label("Password", exact=True).wait_for()
        page.goto(f"{address}/dataset")
        for given in ("wrong password", "correct horse"):
            assert page.get_by_text("secret-set").count() == 0
            page.get_by_label("Password", exact=True).fill(given)
            page.keyboard.press("Enter")
            page.get_by_text("That is not the password" if given[0] == "w" else "No picture in this folder").wait_for()
