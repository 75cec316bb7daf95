"""The guard in front of the service: token, rate, size and time of each request, and the headers of each answer."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saat.serving.page import PATHS

OPEN = ("/health", "/ready", *PATHS)  # no data in them
CLIENTS = 10_000  # whose rate is remembered
MOST_OPEN = 500  # requests in work at a time, uploads included
LOCAL = ("localhost", "127.0.0.1", "[::1]")
CLIENT_GONE = 499  # as other servers count it; nobody is there to see it
LINGER = 2.0  # seconds for which the rest of a refused body is read, so that its sender gets to see the answer
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Args:
        body: bytes of a request, counted as they come.
        seconds: that a request may take, its upload included.
        rate: requests a second of one client, of IPv6 one /64 network, with twice as many at once; 0 is no limit.
        room: searches underway at a time; one more is told to come again.
    """

    body: int = 10_000_000
    seconds: float = 60.0
    rate: float = 100.0
    room: int = 256


class TokenBuckets:
    """A bucket of tokens a client: each request takes one, and they flow back at the rate.

    Args:
        rate: tokens a second; a full bucket holds twice as many, at least one. 0 is no limit.
        clock: seconds that never go back.
    """

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._size = max(1.0, 2 * rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Take a token of `client`; return 0, or the seconds until there is one.

        >>> buckets = TokenBuckets(0.5, clock=lambda: 0.0)
        >>> buckets.take("a"), buckets.take("a"), buckets.take("b")
        (0.0, 2.0, 0.0)
        """
        if not self._rate:
            return 0.0
        now = self._clock()
        tokens, then = self._buckets.pop(client, (self._size, now))
        tokens = min(self._size, tokens + (now - then) * self._rate)
        wait = max(0.0, (1.0 - tokens) / self._rate)
        self._buckets[client] = (tokens if wait else tokens - 1.0, now)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return wait


def client_of(scope: Scope) -> str:
    """Return whose rate a request counts toward: an address, of IPv6 the network, for each host has all of its own.

    >>> client_of({"client": ("2001:db8::1:2:3", 5000)}), client_of({"client": ("10.0.0.7", 5000)}), client_of({})
    ('2001:db8::/64', '10.0.0.7', '')
    """
    address = scope["client"][0] if scope.get("client") else ""
    try:
        parsed = ip_address(address)
    except ValueError:
        return str(address)
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))
    return str(parsed)


class Guard:
    """ASGI middleware around the whole service.

    Args:
        app: the service.
        limits: of a request.
        token: that a client has to show, if any.
        local: answer only under a name of this machine, so that no page of another site gets at it through the
            browser of someone here.
        seen: told path template, method, status and seconds of each answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        token: str | None,
        local: bool,
        seen: Callable[[str, str, int, float], None],
    ) -> None:
        self._app, self._limits, self._token, self._local, self._seen = app, limits, token, local, seen
        self._open = 0
        self._buckets = TokenBuckets(limits.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, most=self._limits.body, sends_body=scope["method"] in ("POST", "PUT"))
        began = time.perf_counter()
        self._open += 1
        try:
            await self._answer(scope, exchange)
        finally:
            self._open -= 1
            route = getattr(scope.get("route"), "path", "none")
            self._seen(route, str(scope["method"]), exchange.status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await exchange.refuse(*refusal)
            return
        try:
            async with asyncio.timeout(self._limits.seconds) as limit, exchange.watched(limit):
                await self._app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if exchange.gone:
                return
            slow = not exchange.received.is_set()
            text = f"a request takes at most {self._limits.seconds:g} s"
            await exchange.refuse(408 if slow else 503, text, {} if slow else {"retry-after": "5"})
        except Exception:  # a defect: told to those who run the service, not to its clients
            log.exception("a request failed")
            await exchange.refuse(500, "the service failed; its log says why", {})

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, dict[str, str]] | None:
        """Return status, text and headers if this request is not to be answered."""
        if scope["path"] == "/health":
            return None
        if self._open > MOST_OPEN:
            return 503, "too many requests are underway; come again", {"retry-after": "1"}
        if self._local and not _is_local(headers):
            return 403, "this service answers only this machine, under its own names", {}
        wait = self._buckets.take(client_of(scope))
        if wait:
            text = f"at most {self._limits.rate:g} requests a second"
            return 429, text, {"retry-after": str(int(wait) + 1)}
        if self._token is not None and scope["path"] not in OPEN:
            scheme, _, shown = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), self._token.encode()):
                return 401, "this service needs its token: Authorization: Bearer ...", {"www-authenticate": "Bearer"}
        if not all(_is_utf8(value) for name, value in scope["headers"] if name == b"content-type"):
            return 415, "the texts of a form are UTF-8; leave out its charset", {}
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._limits.body:
            return 413, _too_large(self._limits.body), {}
        return None


class _Exchange:
    """One request and its answer: counts bytes in, adds headers out."""

    def __init__(self, receive: Receive, send: Send, *, most: int, sends_body: bool) -> None:
        self._receive, self._send, self._most = receive, send, most
        self._bytes = 0
        self._begun, self._sends_body = False, sends_body
        self.received = asyncio.Event()
        if not sends_body:
            self.received.set()
        self.gone = False
        self.status = 0

    async def receive(self) -> Message:
        """Return the next part of the request.

        Raises:
            HTTPException: the body is larger than it may be.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            if self._bytes > self._most:
                raise HTTPException(413, _too_large(self._most))
            if not message.get("more_body", False):
                self.received.set()
        return message

    @asynccontextmanager
    async def watched(self, limit: asyncio.Timeout) -> AsyncIterator[None]:
        """End the block by its limit at once where the client of a request with a body goes."""
        watcher = asyncio.create_task(self._watch(limit)) if self._sends_body else None
        try:
            yield
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _watch(self, limit: asyncio.Timeout) -> None:
        await self.received.wait()  # until then the parser of the body hears of it
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._begun and not limit.expired():
            self.gone, self.status = True, CLIENT_GONE
            limit.reschedule(asyncio.get_running_loop().time())

    async def send(self, message: Message) -> None:
        """Send a part of the answer; what is left of the request is read before the last one, for a moment."""
        if message["type"] == "http.response.start":
            self.status, self._begun = message["status"], True
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            if self.status == 413:
                ours.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", []), *ours]}
        elif self.status == 413 and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def refuse(self, status: int, text: str, headers: dict[str, str]) -> None:
        """Send an error, unless an answer has begun; that one is left as it is."""
        if self._begun:
            return
        body = json.dumps({"error": text}).encode()
        fields = {"content-type": "application/json", "content-length": str(len(body))} | headers
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER):
                message: Message = {"more_body": True}
                while message.get("more_body", False):
                    message = await self._receive()
        except TimeoutError:
            pass


def _is_utf8(content_type: bytes) -> bool:
    """Return whether the fields of a form are decoded as UTF-8, not by a codec that may take minutes, as punycode does.

    >>> _is_utf8(b"multipart/form-data; boundary=b"), _is_utf8(b'multipart/form-data; charset="punycode"')
    (True, False)
    """
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8")
    return charset.lower() in (b"utf-8", b"utf8")


def _is_local(headers: dict[str, str]) -> bool:
    """Return whether a request was sent to a name of this machine, and by no page of another.

    >>> _is_local({"host": "localhost:8000"}), _is_local({"host": "localhost:8000", "origin": "https://elsewhere.org"})
    (True, False)
    """
    host = headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name in LOCAL and headers.get("origin", f"http://{host}") == f"http://{host}"


def _too_large(most: int) -> str:
    return f"a request has at most {most:,} bytes"
