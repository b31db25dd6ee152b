"""A headless Chromium for tests of pages; a test that asks for it is skipped, with the reason, where there is none."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK, PHONE = (1200, 900), (390, 844)
"""Widths and heights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A page and what went wrong in it: errors of scripts, refused loads, and what it asked for."""

    page: "Page"
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def count(self, selector: str) -> int:
        """How many visible elements match."""
        return self.page.locator(f"{selector}:visible").count()


@contextmanager
def browser() -> Generator["Browser"]:
    """A browser; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no driver of a browser: pip install -e '.[dev]'")
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])  # CI runs as root, where the sandbox does not start
        try:
            yield opened
        finally:
            opened.close()


def open_page(chromium: "Browser", address: str, size: tuple[int, int] = DESK, **context: Any) -> Opened:
    """Opens an address in a window of this size, and waits until the figures are drawn."""
    page = chromium.new_page(viewport={"width": size[0], "height": size[1]}, **context)
    page.set_default_timeout(120_000)  # milliseconds; a busy machine draws slowly
    opened = Opened(page=page)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("console", lambda message: opened.errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(address)
    page.wait_for_selector(".js-plotly-plot .main-svg, .absent", state="attached")
    return opened
