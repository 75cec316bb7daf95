"""What the page says when the service does not answer as it hopes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from driving import MARKS, WAIT, all_loaded, transfer
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from service import Start

pytestmark = MARKS
TOKENS = ("a-token-of-enough-letters", "a-token-of-other-letters")


@pytest.fixture
def opened(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """A page without an address yet, and the errors that nobody caught on it."""
    with browser.new_context() as context:
        page, uncaught = context.new_page(), list[str]()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: uncaught.append(str(error)))
        yield page, uncaught
        assert uncaught == []


def test_an_image_that_is_dropped_before_the_service_has_said_what_it_serves_is_searched(
    opened: tuple[Page, list[str]], served: Any, serve: Start
) -> None:
    page, uncaught = opened
    photo = next((served.photos / "Coat").glob("*.png"))
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    with serve(f"--index={served.index}", "--lab=true") as server:
        page.route("**/about", hold)
        page.goto(server.url)
        page.dispatch_event("#drop", "drop", {"dataTransfer": transfer(page, photo, "coat.png")})
        expect(page.locator("#query-name")).to_have_text("coat.png")
        expect(page.locator("#status")).to_have_text("Searching …")
        expect(page.locator("#lab")).to_be_hidden()
        for route in held:
            route.continue_()
        expect(page.locator("#hits .distance").first).to_have_text("0 bits")
        expect(page.locator("#about")).to_have_text("60 images, 32-bit codes")
        expect(page.locator("#lab")).to_be_visible()
        expect(page.locator("#samples button")).to_have_count(24)
        assert uncaught == []


def test_an_image_that_is_dropped_where_nobody_answers_gets_an_error_and_is_searched_later(
    opened: tuple[Page, list[str]], served: Any, serve: Start
) -> None:
    page, _ = opened
    photo = next((served.photos / "Coat").glob("*.png"))
    with serve(f"--index={served.index}") as server:
        page.route("**/about", lambda route: route.abort())
        page.goto(server.url)
        expect(page.locator("#about")).to_have_text("The service does not answer.")
        page.locator("#file").set_input_files(photo)
        expect(page.locator("#status.wrong")).to_have_text("The service does not answer.")
        page.unroute("**/about")
        page.locator("#file").set_input_files(photo)
        expect(page.locator("#hits .distance").first).to_have_text("0 bits")
        expect(page.locator("#about")).to_have_text("60 images, 32-bit codes")


def test_samples_that_do_not_come_are_told_of_at_the_start_and_on_others(
    opened: tuple[Page, list[str]], served: Any, serve: Start, tmp_path: Path
) -> None:
    page, _ = opened
    (tmp_path / "token").write_text(TOKENS[0])
    said, samples = page.locator("#samples-status"), page.locator("#samples button")
    with serve(f"--index={served.index}", f"--token_file={tmp_path / 'token'}") as server:
        page.route("**/samples?*", lambda route: route.abort())
        page.goto(server.url)
        page.locator("#token").fill(TOKENS[0])
        page.locator("#token").press("Enter")
        expect(page.locator("#samples-status.wrong")).to_have_text("The service does not answer.")
        page.unroute("**/samples?*")
        page.locator("#others").click()
        expect(samples).to_have_count(24)
        expect(said).to_be_empty()
        samples.first.click()
        expect(page.locator("#hits > li")).to_have_count(21)
        page.evaluate("token => sessionStorage.setItem('token', token)", TOKENS[1])  # as where it was changed since
        page.locator("#others").click()
        expect(page.locator("#samples-status.wrong")).to_have_text("Give the token at the top of the page.")
        page.locator("#filter-form button").click()
        expect(page.locator("#status.wrong")).to_have_text("Give the token at the top of the page.")
        page.locator("#token").fill(TOKENS[0])
        page.locator("#token").press("Enter")
        expect(said).to_be_empty()
        expect(page.locator("#hits > li")).to_have_count(21)  # what was asked for without the token is asked again


def test_an_answer_that_is_not_of_the_service_is_told(opened: tuple[Page, list[str]], url: str) -> None:
    page, _ = opened
    page.goto(url)

    def given(answer: dict[str, Any], route: Route) -> None:
        route.fulfill(**answer)

    answers: list[tuple[dict[str, Any], str]] = [
        ({"status": 503, "json": {"error": "come again"}}, "come again"),
        ({"status": 413, "body": "<html>", "content_type": "text/html"}, "Payload Too Large"),
        ({"status": 200, "body": "<html>", "content_type": "text/html"}, "What answers here is not the service."),
    ]
    for answer, text in answers:
        page.route("**/search", partial(given, answer))
        page.locator("#samples button").first.click()
        expect(page.locator("#status.wrong")).to_have_text(text)
        page.unroute("**/search")
    page.evaluate("window.fetch = async () => new Response('{}', { status: 413 })")  # as HTTP/2, which has no words
    page.locator("#samples button").first.click()
    expect(page.locator("#status.wrong")).to_have_text("The service answers with 413.")


def test_the_slider_attacks_again_during_an_attack_and_after_one_that_failed(
    opened: tuple[Page, list[str]], url: str
) -> None:
    page, _ = opened
    page.goto(url)
    status = page.locator("#lab-status")
    page.locator("#samples button").first.click()
    held: list[Route] = []
    page.route("**/lab/attack", lambda route: held.append(route))
    page.locator("#attack").click()
    expect(status).to_have_text("Attacking …")
    page.locator("#epsilon").fill("3")
    page.locator("#epsilon").dispatch_event("change")
    assert len(held) == 1  # the service lets few wait
    held[0].continue_()
    page.unroute("**/lab/attack")
    expect(status).to_contain_text("more than 3/255; 50 steps")
    page.route("**/lab/attack", lambda route: route.fulfill(status=503, json={"error": "come again"}))
    page.locator("#attack").click()
    expect(page.locator("#lab-status.wrong")).to_have_text("come again")
    page.unroute("**/lab/attack")
    page.locator("#steps").select_option("10")
    expect(status).to_contain_text("more than 3/255; 10 steps")


def test_what_is_dropped_and_is_no_image_changes_nothing(page: Page, served: Any) -> None:
    photo, said = next((served.photos / "Coat").glob("*.png")), page.locator("#query-status")
    page.locator("#file").set_input_files(photo)
    expect(page.locator("#hits .distance").first).to_have_text("0 bits")
    box, devices = page.locator("#drop").bounding_box(), page.context.new_cdp_session(page)
    assert box is not None

    def drop(*files: Path) -> None:
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            place = {"x": box["x"] + 20, "y": box["y"] + 20}
            devices.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})

    drop(served.photos)
    expect(said).to_have_text("This is no file that can be read.")
    drop(photo, photo)
    expect(said).to_have_text("One image at a time.")
    let = """event => document.querySelector('#where').dispatchEvent(event)"""
    dropped = page.evaluate_handle(
        """() => { const dataTransfer = new DataTransfer(); dataTransfer.setData('text/plain', 'id < 3');
        return new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }); }"""
    )
    assert page.evaluate(let, dropped)  # not prevented: the field takes the text
    expect(page.locator("#query-name")).to_have_text(photo.name)
    drop(next((served.photos / "Bag").glob("*.png")))
    expect(page.locator("#query-name")).not_to_have_text(photo.name)
    expect(said).to_be_empty()


def test_with_a_token_a_late_picture_does_not_take_the_place_of_the_query(
    opened: tuple[Page, list[str]], served: Any, serve: Start, tmp_path: Path
) -> None:
    page, _ = opened
    (tmp_path / "token").write_text(TOKENS[0])
    held: list[Route] = []
    with serve(f"--index={served.index}", f"--token_file={tmp_path / 'token'}") as server:
        page.goto(server.url)
        page.locator("#token").fill(TOKENS[0])
        page.locator("#token").press("Enter")
        expect(page.locator("#file")).to_be_focused()
        expect(page.locator("#samples button")).to_have_count(24)
        first, later = page.locator("#samples button").first, page.locator("#samples button").nth(5)
        late = f"**/images/{first.get_attribute('data-item')}?*"
        page.route(late, lambda route: held.append(route))
        first.click()
        expect(page.locator("#hits > li")).to_have_count(21)
        later.click()
        name = later.get_attribute("title") or ""
        expect(page.locator("#query-name")).to_have_text(name)
        for route in held:
            white = Image.new("RGB", (7, 7), "white")
            content = io.BytesIO()
            white.save(content, "PNG")
            route.fulfill(body=content.getvalue(), content_type="image/png")
        assert all_loaded(page, "#preview")
        page.wait_for_timeout(300)
        assert page.locator("#preview").evaluate("image => image.naturalWidth") == 32
