"""Addresses of servers: their parts, what is refused, and that no message shows a password."""

from __future__ import annotations

import pytest

from saat.errors import ArgumentError
from saat.index.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        (
            "milvus://localhost/photos",
            Address("milvus", "localhost", None, "", "", "photos", "photos", {}),
            "milvus://localhost/photos",
        ),
        (
            "milvus://me:a%40b%2F@[::1]:19531/p",
            Address("milvus", "::1", 19531, "me", "a@b/", "p", "p", {}),
            "milvus://[::1]:19531/p",
        ),
        (
            "milvus+tls://me:x@db/p",
            Address("milvus+tls", "db", None, "me", "x", "p", "p", {}),
            "milvus+tls://db/p",
        ),
        (
            "postgres://me:x@db:5433/mine?table=t&sslmode=require",
            Address("postgresql", "db", 5433, "me", "x", "mine", "t", {"sslmode": "require"}),
            "postgresql://db:5433/mine?table=t",
        ),
        (
            "postgresql:///mine?host=/run/pg&password=x",
            Address("postgresql", "", None, "", "", "mine", "saat", {"host": "/run/pg", "password": "x"}),
            "postgresql:///mine?table=saat",
        ),
    ],
)
def test_parts(text: str, address: Address, shown: str) -> None:
    assert parse_address(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mysql://me:geheim@db/photos", "found mysql://"),
        ("postgresql+tls://me:geheim@db/photos", r"found postgresql\+tls://"),
        ("postgresql:/me:geheim@db", "found postgresql:/"),
        ("host:19530/photos", "found no ://"),
        ("milvus:///photos", "found no host"),
        ("milvus://me:geheim@db:port/photos", "a host or port that is none"),
        ("milvus://me:geheim@db:99999/photos", "a host or port that is none"),
        ("milvus://db/photos?password=geheim", "options after"),
        ("milvus://db/a/b", "more than one step"),
        ("milvus://db/", "named by at most 55 letters"),
        ("milvus://db/photos;drop", "named by at most 55 letters"),
        ("postgresql://me:geheim@db/mine?table=a%22b", "named by at most 55 letters"),
        ("postgresql://me:geheim#x@db/mine", "a host or port that is none"),
    ],
)
def test_other_forms_are_refused(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        parse_address(text)
    assert "geheim" not in str(caught.value)


def test_a_password_is_not_in_the_repr() -> None:
    assert "geheim" not in repr(parse_address("postgresql://me:geheim@db/mine?password=geheim"))
