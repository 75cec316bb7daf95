"""SearchEngine: image bytes in, hits out. Used by many threads at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saat.data.collection import Content
from saat.data.decoding import decode_image
from saat.errors import ArgumentError, DataError, check_choice
from saat.index.base import HammingIndex
from saat.index.catalog import BACKEND, INDEXES, check_radius, make_index, nearest_within
from saat.index.content import IndexContent
from saat.index.remote import RemoteIndex
from saat.index.where import compared, select_ids
from saat.models.hash_model import NO_CODE, HashModel, encode_packed, packed_codes
from saat.runtime import device_of
from saat.serving.hits import Answer, Hit, Item, Risk
from saat.serving.query import Among, Query
from saat.serving.risk import Assess
from saat.serving.rows import hits_of, name_of, place_of, row_of, shown, without_folders

KEPT = 4  # conditions whose items are kept as an index of their own


class SearchEngine:
    """A model with the items of an index.

    Args:
        model: of queries, on its device; it is put in eval mode and its weights are fixed.
        content: of the index, encoded with the model of the database.
        image_size: height and width of the model's images, in pixels.
        crop_border: pixels cut off each side before resizing.
        read: an item's column `path` -> its image.
        threads: of one search in the index, at least 1.
        backend: of `saat.index.catalog.INDEXES`. The items of a condition are always searched exactly: to make an
            approximate index of them takes longer than it spares.
        remote: index on a server that is searched instead of `content`, which is an excerpt of it.
        assess: the detector of `model`, if there is one.
    """

    def __init__(
        self,
        model: HashModel,
        content: IndexContent,
        *,
        image_size: int,
        read: Callable[[str], Content],
        crop_border: int = 0,
        threads: int = 1,
        backend: str = BACKEND,
        remote: RemoteIndex[Any] | None = None,
        assess: Assess | None = None,
    ) -> None:
        # Fixed here, once: `frozen` in two threads at a time would restore what the other has set.
        self.model = model.eval().requires_grad_(False)
        self.image_size, self.threads = image_size, threads
        self.backend = check_choice("backend", backend, INDEXES)
        self._crop_border, self._read, self._remote = crop_border, read, remote
        self._assess = assess
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Future[Among]] = OrderedDict()
        self._all = self._select(content, None)

    @property
    def content(self) -> IndexContent:
        """The items as they are now; of a server, an excerpt taken at the start, with the length of the whole."""
        return self._all.content

    @property
    def index(self) -> HammingIndex:
        """What a search among all items is made in."""
        return self._all.index

    @property
    def approximate(self) -> bool:
        """Whether a search among all items may miss some."""
        return not INDEXES[self.backend].exact

    @property
    def has_detector(self) -> bool:
        """Whether queries are assessed."""
        return self._assess is not None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model)

    def replace(self, content: IndexContent) -> None:
        """Search in other items from now on; a search that has begun ends in the old ones."""
        everything = self._select(content, None)
        with self._lock:
            self._all = everything
            self._kept.clear()

    def prepare(self, content: Content) -> NDArray[np.uint8]:
        """Decode an image file to uint8 (3, S, S), as `saat index build` does.

        Raises:
            DataError: the content is damaged, too large, or no image.
        """
        return decode_image(content, size=self.image_size, crop_border=self._crop_border)

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the packed codes (B, K/8) of images, uint8 (B, 3, S, S); `DataError` where one has none."""
        return packed_codes(self.model, images)

    def answer(self, queries: Sequence[Query]) -> list[Answer | DataError]:
        """Return the hits of each query, with its risk and how many items its radius holds, or why it has no code."""
        looked_at = {row: query.image for row, query in enumerate(queries) if query.image is not None}
        assessed = self.assess(np.stack(list(looked_at.values()))) if looked_at else []
        risks = dict(zip(looked_at, assessed, strict=True))
        packed, coded = self._encoded(queries)
        rows = enumerate(self._found(queries, packed))
        return [Answer(hits, risks.get(row), held) if coded[row] else DataError(NO_CODE) for row, (hits, held) in rows]

    def assess(self, images: NDArray[np.uint8]) -> list[Risk] | list[None]:
        """Return the risk of each image, uint8 (B, 3, S, S); none without a detector."""
        return [None] * len(images) if self._assess is None else self._assess(images)

    def search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the hits of each query, by distance, then by id; images are encoded together.

        Raises:
            ArgumentError: a radius is below 0, or refused by `check_radius`.
            DataError: an image has no code.
        """
        packed, coded = self._encoded(queries)
        if not coded.all():
            raise DataError(NO_CODE)
        return [hits for hits, _ in self._found(queries, packed)]

    def check_radius(self, radius: int | None) -> None:
        """Raise `ArgumentError` if there is a radius and it takes another backend, see `catalog.check_radius`."""
        if radius is not None:
            check_radius(self.backend, remote=self._remote is not None)

    def probe(self) -> None:
        """Raise `ServerError` unless the server of an index on one answers."""
        if self._remote is not None:
            self._remote.probe()

    def among(self, where: str) -> Among:
        """Return the items of a condition as they are now; those of the last few conditions are kept.

        To find them takes long where there are many. Of threads that ask for the same ones, the first finds them. The
        column `path` has no folders here; a server's has them, and is not compared.

        Raises:
            ArgumentError: `where` is no condition on the columns of the index, or on `path` with an index on a server.
        """
        if self._remote is not None:
            self._remote.check_where(where)
            if "path" in compared(where, self.content.metadata.column_names):
                raise ArgumentError(f"`where` has no condition on `path` with an index on a server; got {where!r}")
            return self._select(self.content, where)
        with self._lock:
            everything, known = self._all, self._kept.get(where)
            found = self._kept[where] = known or Future()
            self._kept.move_to_end(where)
        if known is None:
            try:
                found.set_result(self._select(everything.content, where))
            except BaseException as error:
                found.set_exception(error)
            self._keep(where, found)
        return found.result()

    def item(self, number: int) -> Item:
        """Return an item; with an index on a server, it is asked.

        Raises:
            KeyError: there is none of this id.
        """
        row = row_of(self._around(number), number)
        return Item(number, name_of(row), shown(row))

    def picture(self, number: int) -> Content:
        """Return the image of an item, read where the index says that it lies.

        Raises:
            KeyError: there is no item of this id.
            DataError: its image is gone or damaged.
        """
        path = self.path(number)
        try:
            return self._read(path)
        except (DataError, OSError) as error:
            raise DataError(f"the image of item {number} cannot be read any more") from error

    def path(self, number: int) -> str:
        """Return where the index says that the image of an item lies.

        Raises:
            KeyError: there is no item of this id.
        """
        return str(row_of(self._around(number), number)["path"])

    def code(self, number: int) -> NDArray[np.uint8]:
        """Return the packed code (K/8,) of an item.

        Raises:
            KeyError: there is no item of this id.
        """
        content = self._around(number)
        packed: NDArray[np.uint8] = content.packed[place_of(content, number)]
        return packed

    def seen(self, number: int) -> NDArray[np.uint8] | None:
        """Return the image of an item as a detector looks at it; none without a detector, or where it is gone.

        Raises:
            KeyError: there is no item of this id.
        """
        try:
            return self.prepare(self.picture(number)) if self._assess is not None else None
        except DataError:
            return None

    def sample(self, count: int, *, seed: int) -> list[Item]:
        """Return `count` items drawn by the seed, or all where there are not as many, by id."""
        content = self._all.content
        generator = np.random.default_rng(seed)
        places = np.sort(generator.choice(len(content), min(count, len(content)), replace=False))
        return [Item(int(row["id"]), name_of(row), shown(row)) for row in content.rows(places)]

    def _encoded(self, queries: Sequence[Query]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return the packed codes (Q, K/8) of queries, and which have one (Q,); images are encoded together."""
        packed, coded = np.empty((len(queries), self.model.code_length // 8), np.uint8), np.ones(len(queries), np.bool_)
        images = [row for row, query in enumerate(queries) if query.aim.ndim == 3]
        if images:
            packed[images], coded[images] = encode_packed(self.model, np.stack([queries[row].aim for row in images]))
        for row, query in enumerate(queries):
            if query.aim.ndim == 1:
                packed[row] = query.aim
        return packed, coded

    def _around(self, number: int) -> IndexContent:
        """Return items among which that of this id is, if there is one."""
        return self._all.content if self._remote is None else self._remote.items(np.array([number], np.int64))

    def _select(self, content: IndexContent, where: str | None) -> Among:
        if self._remote is not None:
            return Among(where, content, self._remote)
        backend = BACKEND if self.approximate and where is not None else self.backend
        index = make_index(backend, self.model.code_length, threads=self.threads)
        if where is None:
            index.add(content.packed, content.ids)
        else:
            table = content.metadata
            if "path" in compared(where, table.column_names):
                table = without_folders(table)
            places = np.searchsorted(content.ids, select_ids(table, where))
            index.add(content.packed[places], content.ids[places])
        index.search(content.packed[:1], 1)  # what is built at the first search is built here, in one thread
        return Among(where, content, index)

    def _keep(self, where: str, found: Future[Among]) -> None:
        """Keep the items of a condition and forget those asked for longest ago; one that is wrong is not kept."""
        with self._lock:
            if found.exception() is not None and self._kept.get(where) is found:
                del self._kept[where]
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def _found(self, queries: Sequence[Query], packed: NDArray[np.uint8]) -> list[tuple[list[Hit], int | None]]:
        """Return the hits of each query by its code, and how many items its radius holds."""
        everything = self._all
        found: list[tuple[list[Hit], int | None]] = [([], None) for _ in queries]
        together: dict[Among, list[int]] = {}
        for row, query in enumerate(queries):
            among = query.among or everything
            if query.radius is None:
                together.setdefault(among, []).append(row)
            else:
                result, count = nearest_within(among.index, packed[row : row + 1], query.radius, k=query.k)
                found[row] = hits_of(among.content, packed[row], result.ids[0], result.distances[0]), count
        for among, rows in together.items():
            for row, hits in zip(rows, self._find(packed[rows], [queries[row].k for row in rows], among), strict=True):
                found[row] = hits, None
        return found

    def _find(self, packed: NDArray[np.uint8], ks: list[int], among: Among) -> list[list[Hit]]:
        most = max(ks)
        if self._remote is not None:
            result, content = self._remote.find(packed, most, where=among.where)
        else:
            result, content = among.index.search(packed, max(1, min(most, len(among.index)))), among.content
        return [
            hits_of(content, code, ids[ids >= 0][:k], distances[ids >= 0][:k])
            for code, ids, distances, k in zip(packed, result.ids, result.distances, ks, strict=True)
        ]
