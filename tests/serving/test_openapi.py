"""What /openapi.json says of the service is what it does: requests drawn from the description, and against it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from service import Start

HEADERS = {"Authorization": "Bearer a-token-of-enough-letters"}
OPERATIONS = {
    *("POST /search", "POST /search/batch", "GET /items/{item_id}", "POST /items", "DELETE /items/{item_id}"),
    *("GET /images/{item_id}", "GET /samples", "POST /lab/attack", "GET /about", "GET /health", "GET /ready"),
    "GET /metrics",
}


@pytest.fixture(scope="module")
def described(served: Any, serve: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What a service with everything on says of itself."""
    folder = tmp_path_factory.mktemp("described")
    shutil.copytree(served.index, folder / "index")
    (folder / "token").write_text(HEADERS["Authorization"].removeprefix("Bearer "))
    options = (f"--index={folder / 'index'}", f"--token_file={folder / 'token'}", "--lab=true", "--rate=0")
    with serve(*options, "--backend=flat") as server:  # which answers a radius too
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=HEADERS)


def make_real(case: Any, photo: bytes) -> None:
    """Ask about an image and an item that there are; no schema says which these are."""
    if "item_id" in case.path_parameters:
        case.path_parameters["item_id"] %= 60
    if case.path == "/search/batch":
        case.body["images"] = [photo]
    elif case.method == "POST":
        form = case.body if isinstance(case.body, dict) else {}
        case.body = {name: value for name, value in form.items() if name != "item"} | {"image": photo}


def check(operation: Any, mode: GenerationMode, photo: bytes, examples: int) -> Counter[int]:
    """Check every answer to drawn requests; return how many answers had each status.

    A request that is valid to the schema may be refused, for a condition on a column that is none, say.
    """
    statuses: Counter[int] = Counter()
    load_all_checks()
    unfit = {"positive_data_acceptance"} | ({"negative_data_rejection"} if mode is GenerationMode.POSITIVE else set())
    refusals = [one for one in CHECKS.get_all() if one.__name__ in unfit]
    assert len(refusals) == len(unfit)

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            make_real(case, photo)
        statuses[case.call_and_validate(headers=HEADERS, excluded_checks=refusals).status_code] += 1

    run()
    return statuses


def test_valid_requests_are_answered_as_described(described: Any, served: Any) -> None:
    photo = next(served.photos.rglob("*.png")).read_bytes()
    operations = {found.ok().label: found.ok() for found in described.get_all_operations()}
    assert set(operations) == OPERATIONS
    statuses = {label: check(one, GenerationMode.POSITIVE, photo, 6) for label, one in operations.items()}
    assert all(any(status < 300 for status in counts) for counts in statuses.values()), statuses
    assert max(status for counts in statuses.values() for status in counts) < 500


def test_invalid_requests_are_refused_as_described(described: Any) -> None:
    operations = [found.ok() for found in described.get_all_operations()]
    asked = [one for one in operations if one.body or list(one.iter_parameters())]
    statuses = {one.label: check(one, GenerationMode.NEGATIVE, b"", 15) for one in asked}
    assert all(any(400 <= status < 500 for status in counts) for counts in statuses.values()), statuses
    assert max(status for counts in statuses.values() for status in counts) < 500
