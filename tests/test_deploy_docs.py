"""The proxy of docs/how-to/deploy.md lets the service's own page through."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "deploy.md"


def test_the_rate_of_the_proxy_has_room_for_the_pictures_of_the_longest_list_of_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(r"location /images/ \{\s+limit_req zone=(\w+) burst=(\d+) nodelay;", text)
    assert found
    zone, burst = found.groups()
    page = (files("saat.serving") / "static" / "index.html").read_text(encoding="utf-8")
    choices = re.findall(r"<option[^>]*>(\d+)<", page.partition('id="k"')[2].partition("</select>")[0])
    assert int(burst) >= max(map(int, choices))
    assert text.count(f"zone={zone}") == 2  # where it is made and here: pictures do not use up the rate of searches
