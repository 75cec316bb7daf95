"""Serve an index: search over HTTP, a page, and the attack lab."""

from __future__ import annotations

import gc
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from saat.errors import ArgumentError, DataError, SaatError, check_at_least, check_default
from saat.index.address import is_address, parse_address
from saat.index.catalog import BACKEND, check_backend, open_remote
from saat.index.content import IndexContent
from saat.index.recall import recall_at
from saat.index.remote import RemoteIndex
from saat.index.storage import State, read_state
from saat.recipes.encoder import Encoder, check_model, load_encoders
from saat.recipes.items import item_reader
from saat.recipes.search import NEAREST, filled
from saat.runtime import RunOptions

if TYPE_CHECKING:
    from saat.serving.engine import SearchEngine
    from saat.serving.service import Service

SHORTEST_TOKEN = 16
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TRIED = 100  # items that an approximate search is tried with
EXCERPT = 20_000  # items of a server that are held here, to be tried and to make mainstay codes of
GRACE = 60  # seconds to finish what is underway at the end


@dataclass(frozen=True, kw_only=True)
class ServeConfig(RunOptions):
    """Serve an index: search over HTTP, a page to look at, and, with `lab`, attacks on queries.

    Args:
        index: folder of the index, or the address that `saat index push` moved it to, whose items stay as they are.
        backend: faiss (the default), flat or multi-index, which are exact; hnsw or ivf, which are not. An address is
            searched exactly by its server; with hnsw, by the graph of PostgreSQL. So is `hardened_index`.
        host: address to listen at; 0.0.0.0 for other machines, then with `token_file`.
        port: to listen at; 0 for any that is free.
        checkpoint: of the model that the index was built with, if its folder has moved; or of one that was hardened
            from it for queries only.
        model: your own model: package.module:factory.
        token_file: file with a token that clients show; with it, clients may add and remove items.
        lab: let clients attack queries.
        hardened: checkpoint of a hardened model, to compare with in the lab.
        hardened_index: an index of that model, as `index`.
        detector: folder `detector` that `saat detect` wrote for the model of queries: each query's risk is told.
        hardened_detector: the same for the hardened model.
        false_alarm_rate: share of clean queries that detectors may call an attack.
        rate: requests a second of one client; 0 is no limit.
        room: searches underway at a time; more are told to come again.
        request_seconds: that a request may take, its head before that, and its client to take the answer.
    """

    index: str | Path
    backend: str = BACKEND
    host: str = "127.0.0.1"
    port: int = 8000
    checkpoint: Path | None = None
    model: str | None = None
    token_file: Path | None = None
    lab: bool = False
    hardened: Path | None = None
    hardened_index: str | Path | None = None
    detector: Path | None = None
    hardened_detector: Path | None = None
    false_alarm_rate: float = 0.01
    rate: float = 100.0
    room: int = 256
    request_seconds: float = 60.0

    def __post_init__(self) -> None:
        for index in (self.index, self.hardened_index):
            if index is not None:
                check_backend(self.backend, index)
        if not 0 <= self.port <= 65535:
            raise ArgumentError(f"`port` is at least 0 and at most 65535; got {self.port}")
        if (self.hardened is None) != (self.hardened_index is None):
            raise ArgumentError("give `hardened` and `hardened_index` together, a checkpoint and an index of its model")
        if self.hardened is not None and not self.lab:
            raise ArgumentError("`hardened` is what the lab compares with; give `lab` too")
        if self.hardened_detector is not None and self.hardened is None:
            raise ArgumentError("`hardened_detector` is that of the hardened model; give `hardened` too")
        if self.detector is None and self.hardened_detector is None:
            check_default(self, "false_alarm_rate", of="a `detector`")
        check_at_least("rate", self.rate, 0.0)
        check_at_least("room", self.room, 1)
        check_at_least("request_seconds", self.request_seconds, 0.1)


def serve(config: ServeConfig) -> None:
    """Serve by `config` until SIGTERM or Ctrl-C; what is underway then is finished."""
    import uvicorn  # with all that it brings, of no use to other commands

    from saat.serving.app import make_app
    from saat.serving.connections import bounded_protocol

    device = config.start()
    token = None if config.token_file is None else read_token(config.token_file)
    service = make_service(config, device, writable=token is not None)
    listener = _listen(config.host, config.port)
    options = uvicorn.Config(
        make_app(service, token=token, local=token is None and config.host in LOOPBACK),
        http=bounded_protocol(config.request_seconds),
        ws="none",  # no route speaks it, and its protocol has none of these bounds
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a header of the client's must not choose whose rate is counted
        timeout_graceful_shutdown=GRACE,
    )
    # uvicorn takes the place of this handler, and raises the signal again when all is done
    before = signal.signal(signal.SIGTERM, _end)
    try:
        if not config.quiet:
            if service.engine.approximate:
                _tell_approximate(config, service.engine)
            _tell(config, listener, items=len(service.engine.content), token=token is not None)
        _settle_memory()
        uvicorn.Server(options).run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # Ctrl-C is how one stops it
    finally:
        signal.signal(signal.SIGTERM, before)
        listener.close()


def _settle_memory() -> None:
    """Give back what loading took, and let the garbage collector leave alone what stays, and look for more less often.

    Arrow keeps the pages of what it has freed, and reading an index frees as much again as its metadata. Libraries and
    model are half a million objects: to visit them all is a pause for every request underway.
    """
    pa.default_memory_pool().release_unused()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def make_service(config: ServeConfig, device: torch.device, *, writable: bool) -> Service:
    """Load what `config` names.

    Args:
        config: the options.
        device: where the models go.
        writable: let clients add and remove items.
    """
    from saat.serving.lab import Lab
    from saat.serving.limits import Limits
    from saat.serving.service import Service
    from saat.serving.store import Store

    engine, items, state = _engine(config, "index", config.checkpoint, config.detector, device)
    engines = {"plain": engine}
    if config.hardened_index is not None:
        hardened, detector = config.hardened, config.hardened_detector
        engines["hardened"], *_ = _engine(config, "hardened_index", hardened, detector, device)
    store = None
    if writable and state is not None:
        store = Store(Path(config.index), engine, encode=items.encode_content, known=state)
    return Service(
        engine,
        limits=Limits(rate=config.rate, room=config.room, seconds=config.request_seconds),
        store=store,
        lab=Lab(engines) if config.lab else None,
        hardened=engines.get("hardened"),
    )


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        DataError: the file cannot be read.
        ArgumentError: its text is too short, or has spaces in it.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`token_file` is a text file with a token; {path}: {error}") from error
    if len(token) < SHORTEST_TOKEN or not token.isascii() or token.split() != [token]:
        rule = f"one word of at least {SHORTEST_TOKEN} letters, digits or signs (`openssl rand -hex 32` makes one)"
        raise ArgumentError(f"`token_file` holds {rule}; found {len(token)} characters")
    return token


def _engine(
    config: ServeConfig, name: str, checkpoint: Path | None, detector: Path | None, device: torch.device
) -> tuple[SearchEngine, Encoder, State | None]:
    """Return the engine of the index that the option `name` gives, the encoder of its items, and a folder's state."""
    from saat.serving.engine import SearchEngine
    from saat.serving.risk import load_assess

    index = getattr(config, name)
    if is_address(index):
        state = None
        remote, content = _remote(str(index), config.backend)
    else:
        remote, state = None, read_state(Path(index), name=name)
        content = state[1]
    encoders = load_encoders(checkpoint or Path(content.model.checkpoint), config.model, device=device)
    encoder = encoders.query
    check_model(encoder, content.model, name="checkpoint" if name == "index" else "hardened", index=name)
    rate = config.false_alarm_rate
    engine = SearchEngine(
        encoder.model,
        content,
        image_size=encoder.image_size,
        crop_border=encoder.crop_border,
        read=item_reader(index),
        threads=torch.get_num_threads(),
        backend=config.backend,
        remote=remote,
        assess=None if detector is None else load_assess(detector, encoder.model, false_alarm_rate=rate),
    )
    return engine, encoders.items, state


def _remote(address: str, backend: str) -> tuple[RemoteIndex[Any], IndexContent]:
    """Return an index on a server, which stays open, and an excerpt of it."""
    remote = open_remote(address, approximate=backend == "hnsw")
    try:
        remote.check_complete()
        return remote, remote.excerpt(EXCERPT)
    except SaatError:
        remote.close()
        raise


def _end(_: int, __: FrameType | None) -> None:
    sys.exit(0)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ArgumentError(f"`host` and `port` are an address that is free here; {host}:{port}: {error}") from error
    # Connections inherit it. Without it the body of an answer waits until the client acknowledges the head, some 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _tell_approximate(config: ServeConfig, engine: SearchEngine) -> None:
    """Say that items may be missing, and of a folder how many are found; a server could take minutes to tell."""
    content, found = engine.content, "items may be missing"
    if len(content) and not is_address(config.index):
        drawn = np.random.default_rng(0).choice(len(content), min(TRIED, len(content)), replace=False)
        exact = filled(BACKEND, content, threads=engine.threads)
        recall = recall_at(engine.index, exact, content.packed[drawn], k=NEAREST)
        found = f"it found {recall:.3f} of the {NEAREST} nearest to {len(drawn)} of the items"
    print(f"{config.backend} is approximate: {found}", file=sys.stderr)


def _tell(config: ServeConfig, listener: socket.socket, *, items: int, token: bool) -> None:
    host = f"[{config.host}]" if ":" in config.host else config.host
    place = parse_address(str(config.index)) if is_address(config.index) else config.index
    print(f"{place}: {items:,} items at http://{host}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
    if not token and config.host not in LOOPBACK:
        print("without `token_file`, everyone who reaches this address may search it", flush=True)
