"""The routes of the service: one short function each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, File, Form, Path, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import WithJsonSchema
from starlette.exceptions import HTTPException

from saat import __version__
from saat.data.collection import Content
from saat.data.decoding import check_upload
from saat.errors import DataError, ServerError
from saat.serving.engine import SearchEngine
from saat.serving.hits import About, Answer, Item
from saat.serving.lab import MOST_EPSILON, MOST_STEPS, LabReport
from saat.serving.page import unless_known
from saat.serving.pictures import thumbnail
from saat.serving.query import Among
from saat.serving.query import Query as Search
from saat.serving.service import Service
from saat.serving.store import Store

Found = TypeVar("Found")
MOST_K = 1_000
MOST_RADIUS = 1_024  # bits
MOST_BATCH = 64  # images of a batch search
MOST_SIDE = 1_024  # pixels a side of a picture


@dataclass(frozen=True)
class Problem:
    """Any error."""

    error: str


@dataclass(frozen=True)
class BatchAnswer:
    """The results of each image, in order."""

    answers: list[Answer]


@dataclass(frozen=True)
class Samples:
    """Items to try."""

    items: list[Item]


@dataclass(frozen=True)
class State:
    """Whether the service can answer."""

    status: str


async def service_of(request: Request) -> Service:  # not async, it would cost each request a thread
    """Return the service of a request."""
    service: Service = request.app.state.service
    return service


async def store_of(service: Annotated[Service, Depends(service_of)]) -> Store:
    """Return what adds and removes items."""
    if service.store is None:
        raise HTTPException(403, "items are added and removed only by a service that was started with a token")
    return service.store


REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
}
router = APIRouter(responses=REFUSALS)
Running = Annotated[Service, Depends(service_of)]
Writable = Annotated[Store, Depends(store_of)]
ItemId = Annotated[int, Path(ge=0, lt=2**63)]
K = Annotated[int, Form(ge=1, le=MOST_K, description="How many results.")]
Radius = Annotated[int | None, Form(ge=0, le=MOST_RADIUS, description="Only items within so many bits.")]
Where = Annotated[str | None, Form(max_length=1_000, description="A condition, such as label == 'cat'.")]
UPLOAD = WithJsonSchema({"type": "string", "contentMediaType": "application/octet-stream"})  # null is no file of a form
Image = Annotated[UploadFile | None, UPLOAD, File(description="An image file of any common format.")]
OfItem = Annotated[int | None, Form(ge=0, lt=2**63, description="The id of an item, instead of an image.")]


@router.post("/search")
async def search(
    service: Running,
    image: Image = None,
    item: OfItem = None,
    k: K = 10,
    radius: Radius = None,
    where: Where = None,
) -> Answer:
    """Find the items nearest to an image, or to an item of the index."""
    _check_one(image, item)
    service.engine.check_radius(radius)  # here: what fails in a batch fails for all that share it

    def make() -> Search:
        among = service.engine.among(where) if where else None
        if item is None:
            return Search(service.engine.prepare(_bytes_of(image)), k, among, radius)
        return Search(_known(service.engine.code, item), k, among, radius, _known(service.engine.seen, item))

    (answer,) = await service.search([make])
    return answer


@router.post("/search/batch")
async def search_batch(
    service: Running,
    images: Annotated[list[UploadFile], File(min_length=1, max_length=MOST_BATCH)],
    k: K = 10,
    radius: Radius = None,
    where: Where = None,
) -> BatchAnswer:
    """Find the items nearest to each of some images."""
    service.engine.check_radius(radius)
    among: list[Among | None] = []  # found with the first image, for all of them

    def make(number: int) -> Search:
        if not among:
            among.append(service.engine.among(where) if where else None)
        try:
            return Search(service.engine.prepare(_bytes_of(images[number])), k, among[0], radius)
        except DataError as error:
            raise DataError(f"image {number}: {error}") from error

    found = await service.search([partial(make, number) for number in range(len(images))])
    return BatchAnswer(found)


@router.get("/items/{item_id}")
async def item(service: Running, item_id: ItemId) -> Item:
    """Return an item."""
    return await service.within(service.painters, lambda: _known(service.engine.item, item_id))


@router.post("/items", status_code=201, responses={200: {"model": Item, "description": "It was there already."}})
async def add_item(
    service: Running,
    store: Writable,
    image: Annotated[UploadFile, File(description="An image file of any common format.")],
    label: Annotated[str | None, Form(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = None,
) -> Item:
    """Add an image to the index. It is on the disk when this returns."""
    added, new = await service.within(service.writer, lambda: store.add(_bytes_of(image), label=label or None))
    return added if new else JSONResponse(vars(added), 200)  # type: ignore[return-value]


@router.delete("/items/{item_id}", status_code=204)
async def remove_item(service: Running, store: Writable, item_id: ItemId) -> Response:
    """Remove an item from the index."""
    await service.within(service.writer, lambda: _known(store.remove, item_id))
    return Response(status_code=204)


@router.get("/images/{item_id}", response_class=Response)
async def picture(
    request: Request,
    service: Running,
    item_id: ItemId,
    size: Annotated[int, Query(ge=16, le=MOST_SIDE, description="Pixels a side, at most.")] = 256,
    index: Annotated[Literal["plain", "hardened"], Query()] = "plain",
) -> Response:
    """Return the picture of an item, made smaller if it is larger."""
    engine = service.engine if index == "plain" else service.hardened
    if engine is None:
        raise HTTPException(404, "this service has no hardened model")
    content = await service.within(service.painters, lambda: _picture(engine, item_id, size))
    return unless_known(request, *content)


@router.get("/samples")
async def samples(
    service: Running,
    count: Annotated[int, Query(ge=1, le=100)] = 24,
    seed: Annotated[int, Query(ge=0, lt=2**32)] = 0,
) -> Samples:
    """Return items drawn by the seed, to try the search with."""
    return Samples(await service.within(service.painters, lambda: service.engine.sample(count, seed=seed)))


@router.post("/lab/attack")
async def attack(
    service: Running,
    image: Image = None,
    item: OfItem = None,
    epsilon: Annotated[float, Form(ge=0.0, le=MOST_EPSILON, description="Largest change of a pixel.")] = 8 / 255,
    steps: Annotated[int, Form(ge=1, le=MOST_STEPS)] = 50,
    k: Annotated[int, Form(ge=1, le=100)] = 10,
) -> LabReport:
    """Attack a query, and return its results before and after; one model at a time, with full knowledge of it."""
    lab = service.lab
    if lab is None:
        raise HTTPException(404, "this service has no lab; start it with --lab true")
    _check_one(image, item)
    label = None
    if item is not None:
        found = await service.within(service.painters, lambda: _known(service.engine.item, item))
        label = found.metadata.get("label")

    def run(ended: Event) -> LabReport:
        query: Content = service.engine.picture(item) if item is not None else _bytes_of(image)
        known = label if isinstance(label, str) else None
        return lab.attack(query, known, epsilon=epsilon, steps=steps, k=k, ended=ended)

    return await service.in_lab(run)


@router.get("/about")
async def about(service: Running) -> About:
    """Say what is served."""
    engine = service.engine
    columns = {field.name: str(field.type) for field in engine.content.metadata.schema}
    return About(
        version=__version__,
        items=len(engine.content),
        code_length=engine.model.code_length,
        approximate=engine.approximate,
        image_size=engine.image_size,
        columns=columns,
        lab=service.lab is not None,
        hardened=service.hardened is not None,
        detector=engine.has_detector,
        writable=service.store is not None,
    )


@router.head("/health", include_in_schema=False)  # load balancers probe with it; the server leaves out the body
@router.get("/health")
async def health() -> State:
    """Say that the process answers."""
    return State("ok")


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(service: Running) -> State:
    """Say whether searches are answered."""
    if not await service.ready():
        raise HTTPException(503, "not ready", {"Retry-After": "1"})
    return State("ready")


@router.get("/metrics", response_class=Response)
async def metrics(service: Running) -> Response:
    """Return counters as Prometheus reads them."""
    return Response(service.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _check_one(image: UploadFile | None, item: int | None) -> None:
    if (image is None) == (item is None):
        raise HTTPException(422, "give `image` or `item`, one of the two")


def _bytes_of(image: UploadFile | None) -> bytes:
    """Return an upload, which `_check_one` has found to be there; called in a thread that has been let in.

    Raises:
        DataError: it has too many pixels, or is no image.
    """
    assert image is not None
    content = image.file.read()
    check_upload(content)
    return content


def _picture(engine: SearchEngine, number: int, side: int) -> tuple[bytes, str]:
    try:
        return thumbnail(_known(engine.picture, number), side=side)
    except ServerError:
        raise
    except DataError as error:
        raise HTTPException(404, str(error)) from error


def _known(find: Callable[[int], Found], number: int) -> Found:
    """Return what `find` finds of an item."""
    try:
        return find(number)
    except KeyError:
        raise HTTPException(404, f"no item {number}") from None
