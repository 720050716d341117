"""A headless Chromium for the tests of pages, which are skipped without one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def headless() -> Iterator[Any]:
    """The browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra dev)")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium on this machine; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser, for the tests of a module."""
    with headless() as browser:
        yield browser


class Visit:
    """An open page, with its requests and console messages."""

    def __init__(self, page: Any):
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []  # errors and warnings
        self.grave: list[str] = []  # errors only
        page.on(
            "request", lambda request: None if request.url.startswith("data:") else self.requests.append(request.url)
        )
        page.on("console", lambda message: self.errors.append(message.text) if message.type != "log" else None)
        page.on("console", lambda message: self.grave.append(message.text) if message.type == "error" else None)
        for found in (self.errors, self.grave):
            page.on("pageerror", lambda error, found=found: found.append(str(error)))

    def slide(self, label: str, value: int) -> None:
        """Set a slider like a user."""
        self.page.get_by_label(label, exact=True).evaluate(
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
        )

    @property
    def overflow(self) -> int:
        """The number of pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


@contextmanager
def visit(browser: Any, address: str, width: int = 1200, scheme: str = "light") -> Iterator[Visit]:
    """Open an address in a window of the given width."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened = Visit(page)
    try:
        page.goto(address)
        page.wait_for_selector("h1")
        yield opened
    finally:
        page.close()
