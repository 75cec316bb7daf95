"""The page, used as a person uses it, in headless Chromium. SAAT_SCREENSHOTS=DIR keeps pictures of it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driving import MARKS, WAIT, all_loaded, keep, tab_to, transfer
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from saat.defenses.detection import Detector
from saat.models.checkpoint import load_checkpoint
from service import Start

pytestmark = MARKS


def test_search_with_a_sample_filter_and_go_on_from_a_result(page: Page) -> None:
    expect(page.locator("#about")).to_have_text("60 images, 32-bit codes")
    keep(page, "1-start")
    page.locator("#samples button").first.click()
    hits = page.locator("#hits > li")
    expect(hits).to_have_count(21)
    expect(hits.first.locator(".distance")).to_have_text("0 bits")
    distance = int(hits.last.locator(".distance").inner_text().split()[0])
    assert hits.last.locator(".differs").count() == distance  # the drawing shows as many bits as the number says
    assert hits.last.locator("rect").count() == 32
    expect(page.locator("#status")).to_have_text(f"21 images; their codes differ in 0 to {distance} of 32 bits.")
    assert all_loaded(page, "#hits img")
    keep(page, "2-results")
    expect(page.locator("#columns")).to_have_text("Columns: id, path, label")
    page.locator("#where").fill(page.locator("#where").get_attribute("placeholder") or "")
    page.locator("#where").press("Enter")
    expect(hits).to_have_count(6)  # the example is of a label that there is
    assert len(set(page.locator("#hits .label").all_inner_texts())) == 1
    page.locator("#where").fill("label == 'Bag'")
    page.locator("#where").press("Enter")
    expect(page.locator("#hits .label", has_text="Bag")).to_have_count(6)
    assert set(page.locator("#hits .label").all_inner_texts()) == {"Bag"}
    page.locator("#where").fill("id == 0")
    page.locator("#where").press("Enter")
    expect(page.locator("#status")).to_have_text("1 image; its code differs in 0 of 32 bits.")
    page.locator("#where").fill("lable == 'Bag'")
    page.locator("#where").press("Enter")
    expect(page.locator("#status")).to_contain_text("did you mean 'label'?")
    expect(hits).to_have_count(0)
    page.locator("#where").fill("label == 'Bag'")
    page.locator("#where").press("Enter")
    hits.nth(1).locator("button").click()
    expect(page.locator("#query-name")).to_have_text("Bag")
    expect(hits.first.locator(".distance")).to_have_text("0 bits")


def test_choose_drop_and_paste_a_file(page: Page, served: Any) -> None:
    photo, dropped, pasted = (next((served.photos / name).glob("*.png")) for name in ("Sneaker", "Coat", "Bag"))
    page.locator("#file").set_input_files(photo)
    expect(page.locator("#query-name")).to_have_text(photo.name)
    expect(page.locator("#hits .distance").first).to_have_text("0 bits")
    brought = {"dataTransfer": transfer(page, dropped, "coat.png")}
    page.dispatch_event("#drop", "dragover", brought)
    expect(page.locator("#drop")).to_have_class("over")
    page.dispatch_event("#drop", "drop", brought)
    expect(page.locator("#query-name")).to_have_text("coat.png")
    expect(page.locator("#hits .distance").first).to_have_text("0 bits")
    paste = "transfer => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer }))"
    page.evaluate(paste, transfer(page, pasted, "bag.png"))
    expect(page.locator("#query-name")).to_have_text("bag.png")
    expect(page.locator("#hits .tile", has_text="Bag").filter(has_text="0 bits").first).to_be_visible()
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    expect(page.locator("#status")).to_contain_text("not an image in JPEG, PNG, ")


def test_the_lab_shows_both_models_and_follows_the_slider(page: Page) -> None:
    page.locator("#samples button").first.click()
    page.locator("#attack").click()
    sides = page.locator(".side")
    expect(sides).to_have_count(2)
    expect(page.locator("#lab-status")).to_contain_text("more than 8/255")
    expect(sides.locator("h3")).to_have_text(["plain model", "hardened model"])
    for kind in ("before", "after"):
        expect(sides.first.locator(f".{kind} li")).to_have_count(10)
    verdict = sides.first.locator(".verdict").inner_text()
    right = sides.first.locator(".after .right").count()
    assert re.match(rf"\d+ → {right} of 10 results are ", verdict), verdict
    assert all_loaded(page, ".pictures img")
    same = "[...document.querySelectorAll('.side:first-child .pictures img')].map(image => image.src)"
    original, adversarial, _ = page.evaluate(same)
    assert original != adversarial
    keep(page, "3-lab")
    page.locator("#epsilon").fill("0")  # a slider's `fill` sets it and tells the page
    expect(page.locator("#epsilon-text")).to_have_text("0/255")
    page.locator("#epsilon").dispatch_event("change")
    expect(page.locator("#lab-status")).to_contain_text("more than 0/255")
    original, adversarial, _ = page.evaluate(same)
    assert original == adversarial
    expect(sides.first.locator(".verdict")).to_contain_text("moved by 0 bits of 32")


def test_the_risk_of_a_query_and_of_its_attack(page: Page, served: Any, hardened: Any) -> None:
    detectors = [Detector.load(own.detector, load_checkpoint(own.checkpoint)[0]) for own in (served, hardened)]
    photos = sorted(served.photos.rglob("*.png"))
    images = np.stack([np.asarray(Image.open(path)) for path in photos]).transpose(0, 3, 1, 2)
    scores = torch.stack([detector.score(torch.from_numpy(images.copy())) for detector in detectors])
    row = int(scores.amax(0).argmin())
    calm, ordinary, attacked = photos[row], "The query looks ordinary", "The query looks like an attack"
    before = [
        f"✓ {ordinary} score {score:.4f}, threshold {detector.threshold(0.05):.4f}"
        for score, detector in zip(scores[:, row].tolist(), detectors, strict=True)
    ]
    assert before[0] != before[1]  # else sides that are exchanged would pass
    page.locator("#file").set_input_files(calm)
    told = page.get_by_role("status").filter(has_text="The query")  # announced: a status is a live region
    expect(told).to_have_count(1)
    expect(told).to_have_text(before[0])
    expect(told).to_have_attribute("aria-live", "polite")
    page.locator("#attack").click()
    expect(page.locator(".side .risk_before")).to_have_text(before)
    expect(page.locator(".side .risk_after")).to_contain_text([attacked, attacked])
    verdicts = [side.inner_text() for side in page.locator(".side .verdict").all()]
    sentence = "The query looks ordinary before the attack, and looks like an attack after it."
    expect(page.get_by_role("status").filter(has_text="before the attack")).to_have_text(
        f"plain model: {verdicts[0]} {sentence} hardened model: {verdicts[1]} {sentence}"
    )
    expect(page.locator("#lab")).to_contain_text("knows it fully, but not its detector")
    keep(page, "5-risk")
    source = page.locator(".side .adversarial").first.get_attribute("src") or ""
    content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    page.locator("#file").set_input_files({"name": "attacked.png", "mimeType": "image/png", "buffer": content})
    expect(page.locator("#risk")).to_contain_text(f"⚠ {attacked}")
    expect(page.locator("#lab-heard")).to_be_empty()
    keep(page, "6-risk-of-a-search")
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    expect(page.locator("#status")).to_contain_text("not an image in JPEG, PNG, ")
    expect(page.locator("#risk")).to_be_empty()


def test_with_the_keyboard_alone(page: Page) -> None:
    tab_to(page, "#file")
    tab_to(page, "#others")
    before = page.locator("#samples button").first.get_attribute("data-item")
    page.keyboard.press("Enter")
    expect(page.locator("#samples button").first).not_to_have_attribute("data-item", str(before))
    tab_to(page, "#samples button")
    page.keyboard.press("Enter")
    hits = page.locator("#hits > li")
    expect(hits).to_have_count(21)
    tab_to(page, "#where")
    page.keyboard.type("label != 'Bag'")
    page.keyboard.press("Enter")
    expect(page.locator("#hits .label", has_text="Bag")).to_have_count(0)
    tab_to(page, "#k")
    page.keyboard.press("ArrowUp")
    expect(hits).to_have_count(10)
    tab_to(page, "#hits li:nth-child(3) button")
    name = hits.nth(2).locator(".label").inner_text()
    page.keyboard.press("Enter")
    expect(page.locator("#query-name")).to_have_text(name)
    expect(hits.first.locator("button")).to_be_focused()  # and not the top of the page: what was chosen is gone
    tab_to(page, "#steps")
    page.keyboard.press("ArrowUp")
    tab_to(page, "#epsilon", "Shift+Tab")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#epsilon-text")).to_have_text("7/255")
    tab_to(page, "#attack")
    page.keyboard.press("Enter")
    status, attack = page.locator("#lab-status"), page.locator("#attack")
    expect(page.locator(".side")).to_have_count(2)
    expect(status).to_contain_text("more than 7/255; 10 steps")
    expect(attack).to_be_focused()
    tab_to(page, "#epsilon", "Shift+Tab")
    for _ in range(6):  # faster than attacks are, and more than may wait
        page.keyboard.press("ArrowLeft")
    expect(status).to_contain_text("more than 1/255")
    expect(attack).to_have_attribute("aria-busy", "false")
    expect(page.locator(".side")).to_have_count(2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 400, "height": 800})
    page.locator("#samples button").nth(3).click()
    expect(page.locator("#hits > li")).to_have_count(21)
    expect(page.locator("#found-title")).to_be_in_viewport()  # what was found, and not the samples above it
    page.locator("#hits button").nth(7).click()
    expect(page.locator("#hits .distance").first).to_have_text("0 bits")
    expect(page.locator("#found-title")).to_be_in_viewport()
    page.locator("#attack").click()
    expect(page.locator(".side")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400  # nothing sticks out to the side
    slider, value = (page.locator(one).bounding_box() for one in ("#epsilon", "#epsilon-text"))
    assert slider["x"] + slider["width"] < value["x"]  # the number stands beside its slider
    assert abs(slider["y"] + slider["height"] / 2 - value["y"] - value["height"] / 2) < 4
    low = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input[type=text]')]
        .filter(one => one.offsetParent && one.getBoundingClientRect().height < 24).map(one => one.outerHTML)"""
    )
    assert low == []  # everything can be hit with a finger
    keep(page, f"4-phone-{scheme}")


def test_a_service_with_a_token_asks_for_it(browser: Browser, served: Any, serve: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-enough-letters")
    with serve(f"--index={served.index}", f"--token_file={tmp_path / 'token'}") as server, browser.new_page() as page:
        page.set_default_timeout(WAIT)
        page.goto(server.url)
        expect(page.locator("#token")).to_be_visible()
        expect(page.locator("#samples button")).to_have_count(0)
        page.locator("#token").fill("a-token-of-other-letters")
        page.locator("#token").press("Enter")
        expect(page.locator("#token-text.wrong")).to_have_text("That is not the token of this service.")
        page.locator("#token").fill("“a-token-of-enough-letters”")  # which no header can carry
        page.locator("#token").press("Enter")
        expect(page.locator("#token-text.wrong")).to_contain_text("letters, digits and signs of a plain keyboard")
        expect(page.locator("#token")).to_be_visible()
        page.locator("#token").fill("a-token-of-enough-letters")
        page.locator("#token").press("Enter")
        page.locator("#samples button").nth(5).click()
        expect(page.locator("#hits > li")).to_have_count(21)
        assert all_loaded(page, "#hits img, #samples img, #preview")  # pictures need the token too
        expect(page.locator("#token")).to_be_hidden()
        expect(page.locator("#lab")).to_be_hidden()
        expect(page.locator("#risk")).to_be_hidden()  # no detector, no word of risk
        expect(page.get_by_text("looks", exact=False)).to_have_count(0)
