"""The README's pictures of the studio: `python tests/browser/screens.py FOLDER`, where `lora-studio demo` has run.

Written to docs/ as WebP, light theme, 1280 px wide. Needs Debian's Chromium and Playwright, as the browser tests do.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from serving import CHROMIUM, FLAGS, ROOT, served, settled

PAGES = {"dataset": 900, "compare": 1000}  # px high


def main(folder: Path) -> None:
    with sync_playwright() as driver, served(folder) as address:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split())
        for name, height in PAGES.items():
            context = browser.new_context(viewport={"width": 1280, "height": height}, reduced_motion="reduce")
            page = context.new_page()
            page.goto(f"{address}/{name}")
            settled(page)
            picture = Image.open(io.BytesIO(page.screenshot()))
            picture.save(ROOT / "docs" / f"studio-{name}.webp", quality=88, method=6)
            context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
