"""Client: the service from Python. Imports neither torch nor the rest of saat's floors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx

from saat.errors import ArgumentError, DataError, SaatError
from saat.serving.hits import About, Answer, Hit, Item, Risk

Made = TypeVar("Made")
FOREIGN = "not an answer of `saat serve`"


class ServiceError(SaatError):
    """The service refused a request, or was not reached.

    Args:
        text: what it said.
        status: of HTTP; 0 if there was no answer.
        retry_after: seconds after which to come again, if it said so.
    """

    def __init__(self, text: str, *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status, self.retry_after = status, retry_after


class Client:
    """A running `saat serve`. Use it in a `with` block, or call `close`.

    Args:
        url: such as http://127.0.0.1:8000.
        token: if the service needs one.
        timeout: seconds to wait for an answer.

    Raises:
        ArgumentError: `url` is none, or `token` cannot be one.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0) -> None:
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ArgumentError("`token` has printable ASCII characters, as headers do; got others")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if not is_service_address(url):
            shown = url.rpartition("@")[2]
            raise ArgumentError(f"`url` is an address such as http://127.0.0.1:8000, without a login; got {shown!r}")
        self._url = url
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        except httpx.InvalidURL as error:
            raise ArgumentError(f"`url` is an address such as http://127.0.0.1:8000; got {url!r}: {error}") from None

    def __enter__(self) -> Client:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def search(
        self, image: Path | str | bytes, k: int = 10, where: str | None = None, radius: int | None = None
    ) -> list[Hit]:
        """Return the `k` items nearest to an image, its path or the bytes of its file; none beyond a radius, if given.

        Raises:
            DataError: the file cannot be read.
            ServiceError: the service refused.
        """
        return self.answer(image, k, where, radius).hits

    def answer(
        self, image: Path | str | bytes, k: int = 10, where: str | None = None, radius: int | None = None
    ) -> Answer:
        """Return what `search` does, with how much the image looks like an attack, if the service has a detector, and
        how many items lie within the radius, if one is given.

        Raises:
            DataError: the file cannot be read.
            ServiceError: the service refused.
        """
        files = [("image", _bytes_of(image))]
        return _read(_answer_of, self._call("POST", "/search", data=_fields(k, where, radius), files=files))

    def answers(
        self, images: Sequence[Path | str | bytes], k: int = 10, where: str | None = None, radius: int | None = None
    ) -> list[Answer]:
        """Return what `answer` does for each of 1 to 64 images, by one request.

        Raises:
            DataError: a file cannot be read.
            ServiceError: the service refused.
        """
        files = [("images", _bytes_of(image)) for image in images]
        found = self._call("POST", "/search/batch", data=_fields(k, where, radius), files=files)
        return _read(lambda found: [_answer_of(one) for one in found["answers"]], found)

    def about(self) -> About:
        """Return what is served.

        Raises:
            ServiceError: the service refused, or is another program.
        """
        return _read(partial(_made, About), self._call("GET", "/about"))

    def item(self, number: int) -> Item:
        """Return an item.

        Raises:
            ServiceError: the service refused; with status 404 if there is no such item.
        """
        return _read(partial(_made, Item), self._call("GET", f"/items/{number:d}"))

    def add(self, image: Path | str | bytes, *, label: str | None = None) -> Item:
        """Add an image, and return its item; that of before, if the image was added before.

        Raises:
            DataError: the file cannot be read.
            ServiceError: the service refused.
        """
        data = {} if label is None else {"label": label}
        found = self._call("POST", "/items", data=data, files=[("image", _bytes_of(image))])
        return _read(partial(_made, Item), found)

    def remove(self, number: int) -> None:
        """Remove an item.

        Raises:
            ServiceError: the service refused; with status 404 if there is no such item.
        """
        self._call("DELETE", f"/items/{number:d}")

    def _call(
        self,
        method: str,
        path: str,
        *,
        data: Mapping[str, str] | None = None,
        files: Sequence[tuple[str, bytes]] | None = None,
    ) -> Any:
        try:
            response = self._http.request(method, path, data=data, files=files)
        except httpx.HTTPError as error:
            raise ServiceError(f"no answer from {self._url}: {error or type(error).__name__}") from error
        try:
            if response.is_success:
                return response.json() if response.content else None
            text = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            text = FOREIGN
        after = response.headers.get("retry-after", "")
        raise ServiceError(
            f"{response.status_code}: {text}",
            status=response.status_code,
            retry_after=float(after) if after.isdigit() else None,
        )


def is_service_address(text: str) -> bool:
    """Return whether a text is the address of a service, without a login, which errors would show.

    >>> is_service_address("http://127.0.0.1:8000"), is_service_address("http://me:secret@127.0.0.1:8000")
    (True, False)
    """
    try:
        address = urlsplit(text)
        named = bool(address.hostname) and address.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        return False
    return named and address.scheme in ("http", "https") and "@" not in address.netloc


def _read(make: Callable[[Any], Made], found: Any) -> Made:
    """Return what `make` makes of an answer, which may be that of another program."""
    try:
        return make(found)
    except (KeyError, TypeError):
        raise ServiceError(FOREIGN) from None


def _made(kind: type[Made], found: Mapping[str, Any]) -> Made:
    """Return a dataclass of what was found for it; a later service may tell more, which is passed over."""
    return kind(**{field.name: found[field.name] for field in fields(cast(Any, kind))})


def _fields(k: int, where: str | None, radius: int | None) -> dict[str, str]:
    given = {"k": k, "where": where, "radius": radius}
    return {name: str(value) for name, value in given.items() if value is not None}


def _answer_of(found: Mapping[str, Any]) -> Answer:
    hits = [_made(Hit, hit | {"bits": tuple(hit["bits"])}) for hit in found["hits"]]
    return Answer(hits, None if found["risk"] is None else _made(Risk, found["risk"]), found["within"])


def _bytes_of(image: Path | str | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise DataError(f"`image` is an image file or its bytes; {image}: {error.strerror}") from error
