"""A real browser without a screen, cut off from every network, that notes what a page does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from mtdiff.commands import browser

GRAVE = ("serious", "critical")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium; a test that asks for it is skipped where there is none."""
    if browser.find_browser() is None:
        pytest.skip(browser.MISSING)
    with browser.open_browser() as opened:
        yield opened


class Visit:
    """A page in a context of its own. faults: console errors and exceptions; requests: the addresses asked for."""

    def __init__(self, browser: Browser, *, width: int = 1600, offline: bool = True, dark: bool = False) -> None:
        scheme: Any = "dark" if dark else "light"
        size: Any = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=size, offline=offline, color_scheme=scheme, accept_downloads=True)
        self.page: Page = self.context.new_page()
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog {dialog.message}") or dialog.dismiss())
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path, state: str = "") -> "Visit":
        self.page.goto(f"{path.as_uri()}{state}")
        self.page.wait_for_selector("html[data-ready]", timeout=60_000)
        return self

    def close(self) -> None:
        self.context.close()

    @property
    def outside(self) -> list[str]:
        """Requests for what is neither a file nor part of the page."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def list_violations(self) -> list[str]:
        """What axe-core finds that is serious, in words."""
        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in GRAVE]

    def download(self, selector: str) -> str:
        with self.page.expect_download() as waiting:
            self.page.click(selector)
        return Path(waiting.value.path()).read_text(encoding="utf-8-sig")
