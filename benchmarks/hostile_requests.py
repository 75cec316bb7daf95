"""Requests meant to harm a service, as the bytes that go over the wire; each of its kind a little different."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

BOUNDARY = "a0b1c2d3e4f5"
TYPE = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
CONDITIONS = ("label = 'Bag'", "(" * 900, "__import__('os').system('x')", "label < 3", "nothing == 1", "x" * 2000)
PATHS = (
    *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/app.js/../app.py", "//etc/passwd", "/images/..%2f..%2fx"),
    *("/images/-1", "/items/9e99", f"/items/{2**70}", "/items/%00", "/images/1?size=99999", "/images/1?index=../x"),
    *("http://169.254.169.254/latest", "/static/../../x", "/items/1;rm%20-rf", "/samples?count=1e9", "/" + "a" * 9000),
)
NO_IMAGES = (
    *(b"", b"text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"PK\x03\x04" + bytes(500), b"%PDF-1.7\n"),
    *(b"\x7fELF" + bytes(900), b"GIF89a" + b"\xff" * 40, b"\x89PNG\r\n\x1a\n" + bytes(64), b"\xff\xd8\xff" * 99),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
)


@dataclass(frozen=True)
class Hostile:
    """One request.

    Args:
        kind: what it tries.
        parts: bytes, sent one after another.
        pause: seconds between them.
        hangs_up: it does not wait for an answer.
    """

    kind: str
    parts: Sequence[bytes]
    pause: float = 0.0
    hangs_up: bool = False


def upload(content: bytes, *, name: str = "a.jpg", fields: str = "") -> bytes:
    """Return the multipart body of a search with an image; `fields` are parts before it."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    return fields.encode() + head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def post(body: bytes, *, kind: str = TYPE, length: int | None = None) -> bytes:
    """Return a search as bytes; `length` is what it says of its body, if not the truth."""
    said = len(body) if length is None else length
    return f"POST /search HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {said}\r\n\r\n".encode() + body


def field(name: str, value: str) -> str:
    """Return a part of a form."""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'


def hostile_requests(count: int, photo: bytes, *, slow: float) -> Iterator[Hostile]:
    """Return `count` requests of all kinds in turns; a slow one wants to last `slow` seconds and more."""
    draw = random.Random(0)
    for number in range(count):
        yield KINDS[number % len(KINDS)](draw, photo, slow)


def _malformed(draw: random.Random, photo: bytes, _: float) -> Hostile:
    whole = upload(photo[:2000])
    torn = bytearray(post(whole))
    for _turn in range(20):
        torn[draw.randrange(len(torn))] = draw.randrange(256)
    choices = [
        post(whole, kind="Content-Type: multipart/form-data\r\n"),
        post(whole, kind="Content-Type: multipart/form-data; boundary=other\r\n"),
        post(whole[:-20]),
        post(b'{"image": "x"}', kind="Content-Type: application/json\r\n"),
        post(upload(photo, fields=field("k", draw.choice(["0", "1001", "1e9", "\x00", "ten"])))),
        post(upload(photo, fields=field("where", draw.choice(CONDITIONS)))),
        post(upload(photo, fields=field("item", "1"))),
        post(whole, kind=TYPE + "Transfer-Encoding: chunked\r\n"),
        post(whole, kind=TYPE + "X: " + "y" * 100_000 + "\r\n"),
        post(whole, length=-1),
        bytes(torn),
        draw.randbytes(500) + b"\r\n\r\n",
    ]
    return Hostile("malformed", [draw.choice(choices)])


def _oversized(draw: random.Random, _: bytes, __: float) -> Hostile:
    body = upload(draw.randbytes(64) * 175_000)  # 11.2 MB
    if draw.random() < 0.5:
        return Hostile("oversized", [post(body)])
    return Hostile("oversized", [post(b"", length=2 * 10**9), bytes(1000)])


def _endless(draw: random.Random, _: bytes, __: float) -> Hostile:
    """More than is allowed, in chunks, with no length told."""
    head = f"POST /search HTTP/1.1\r\nHost: localhost\r\n{TYPE}Transfer-Encoding: chunked\r\n\r\n".encode()
    begin = upload(b"")[:-20]
    piece = draw.randbytes(1000) * 100
    chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    return Hostile("chunked, no length", [head, f"{len(begin):x}\r\n".encode() + begin + b"\r\n", *[chunk] * 110])


def _truncated(draw: random.Random, photo: bytes, _: float) -> Hostile:
    if draw.random() < 0.5:
        return Hostile("truncated", [post(upload(photo[: draw.randrange(len(photo))]))])
    whole = post(upload(photo))
    return Hostile("truncated", [whole[: draw.randrange(20, len(whole))]], hangs_up=True)


def _slow(draw: random.Random, photo: bytes, slow: float) -> Hostile:
    whole = post(upload(photo))
    begun = draw.choice([30, 400, 5000])  # stops in its head, in its body's first lines, or in the image
    drops = [whole[begun + place : begun + place + 1] for place in range(int(slow) + 3)]
    return Hostile("slow", [whole[:begun], *drops], pause=1.0)


def _silent(draw: random.Random, photo: bytes, _: float) -> Hostile:
    return Hostile("silent", [draw.choice([b"", post(upload(photo))[:30]])])


def _bomb(draw: random.Random, _: bytes, __: float) -> Hostile:
    side = draw.choice([6_300, 13_000, 20_000, 65_000, 2**31 - 1])  # the first is just within what is decoded
    if draw.random() < 0.3:
        return Hostile("bomb", [post(upload(b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(99)))])
    return Hostile("bomb", [post(upload(png(side), name="a.png"))])


def _wrong_type(draw: random.Random, _: bytes, __: float) -> Hostile:
    return Hostile("wrong type", [post(upload(draw.choice(NO_IMAGES)))])


def _path(draw: random.Random, _: bytes, __: float) -> Hostile:
    if draw.random() < 0.3:
        name = draw.choice(["../../etc/passwd", "/etc/passwd", "a\x00.jpg", "C:\\x", "\u202egpj.exe", "x" * 5000])
        return Hostile("path", [post(upload(b"no image", name=name))])
    path = draw.choice((*PATHS, "/" + quote(draw.randbytes(20))))
    method = draw.choice(["GET", "GET", "HEAD", "DELETE", "PUT", "CONNECT", "TRACE"])
    return Hostile("path", [f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()])


def png(side: int) -> bytes:
    """Return a small PNG that says it has `side` x `side` pixels; one of 6,300 has them."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(((side + 7) // 8 + 1) * side), 9) if side < 10_000 else zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, (b"IHDR", b"IDAT", b"IEND"), (header, rows, b"")))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


KINDS: tuple[Callable[[random.Random, bytes, float], Hostile], ...] = (
    *(_malformed, _truncated, _path, _wrong_type, _malformed, _truncated, _path, _wrong_type),
    *(_malformed, _bomb, _oversized, _endless, _slow, _silent),
)
