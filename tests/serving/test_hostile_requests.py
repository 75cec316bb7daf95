"""Requests meant to harm a service that runs as a process of its own."""

from __future__ import annotations

import io
import socket
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from asking import measure, post
from PIL import Image


def bomb() -> bytes:
    """A PNG of 12,000 x 12,000 pixels in a few hundred bytes, as its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (12_000).to_bytes(4, "big")
    pixels = zlib.compress(bytes(100_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + size + b"\x08\x02\0\0\0")
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


HOSTILE: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "truncated": ({"files": {"image": jpeg()[:3000]}}, (422,)),
    "bomb": ({"files": {"image": bomb()}}, (422,)),
    "text": ({"files": {"image": b"#!/bin/sh\nrm -rf /"}}, (422,)),
    "svg": ({"files": {"image": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}}, (422,)),
    "empty": ({"files": {"image": b""}}, (422,)),
    "a name with a path": ({"files": {"image": ("../../etc/passwd", b"x", "image/png")}}, (422,)),
    "no file": ({"data": {"image": "/etc/passwd"}}, (422,)),
    "a URL": ({"data": {"image": "http://127.0.0.1/"}}, (422,)),
    "both": ({"files": {"image": jpeg()}, "data": {"item": "1"}}, (422,)),
    "neither": ({"data": {"k": "3"}}, (422,)),
    "JSON": ({"json": {"image": "x"}}, (422,)),
    "broken multipart": (
        {"content": b"--x\r\nbad", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        (400, 422),
    ),
    "a codec that takes minutes": (
        {"content": b"--x--\r\n", "headers": {"content-type": "multipart/form-data; boundary=x; charset=punycode"}},
        (415,),
    ),
    "no boundary": ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, (400, 422)),
    "k too large": ({"data": {"item": "1", "k": "1001"}}, (422,)),
    "k zero": ({"data": {"item": "1", "k": "0"}}, (422,)),
    "k no number": ({"data": {"item": "1", "k": "1e9"}}, (422,)),
    "item too large": ({"data": {"item": str(2**70)}}, (422,)),
    "bad where": ({"data": {"item": "1", "where": "label = 'Bag'"}}, (422,)),
    "where that is code": ({"data": {"item": "1", "where": "__import__('os').system('x')"}}, (422,)),
    "where of parentheses": ({"data": {"item": "1", "where": "(" * 900}}, (422,)),
    "where of another kind": ({"data": {"item": "1", "where": "label < 3"}}, (422,)),
    "where too long": ({"data": {"item": "1", "where": "label == '" + "x" * 2000 + "'"}}, (422,)),
    "too large": ({"files": {"image": bytes(11_000_000)}}, (413,)),
    "too large, in chunks": ({"content": (bytes(100_000) for _ in range(150))}, (413, 422)),
    "too many files": ({"files": [("images", bytes(1)) for _ in range(1100)]}, (400, 422)),
}


def test_hostile_requests_are_refused_and_harm_nobody(http: httpx.Client, url: str, photo: Path) -> None:
    wanted, ended = post(http, photo).json(), threading.Event()
    others: list[Any] = []

    def good() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not ended.is_set():
                others.append(post(client, photo).json())

    honest = threading.Thread(target=good)
    honest.start()
    try:
        for name, (request, statuses) in HOSTILE.items():
            answer = http.post("/search", **request)
            assert answer.status_code in statuses, (name, answer.status_code, answer.text)
            assert set(answer.json()) == {"error"}, name
            assert "Traceback" not in answer.text
    finally:
        ended.set()
        honest.join()
    assert others
    assert all(other == wanted for other in others)
    assert measure(http, "saat_searches_underway") == 0


def test_a_body_without_a_length_is_counted_as_it_streams(http: httpx.Client) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

    def parts() -> Iterator[bytes]:
        yield head
        for _ in range(200):
            yield bytes(100_000)

    answer = http.post("/search", content=parts(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()) == (413, {"error": "a request has at most 10,000,000 bytes"})


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/static/app.js", "/%2e%2e/app.py", "/app.js/../app.py", "//etc/passwd", "/docs"]
)
def test_no_path_reaches_the_disk(url: str, path: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:  # httpx would tidy the path up
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b" 404 " in answer.split(b"\r\n")[0]
