"""From images to packed codes: the encoder of a checkpoint, and many images encoded so that a stop costs little."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from saat.data.collection import Content
from saat.data.decoding import Decoded, decode_image, decode_rows
from saat.errors import ArgumentError
from saat.index.content import ModelKey
from saat.index.files import opened_for_arrow
from saat.index.lock import locked
from saat.models.checkpoint import (
    DATABASE_FOLDER,
    Card,
    load_checkpoint,
    load_database_model,
    read_card,
    weights_checksum,
)
from saat.models.hash_model import NO_CODE, HashModel, encode_packed, packed_codes
from saat.recipes.items import Items
from saat.runtime import atomic_write, progress

log = logging.getLogger(__name__)

WORK = ".work-"  # begins the name of a folder of batches already encoded


@dataclass(frozen=True)
class Encoder:
    """A model with the size of the images it takes.

    Args:
        model: in eval mode, its weights fixed, on its device.
        image_size: height and width, in pixels.
        crop_border: pixels cut off each side before resizing.
        key: names the model of the database in an index.
    """

    model: HashModel
    image_size: int
    crop_border: int
    key: ModelKey

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the packed codes (N, K/8) of images (N, 3, S, S), uint8.

        Raises:
            DataError: an image has no code.
        """
        return packed_codes(self.model, images)

    def prepare(self, content: Content) -> NDArray[np.uint8]:
        """Decode an image file to uint8 (3, S, S).

        Raises:
            DataError: the content is damaged, too large, or no image.
        """
        return decode_image(content, size=self.image_size, crop_border=self.crop_border)

    def encode_content(self, content: Content) -> NDArray[np.uint8]:
        """Return the packed code (1, K/8) of one image file.

        Raises:
            DataError: the content is damaged, too large, no image, or one without a code.
        """
        return self.encode(self.prepare(content)[None])

    def work_name(self) -> str:
        """Return the name of the folder for batches of this encoder; another model or size has another."""
        parts = f"{self.key.weights} {self.image_size} {self.crop_border}"
        return WORK + hashlib.sha256(parts.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Encoders:
    """The two encoders of a checkpoint, with one key: codes of either belong in one index.

    Args:
        query: of what is searched with.
        items: of what is searched; `query` itself but for a checkpoint of a model for queries only.
    """

    query: Encoder
    items: Encoder


def load_encoders(checkpoint: Path, model: str | None, *, device: torch.device) -> Encoders:
    """Load the encoders of a checkpoint.

    Args:
        checkpoint: its folder.
        model: `package.module:factory`, for a checkpoint of a model of the user's own.
        device: where the models go.

    Raises:
        CheckpointError: the checkpoint, or the one in its folder `database`, is missing, damaged or of another model.
    """
    query_model, card = load_checkpoint(checkpoint, model_factory=model)
    items_model = load_database_model(checkpoint, query_model, card, model_factory=model)
    key = ModelKey(weights_checksum(items_model), items_model.code_length, str(checkpoint.absolute()))
    query = _encoder(query_model, card, key, device)
    if items_model is query_model:
        return Encoders(query, query)
    return Encoders(query, _encoder(items_model, read_card(checkpoint / DATABASE_FOLDER), key, device))


def load_encoder(checkpoint: Path, model: str | None, *, device: torch.device) -> Encoder:
    """Load the encoder of queries; see `load_encoders`."""
    return load_encoders(checkpoint, model, device=device).query


def check_model(encoder: Encoder, model: ModelKey, *, name: str = "checkpoint", index: str = "index") -> None:
    """Raise unless an encoder gives codes of the model of an index.

    Args:
        encoder: that was loaded.
        model: of the index.
        name: of the argument that names the checkpoint, for errors.
        index: of the argument that names the index.

    Raises:
        ArgumentError: it is another model.
    """
    try:
        model.check(encoder.key)
    except ArgumentError as error:
        raise ArgumentError(f"`{name}` is a checkpoint of the model of `{index}`: {error}") from None


def _encoder(model: HashModel, card: Card, key: ModelKey, device: torch.device) -> Encoder:
    # Fixed here, once: `frozen` in two threads at a time would restore what the other has set.
    fixed = model.to(device).requires_grad_(False)
    return Encoder(fixed, card.image_size, int(card.data.get("crop_border", 0)), key)


@dataclass(frozen=True)
class Encoded:
    """Items after encoding.

    Args:
        rows: the rows that have a code, ascending.
        packed: uint8 (M, K/8), a code for each of these.
        damaged: "path: reason" of each image left out.
        resumed: how many an earlier, stopped run had done.
    """

    rows: list[int]
    packed: NDArray[np.uint8]
    damaged: tuple[str, ...]
    resumed: int


def encode_items(items: Items, encoder: Encoder, folder: Path, *, batch_size: int, quiet: bool) -> Encoded:
    """Encode all items; each batch is kept in `folder`, so that after a stop the same call goes on with the next one.

    What was done is known by the identity of each item: its path, and its file's size and time of change. What has no
    code is tried again by the next call: an image may be damaged for good, but a disk or a network that failed is not.
    """
    done: dict[str, bytes | str] = {}
    for _, kept in _batches(folder):
        done |= kept
    open_rows = [row for row, identity in enumerate(items.identities) if identity not in done]
    resumed = len(items) - len(open_rows)
    collection = items.collection()
    batches = [open_rows[start : start + batch_size] for start in range(0, len(open_rows), batch_size)]

    def decode(rows: list[int]) -> Decoded:
        return decode_rows(collection, rows, size=encoder.image_size, crop_border=encoder.crop_border, quiet=True)

    nothing: Iterable[None] = ()
    with progress(nothing, "encode", unit="image", total=len(items), quiet=quiet) as bar:
        bar.update(resumed)
        for rows, decoded in zip(batches, _ahead(decode, batches), strict=True):
            named = [(items.identities[row], collection.item_names[row]) for row in rows]
            batch = _encode_batch(named, decoded, encoder)
            _write_batch(folder, {identity: code for identity, code in batch.items() if isinstance(code, bytes)})
            done |= batch
            bar.update(len(rows))
    codes = [done[identity] for identity in items.identities]
    rows = [row for row, code in enumerate(codes) if isinstance(code, bytes)]
    packed = np.frombuffer(b"".join(code for code in codes if isinstance(code, bytes)), np.uint8)
    damaged = tuple(code for code in codes if isinstance(code, str))
    return Encoded(rows, packed.reshape(-1, encoder.key.code_length // 8), damaged, resumed)


def remove_work(folder: Path) -> None:
    """Remove all that builds have kept in an index folder, when the index has their codes."""
    with locked(folder):
        for work in folder.glob(f"{WORK}*"):
            shutil.rmtree(work)


def remove_leftovers(folder: Path, done: Collection[str] = ()) -> None:
    """Remove batches of items whose codes an index folder has, and what killed commands have left half written.

    Other batches stay: they are of an addition beside this one, or of one that was stopped and may go on.

    Args:
        folder: of the index.
        done: identities of these items.
    """
    gone = set(done)
    with locked(folder):  # so that no batch is being written
        for work in folder.glob(f"{WORK}*"):
            for path, codes in _batches(work) if gone else ():
                if not gone.isdisjoint(codes):
                    path.unlink(missing_ok=True)
            for half in work.glob(".*"):
                half.unlink()
            with suppress(OSError):  # it holds batches of others
                work.rmdir()


def kept_identities(folder: Path) -> set[str]:
    """Return the identities of the items whose codes an index folder keeps beside its own."""
    return {identity for work in folder.glob(f"{WORK}*") for _, codes in _batches(work) for identity in codes}


def _ahead(decode: Callable[[list[int]], Decoded], batches: Iterable[list[int]]) -> Iterator[Decoded]:
    """Decode a batch while the one before it is encoded."""
    waiting: deque[Future[Decoded]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for rows in batches:
            waiting.append(pool.submit(decode, rows))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _encode_batch(named: list[tuple[str, str]], decoded: Decoded, encoder: Encoder) -> dict[str, bytes | str]:
    """Return the code of each image, by identity and name, or the reason why it has none, by identity."""
    sound = np.array([bool(digest) for digest in decoded.digests])
    codes = zip(*encode_packed(encoder.model, decoded.images[sound]), strict=True)
    reasons, found = iter(decoded.damaged), dict[str, bytes | str]()
    for (identity, name), has in zip(named, sound, strict=True):
        if has:
            code, coded = next(codes)
            found[identity] = code.tobytes() if coded else f"{name}: {NO_CODE}"
        else:
            found[identity] = next(reasons)
    return found


def _write_batch(folder: Path, codes: dict[str, bytes]) -> None:
    """Keep codes by identity, in a file named by the first: no later batch begins with an item that has a code."""
    if codes:
        table = {"identity": pa.array(codes.keys(), pa.string()), "code": pa.array(codes.values(), pa.binary())}
        with locked(folder.parent, shared=True), atomic_write(folder / f"{next(iter(codes))}.parquet") as file:
            pq.write_table(pa.table(table), file, write_page_checksum=True)


def _batches(folder: Path) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """Yield each file of a folder of batches with its codes by identity; one that is damaged is removed."""
    for path in sorted(folder.glob("*.parquet")):
        try:
            file = opened_for_arrow(path)
            rows = pq.read_table(file, columns=["identity", "code"], page_checksum_verification=True).to_pylist()
        except FileNotFoundError:  # another addition has ended meanwhile
            continue
        except (pa.ArrowException, OSError) as error:
            log.warning("%s is damaged (%s); its images are encoded anew", path, error)
            path.unlink(missing_ok=True)
            continue
        yield path, {row["identity"]: row["code"] for row in rows if row["code"] is not None}
