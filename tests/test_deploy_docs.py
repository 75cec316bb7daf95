"""What docs/how-to/deploy.md says: its proxy lets the page through, and its `.env` is all that compose asks for."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "how-to" / "deploy.md"


def test_the_rate_of_the_proxy_has_room_for_the_pictures_of_the_longest_list_of_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(r"location /images/ \{\s+limit_req zone=(\w+) burst=(\d+) nodelay;", text)
    assert found
    zone, burst = found.groups()
    page = (files("saat.serving") / "static" / "index.html").read_text(encoding="utf-8")
    choices = re.findall(r"<option[^>]*>(\d+)<", page.partition('id="k"')[2].partition("</select>")[0])
    assert int(burst) >= max(map(int, choices))
    assert text.count(f"zone={zone}") == 2  # where it is made and here: pictures do not use up the rate of searches


def test_compose_demands_what_the_page_says_and_no_more() -> None:
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    listed = re.findall(r"^([A-Z_]+)=", PAGE.read_text(encoding="utf-8").partition("A file `.env`")[2], re.MULTILINE)
    assert set(re.findall(r"\$\{([A-Z_]+):\?", compose)) == set(listed)
    assert ":?" not in "".join(re.findall(r"image: .*", compose))
