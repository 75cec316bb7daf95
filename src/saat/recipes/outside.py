"""A running service in the place of the attacked model, for `saat attack --service`: only its ids are seen."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from saat.attacks.catalog import GOALS
from saat.attacks.threat import Threat, ThreatModel
from saat.attacks.views import returned_share
from saat.errors import ArgumentError
from saat.evaluation.suite import round_to_8_bits
from saat.recipes.attacker import RETURNED
from saat.recipes.serve import read_token
from saat.recipes.subject import Subject
from saat.runtime import progress
from saat.serving.client import is_service_address
from saat.serving.pictures import png

if TYPE_CHECKING:
    from saat.recipes.attack import AttackConfig
    from saat.serving.client import Client
    from saat.serving.hits import Answer

MOST_IMAGES = 64  # of one request, as the service takes them
MOST_BYTES = 8_000_000  # of the files of one request: a service reads 10 MB
PATIENCE = 60.0  # seconds to come again, as the service asks, before it is given up


def check_service(config: AttackConfig) -> None:
    """Raise where `service` or `token_file` does not go with the other options.

    Raises:
        ArgumentError: naming what does not.
    """
    if config.service is None:
        if config.token_file is not None:
            raise ArgumentError(f"`token_file` holds the token of a `service`; got no service with {config.token_file}")
        return
    if not GOALS[config.goal].from_outside:
        needed = " or ".join(name for name, goal in GOALS.items() if goal.from_outside)
        raise ArgumentError(f"`service` shows nothing but ids, and needs `goal` {needed}; got {config.goal}")
    for name in ("purifier", "patch"):
        if getattr(config, name):
            raise ArgumentError(f"`service` goes without `{name}`; got {getattr(config, name)}")
    if config.norm == "linf" and config.epsilon < 1 / 255 - 1e-9:
        rule = "at least 1/255 with a `service`, which sees 8 bits"
        raise ArgumentError(f"`epsilon` in linf is {rule}; got {config.epsilon:g}")
    if not is_service_address(config.service):
        rule = "an address such as http://127.0.0.1:8000, without a login"
        raise ArgumentError(f"`service` is {rule}; got {config.service.rpartition('@')[2]!r}")


class ServiceSearch:
    """The search of a running `saat serve`: images (B, 3, S, S) in [0, 1] -> its items, int64 (B, 100), best first.

    Images go as PNG files of 8 bits, several in a request. A service that asks to come again gets the rest of them
    later, and fewer at a time where they were too many for it. Its ids have up to 63 bits; they are compared with
    each other only, and numbered from 0 as they are met. -1 pads.

    Args:
        client: of the service.
        url: its address, for reports.
        crop_border: pixels that the service cuts off each side of an upload; the images go with such a border.
        quiet: show no bar.

    Attributes:
        requests: sent and answered so far.
        searches: images in these.
    """

    def __init__(self, client: Client, url: str, *, crop_border: int = 0, quiet: bool = False) -> None:
        self._client, self._url, self._crop_border = client, url, crop_border
        self._most = MOST_IMAGES
        self._numbers: dict[int, int] = {}
        nothing: Iterable[None] = ()
        self._bar = progress(nothing, "service", unit="image", quiet=quiet)
        self.requests = self.searches = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Search for images.

        Raises:
            ServiceError: the service refused, does not answer, or asks to come again for longer than a minute.
        """
        pixels = pad((images * 255.0).round().to(torch.uint8), [self._crop_border] * 4)
        files = [png(image) for image in pixels.cpu().numpy()]
        answers: list[Answer] = []
        while len(answers) < len(files):
            answers += self._ask(files[len(answers) :])
        rows = [[self._numbers.setdefault(hit.id, len(self._numbers)) for hit in answer.hits] for answer in answers]
        return torch.tensor([row + [-1] * (RETURNED - len(row)) for row in rows], device=images.device)

    def _ask(self, files: list[bytes]) -> list[Answer]:
        """Return the answers to the first files, as many as the service takes at a time."""
        from saat.serving.client import ServiceError

        until = time.monotonic() + PATIENCE
        while True:
            count = max(1, min(self._most, MOST_BYTES // max(map(len, files))))
            try:
                answers = self._client.answers(files[:count], RETURNED)
            except ServiceError as error:
                if error.retry_after is None or time.monotonic() + error.retry_after > until:
                    raise
                if error.status == 503:
                    self._most = max(1, self._most // 2)
                time.sleep(error.retry_after)
            else:
                self.requests += 1
                self.searches += len(answers)
                self._bar.set_postfix(requests=self.requests, refresh=False)
                self._bar.update(len(answers))
                return answers

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def conclude(self, found: Tensor, clean: Tensor, threat: Threat) -> tuple[Tensor, dict[str, Any]]:
        """Return what a search found as files of 8 bits hold it, and what reports say of the service.

        Args:
            found: float32 (B, 3, S, S) in [0, 1].
            clean: uint8 (B, 3, S, S).
            threat: that of the attack.
        """
        assert isinstance(threat, ThreatModel)
        saved = round_to_8_bits(found, clean, threat).float() / 255.0
        kept = returned_share(self(clean.float() / 255.0), self(saved))
        told = {"service": self._url, "returned_share": kept.mean().item()}
        return saved, told | {"requests": self.requests, "searches": self.searches}


@contextmanager
def running_service(config: AttackConfig, subject: Subject) -> Iterator[ServiceSearch | None]:
    """Open the service of `config`, if it names one, and check that its model is like that of the subject.

    Raises:
        ArgumentError: the service cannot be reached or asked, is empty, or its model takes other images or has codes
            of another length.
    """
    if config.service is None:
        yield None
        return
    from saat.serving.client import Client  # with httpx, of no use to other attacks

    token = None if config.token_file is None else read_token(config.token_file)
    with Client(config.service, token) as client:
        _check_fits(client, config.service, subject)
        search = ServiceSearch(client, config.service, crop_border=subject.data.crop_border, quiet=config.quiet)
        try:
            yield search
        finally:
            search.close()


def _check_fits(client: Client, url: str, subject: Subject) -> None:
    from saat.serving.client import ServiceError

    try:
        about = client.about()
    except ServiceError as error:
        if error.status == 401:
            raise ArgumentError(f"`token_file` holds the token of `service` {url}, which refused: {error}") from None
        raise ArgumentError(f"`service` is a running `saat serve`; {url}: {error}") from None
    ours = {"code_length": subject.model.code_length, "image_size": subject.splits.query.images.shape[-1]}
    for name, value in ours.items():
        if getattr(about, name) != value:
            raise ArgumentError(
                f"`service` has the model that is measured, with {name} {value}; {url} has {getattr(about, name)}"
            )
    if not about.items:
        raise ArgumentError(f"`service` has items that a search returns; {url} has none")
