"""What the README says to type after the demo, typed; then the page, used as the README says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from driving import MARKS, Visit, all_loaded, keep
from playwright.sync_api import Page, expect

from saat.cli import main
from service import Start
from story import commands

pytestmark = MARKS


def lab(page: Page, names: list[str]) -> None:
    """Take an image, attack it, and move the slider to its start, with the mouse and in sight."""
    page.locator("#samples button").nth(1).click()
    expect(page.locator("#hits > li")).to_have_count(21)
    page.get_by_role("button", name="Attack").click()
    sides = page.locator(".side")
    expect(sides.locator("h3")).to_have_text(names)
    expect(page.locator("#lab-status")).to_contain_text("more than 8/255")
    for side in sides.all():
        expect(side.locator(".before li")).to_have_count(10)
        expect(side.locator(".after li")).to_have_count(10)
        expect(side.locator(".verdict")).to_have_text(re.compile(r"\d+ → \d+ of 10 results are labeled .+"))
    assert all_loaded(page, ".side img")
    before = [side.locator(".before").inner_text() for side in sides.all()]
    slider = page.get_by_label("Largest change of a pixel")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] - 5, box["y"] + box["height"] / 2, steps=5)
    expect(page.locator("#epsilon-text")).to_have_text("0/255")  # while it is held
    page.mouse.up()
    expect(page.locator("#lab-status")).to_contain_text("more than 0/255")
    expect(sides.locator("h3")).to_have_text(names)
    for place, side in enumerate(sides.all()):
        assert side.locator(".before").inner_text() == side.locator(".after").inner_text() == before[place]
        expect(side.locator(".verdict")).to_contain_text("moved by 0 bits of 32")


def test_the_readme_from_the_demo_to_the_lab(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Start, visit: Visit
) -> None:
    shutil.copytree(demo, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    build, search, start = commands("runs/demo/index")
    assert main(build) == main(search) == 0
    with serve(*start[1:]) as server, visit(server.url) as page:
        expect(page.locator("#about")).to_have_text("100 images, 32-bit codes")
        lab(page, ["The model"])
        expect(page.locator("#risk")).to_be_hidden()
    build, detect, start = commands("runs/demo/plain-index")
    assert main(build) == main(detect) == 0
    with serve(*start[1:]) as server, visit(server.url) as page:
        lab(page, ["plain model", "hardened model"])
        risk = re.compile(r"The query looks (like an attack|ordinary) score [01]\.\d{4}, threshold [01]\.\d{4}$")
        expect(page.locator("#risk")).to_have_text(risk)
        plain, hardened = page.locator(".side").all()
        for when in ("before", "after"):
            expect(plain.locator(f".risk_{when}")).to_have_text(risk)
            expect(hardened.locator(f".risk_{when}")).to_be_empty()  # the detector is that of the plain model
        for one in (".pictures", ".before", ".after"):  # side by side, though one side alone tells a risk
            assert plain.locator(one).bounding_box()["y"] == hardened.locator(one).bounding_box()["y"]
        keep(page, "7-story")
