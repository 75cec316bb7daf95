"""The files of the page, and content that a browser keeps until it has changed."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request, Response

TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
PATHS = ("/", "/app.js", "/drawing.js", "/service.js", "/style.css")
page = APIRouter(include_in_schema=False)


async def static(request: Request) -> Response:
    """Return a file of the page; these, and no others."""
    name = request.url.path[1:] or "index.html"  # one of `PATHS`
    content = (files("saat.serving") / "static" / name).read_bytes()
    return unless_known(request, content, TYPES[name.rpartition(".")[2]])


for path in PATHS:
    page.add_api_route(path, static, methods=["GET", "HEAD"])


def unless_known(request: Request, content: bytes, media_type: str) -> Response:
    """Return content, or, to a client that names it as what it has, only that this still holds."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"cache-control": "no-cache", "etag": tag}  # keep it, and ask each time
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)
