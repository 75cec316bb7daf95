"""The HTTP application: what it is made of, and how its errors look."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from saat import __version__
from saat.errors import SaatError, ServerError
from saat.serving.batching import QueueFull
from saat.serving.limits import Guard
from saat.serving.page import page
from saat.serving.routes import router
from saat.serving.service import Service

SHOWN = 50  # letters of what was found
log = logging.getLogger(__name__)


def make_app(service: Service, *, token: str | None = None, local: bool = False) -> FastAPI:
    """Return the application.

    Args:
        service: what it serves.
        token: that clients show, as `Authorization: Bearer TOKEN`; without one everyone may search and nobody change.
        local: answer only under a name of this machine.
    """
    app = FastAPI(
        title="saat",
        version=__version__,
        summary="Image search by the Hamming distance of codes.",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        lifespan=service.running,
    )
    app.state.service = service
    app.include_router(router)
    app.include_router(page)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(Guard, limits=service.limits, token=token, local=local, seen=service.measures.request)
    return app


def problem(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error as clients see it."""
    return JSONResponse({"error": text}, status_code=status, headers=headers)


async def _on_http(_: Request, error: Any) -> JSONResponse:
    return problem(error.status_code, str(error.detail), error.headers)


async def _on_invalid(_: Request, error: Any) -> JSONResponse:
    return problem(422, "; ".join(map(_fault, error.errors())))


def _fault(part: dict[str, Any]) -> str:
    """Return which field is wrong, why, and what was found."""
    name, given = ".".join(str(step) for step in part["loc"][1:]), part.get("input")
    if part["type"] == "value_error":  # files alone have such a rule, whose text names classes
        return f"{name}: Input should be a file"
    return f"{name}: {part['msg']}" + (f"; got {given[:SHOWN]!r}" if isinstance(given, str) else "")


async def _on_saat(_: Request, error: Exception) -> JSONResponse:
    return problem(422, str(error))


async def _on_server(_: Request, error: Exception) -> JSONResponse:
    log.error("%s", error)  # names the address, which is no client's business
    return problem(503, "the index does not answer; come again", {"Retry-After": "5"})


async def _on_full(_: Request, __: Exception) -> JSONResponse:
    return problem(503, "too many requests are underway; come again", {"Retry-After": "1"})


HANDLERS: dict[type[Exception], Any] = {
    HTTPException: _on_http,
    RequestValidationError: _on_invalid,
    SaatError: _on_saat,
    ServerError: _on_server,
    QueueFull: _on_full,
}
