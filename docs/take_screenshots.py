"""Take the pictures of the report page and of the demo: docs/report.webp and docs/demo.webp.

    python docs/take_screenshots.py                 needs Chromium and pip install -e '.[test]'

The report is that of the committed results of suite=main; the demo has the shipped adapter, after one edit of a test
example, which is not chosen.
"""

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from PIL import Image

from mtdiff.commands.browser import open_browser
from mtdiff.commands.demo import launch
from mtdiff.results.find import find
from mtdiff.results.page.write import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE = Path(__file__).resolve().parent
RESULTS = f"{HERE.parent}/experiments/results/main/*.json"
WIDTH, REPORT, DEMO = 1200, 620, 860  # pixels: both pictures' width, and the height of each
LARGEST = 40_000  # bytes of a picture
PATIENCE = 300_000  # milliseconds


def take_screenshots(folder: Path, results: str = RESULTS) -> list[Path]:
    """Write both pictures into a folder."""
    with open_browser() as browser:
        return [take_report(browser, folder / "report.webp", results), take_demo(browser, folder / "demo.webp")]


def open_tab(browser: "Browser", height: int) -> Any:
    options: Any = {"viewport": {"width": WIDTH, "height": height}, "color_scheme": "light", "reduced_motion": "reduce"}
    tab = browser.new_page(**options)
    tab.set_default_timeout(PATIENCE)
    return tab


def take_report(browser: "Browser", out: Path, results: str = RESULTS) -> Path:
    """The top of the page: the verdicts."""
    tab = open_tab(browser, REPORT)
    with TemporaryDirectory() as folder:
        page = write_report(find(results), Path(folder) / "report.html", inline=True)
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]")
        return save_picture(tab.screenshot(), out)


def take_demo(browser: "Browser", out: Path) -> Path:
    """The whole page once an edit is drawn."""
    from mtdiff.commands.studio import SHIPPED, Studio  # imports torch

    page, address = launch(Studio([SHIPPED]))
    try:
        tab = open_tab(browser, DEMO)
        tab.goto(address)
        tab.wait_for_load_state("networkidle")  # before it, a choice is shown and answered by nobody
        tab.click("#task input")
        tab.get_by_role("option", name="edit", exact=True).click()
        tab.wait_for_selector("#editor canvas")
        tab.click("#example")
        tab.wait_for_function("document.querySelector('#prompt textarea, #prompt input').value !== ''")
        tab.wait_for_timeout(1000)  # until the editor shows the picture
        tab.click("#draw")
        tab.wait_for_selector("#answer-0 img")
        tab.wait_for_timeout(1000)
        return save_picture(tab.screenshot(full_page=True), out)
    finally:
        page.close()


def save_picture(png: bytes, out: Path) -> Path:
    """As WebP without loss, of as many colours as make it small enough: of letters that is less than with loss."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64, 32, 16, 8):
        few = picture.quantize(colours, dither=Image.Dither.NONE).convert("RGB")
        few.save(out, lossless=True, method=6)
        if out.stat().st_size < LARGEST:
            return out
    raise ValueError(f"{out}: {out.stat().st_size} bytes with 8 colours, expected less than {LARGEST}")


if __name__ == "__main__":
    for path in take_screenshots(HERE):
        print(f"{path}: {path.stat().st_size} bytes")
