"""Headless Chromium, and pages in it that may do nothing wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from driving import CHROMIUM, WAIT, Visit
from playwright.sync_api import Browser, Page, expect, sync_playwright


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.fail("`make browser` needs Chromium; on Debian: apt install chromium")
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Visit:
    """Return a way to open an address as a page that may neither log an error nor break its content security policy."""

    @contextmanager
    def opened(url: str) -> Iterator[Page]:
        with browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light") as context:
            page = context.new_page()
            page.set_default_timeout(WAIT)
            wrong: list[str] = []
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(url)
            expect(page.locator("#samples button")).to_have_count(24)
            yield page
            assert [text for text in wrong if "422" not in text] == []

    return opened


@pytest.fixture
def page(visit: Visit, url: str) -> Iterator[Page]:
    """The page of the service with everything on."""
    with visit(url) as page:
        yield page
