"""Limits that need no process: the rate of clients, and tokens that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

import saat
from saat.errors import ArgumentError, DataError
from saat.recipes.serve import ServeConfig, read_token
from saat.serving.limits import CLIENTS, TokenBuckets


def test_a_bucket_holds_twice_the_rate_and_fills_at_it() -> None:
    now = [0.0]
    buckets = TokenBuckets(2.0, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]
    assert buckets.take("b") == 0.0
    now[0] = 0.25
    assert buckets.take("a") == pytest.approx(0.25)  # what was refused has cost nothing
    now[0] = 0.5
    assert buckets.take("a") == 0.0
    now[0] = 1e6
    assert [buckets.take("a") for _ in range(5)][-1] == 0.5  # no more than a full bucket, however long it was left


def test_no_rate_is_no_limit_and_clients_are_forgotten() -> None:
    assert {TokenBuckets(0.0).take("a") for _ in range(999)} == {0.0}
    buckets = TokenBuckets(0.1, clock=lambda: 0.0)
    for number in range(CLIENTS + 10):
        buckets.take(str(number))
    assert len(buckets._buckets) == CLIENTS
    assert buckets.take("0") == 0.0  # forgotten, since it came first
    assert buckets.take(str(CLIENTS + 9)) > 0.0


@pytest.mark.parametrize("text", ["", "short", "two words of a token", "a-token-with-an-é-in-it"])
def test_a_token_is_one_long_word(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text, encoding="utf-8")
    with pytest.raises(ArgumentError, match="`token_file` holds one word of at least 16"):
        read_token(tmp_path / "token")
    with pytest.raises(DataError, match="`token_file` is a text file"):
        read_token(tmp_path / "none")


def test_options_that_do_not_go_together() -> None:
    for wrong in ({"port": 70000}, {"rate": -1.0}, {"room": 0}, {"hardened": Path("x"), "lab": True}):
        with pytest.raises(ArgumentError):
            ServeConfig(index=Path("x"), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="give `lab` too"):
        ServeConfig(index=Path("x"), hardened=Path("x"), hardened_index=Path("x"))


def test_a_client_says_what_is_no_address() -> None:
    with pytest.raises(ArgumentError, match=r"`url` is an address .* got 'http://a:port'"):
        saat.Client("http://a:port")
