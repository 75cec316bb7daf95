"""How tests ask the service."""

from __future__ import annotations

from pathlib import Path

import httpx


def post(http: httpx.Client, photo: Path, **data: str) -> httpx.Response:
    return http.post("/search", files={"image": photo.read_bytes()}, data=data)


def measure(http: httpx.Client, name: str) -> float:
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
