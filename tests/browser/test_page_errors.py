"""What the page says when the service does not answer as it hopes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driving import MARKS, WAIT, transfer
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
        expect(page.locator("#samples-status.wrong")).to_contain_text("this service needs its token")
        page.locator("#filter-form button").click()
        expect(page.locator("#status.wrong")).to_contain_text("this service needs its token")
        page.locator("#token").fill(TOKENS[0])
        page.locator("#token").press("Enter")
        expect(said).to_be_empty()
        expect(page.locator("#hits > li")).to_have_count(21)  # what was asked for without the token is asked again
