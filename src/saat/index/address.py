"""Where an index lies that is no folder: the address of a server, whose password is never shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from saat.errors import ArgumentError

SCHEMES = ("milvus", "milvus+tls", "postgresql")
FORMS = (
    "milvus[+tls]://[user:password@]host[:19530]/collection",
    "postgresql://[user:password@]host[:5432]/database[?table=saat]",
)
TABLE = "saat"  # of an address of PostgreSQL that names none
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/")  # a `Path` makes one slash of two; C:/ is a drive
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,54}")  # what both servers take as it is


@dataclass(frozen=True)
class Address:
    """The address of an index on a server.

    Args:
        scheme: one of `SCHEMES`.
        host: of the server; empty for the client's own default.
        port: none for the server's own default.
        user: empty for none.
        password: empty for none.
        database: of PostgreSQL.
        name: of the collection or table.
        options: of the connection, such as sslmode.
    """

    scheme: str
    host: str
    port: int | None
    user: str
    password: str = field(repr=False)
    database: str
    name: str
    options: Mapping[str, str] = field(repr=False)

    @property
    def in_postgresql(self) -> bool:
        """Whether the server is PostgreSQL; else it is Milvus."""
        return self.scheme == "postgresql"

    def __str__(self) -> str:
        """Return the address as people may see it, without user, password and options.

        >>> str(parse_address("postgresql://me:secret@db:5433/photos?sslmode=require"))
        'postgresql://db:5433/photos?table=saat'
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        place = f"{self.scheme}://{host}" + ("" if self.port is None else f":{self.port}")
        return f"{place}/{self.database}?table={self.name}" if self.in_postgresql else f"{place}/{self.name}"


def is_address(text: object) -> bool:
    """Return whether `text` is meant as an address, and no folder.

    >>> is_address("milvus://localhost/photos"), is_address("runs/index"), is_address("C:/index")
    (True, False, False)
    """
    return bool(_ADDRESS.match(str(text)))


def check_no_address(name: str, path: Path) -> None:
    """Raise where a file or folder is given as an address.

    Raises:
        ArgumentError: it is one; the message shows it without user, password and options.

    >>> check_no_address("index", Path("postgresql://me:secret@db/photos"))
    Traceback (most recent call last):
    ...
    saat.errors.ArgumentError: `index` is a path on this machine; got the address postgresql://db/photos?table=saat
    """
    if is_address(path):
        scheme, _, rest = str(path).partition(":/")
        try:
            shown = str(parse_address(f"{scheme}://{rest}"))
        except ArgumentError:
            shown = f"{scheme}://..."
        raise ArgumentError(f"`{name}` is a path on this machine; got the address {shown}")


def parse_address(text: str) -> Address:
    """Return the parts of an address.

    Raises:
        ArgumentError: it has another form; the message shows no part that may be a password.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _wrong("a host or port that is none") from None
    scheme = {"postgres": "postgresql"}.get(parts.scheme, parts.scheme)
    if "://" not in text:
        raise _wrong(f"{parts.scheme}:/" if scheme in SCHEMES else "no ://")
    if scheme not in SCHEMES:
        raise _wrong(f"{parts.scheme}://")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    path = unquote(parts.path.removeprefix("/"))
    in_milvus = scheme != "postgresql"
    name = path if in_milvus else options.pop("table", TABLE)
    if in_milvus and (not parts.hostname or options):
        raise _wrong("options after ?" if options else "no host")
    if parts.fragment or "/" in path:
        raise _wrong("a path of more than one step, or a #")
    if not _NAME.fullmatch(name):
        raise ArgumentError(f"a collection or table is named by at most 55 letters, digits and _; got {name!r}")
    return Address(scheme, parts.hostname or "", port, *_login(parts), path, name, options)


def _login(parts: SplitResult) -> tuple[str, str]:
    return unquote(parts.username or ""), unquote(parts.password or "")


def _wrong(found: str) -> ArgumentError:
    return ArgumentError(f"an address has the form {' or '.join(FORMS)}; found {found}")
