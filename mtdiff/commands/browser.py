"""Chromium without a screen, for what is measured or drawn of pages: an installed one, through Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader")  # WebGL without a GPU
MISSING = "no Chromium on this machine: apt-get install chromium, or MTDIFF_BROWSER=<path of one>"


def find_browser() -> str | None:
    """Chromium's path: MTDIFF_BROWSER, which CI sets so that nothing is skipped there, else an installed one."""
    return os.environ.get("MTDIFF_BROWSER") or next((p for p in map(shutil.which, NAMES) if p), None)


@contextmanager
def open_browser() -> "Iterator[Browser]":
    """The browser, until the block ends. ValueError in one line where it or Playwright is missing."""
    path = find_browser()
    if path is None:
        raise ValueError(MISSING)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise ValueError("pages are opened with Playwright: pip install -e '.[test]'") from None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()
