"""Chromium and pictures of the page, for the tests of this folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DEMANDED = bool(os.environ.get("SAAT_DEMAND_BROWSER"))  # `make browser`
WAIT = 60_000  # milliseconds, at most, for what is to come; a slow machine may need them
Visit = Callable[[str], AbstractContextManager[Page]]
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM and not DEMANDED, reason="no Chromium here; Debian: apt install chromium"),
]


def keep(page: Page, name: str) -> None:
    """Keep a picture of the whole page where one is asked for."""
    if os.environ.get("SAAT_SCREENSHOTS"):
        all_loaded(page, "img[src]")
        page.screenshot(path=Path(os.environ["SAAT_SCREENSHOTS"]) / f"{name}.png", full_page=True)


def all_loaded(page: Page, selector: str) -> bool:
    """Wait for all images of a selector; `wait_for_function` needs an eval that the page forbids."""
    script = "selector => [...document.querySelectorAll(selector)].every(image => image.naturalWidth > 0)"
    for _ in range(WAIT // 50):
        if page.evaluate(script, selector):
            return True
        page.wait_for_timeout(50)
    return False


def transfer(page: Page, photo: Path, name: str) -> Any:
    """What a drop or a paste of a file brings."""
    return page.evaluate_handle(
        """([bytes, name]) => { const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name, { type: 'image/png' })); return transfer; }""",
        [list(photo.read_bytes()), name],
    )


def tab_to(page: Page, selector: str, key: str = "Tab") -> None:
    """Press Tab until what has the focus is of a selector."""
    for _ in range(120):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"no way by {key} to {selector}")
