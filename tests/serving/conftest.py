"""A connection to the service that many tests ask, and an image to ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def photo(served: Any) -> Path:
    return sorted((served.photos / "Dress").glob("*.png"))[0]
