"""The attack lab: attack a query, and search with it before and after."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saat.attacks.autopgd import APGD
from saat.attacks.goals import OwnCodeGoal, SemanticGoal
from saat.attacks.threat import ThreatModel
from saat.bits import packed_distances, unpack_codes
from saat.codes.bank import CodeBank
from saat.data.collection import Content
from saat.errors import SaatError
from saat.index.content import IndexContent, labels_in
from saat.serving.engine import SearchEngine
from saat.serving.hits import Hit, Risk
from saat.serving.pictures import data_url, magnified
from saat.serving.query import Query
from saat.types import CodeObjective

MOST_EPSILON = 32 / 255
MOST_STEPS = 100
BANK = 20_000  # labeled items that make the mainstay codes; more change them little
VOTERS = 10  # results that say what a query without a label shows
CLASSES = 1_000  # labels of an index up to which it has mainstay codes


class AttackEnded(SaatError):
    """Nobody waits for the attack any more."""


@dataclass(frozen=True)
class Side:
    """What the attack did to one model.

    Args:
        name: plain or hardened.
        goal: mainstay (away from the code of its labels) or own-code (away from the query's own code).
        label: whose mainstay code that is: of the query, or of most of its first results; none for own-code.
        original: the image as the model sees it, a PNG data URL.
        adversarial: the attacked image, of 8 bits a channel like any file.
        difference: their difference, magnified around mid-gray.
        magnified: how many times.
        largest: the largest change of a pixel, in steps of 1/255.
        moved: bits in which the code changed.
        code_length: K, in bits.
        before: hits of the original.
        after: hits of the adversarial image.
        risk_before: of the original; none where the model has no detector.
        risk_after: of the adversarial image; the attack does not know the detector.
        seconds: that the attack took.
    """

    name: str
    goal: str
    label: str | None
    original: str
    adversarial: str
    difference: str
    magnified: int
    largest: int
    moved: int
    code_length: int
    before: list[Hit]
    after: list[Hit]
    risk_before: Risk | None
    risk_after: Risk | None
    seconds: float


@dataclass(frozen=True)
class LabReport:
    """An attack on each model, under one budget.

    Args:
        label: of the query, if it is known.
        epsilon: the largest change of a pixel, as a fraction of the pixel range.
        steps: of each search.
        sides: the models, the plain one first.
    """

    label: str | None
    epsilon: float
    steps: int
    sides: list[Side]


class Lab:
    """Attacks the queries of one or two engines, each model by itself with full knowledge of it.

    Args:
        engines: by name, the plain one first.
    """

    def __init__(self, engines: Mapping[str, SearchEngine]) -> None:
        self._engines = engines
        self._banks: dict[str, tuple[IndexContent, _LabelBank | None]] = {}

    def attack(
        self, content: Content, label: str | None, *, epsilon: float, steps: int, k: int, ended: Event
    ) -> LabReport:
        """Attack an image.

        Args:
            content: of an image file.
            label: of the image, labels joined by ", "; without one that the index knows, what most of the first
                results have; where there is none, the attack leads away from the image's own code.
            epsilon: radius, as a fraction of the pixel range.
            steps: gradient steps.
            k: results before and after.
            ended: set from another thread when the attack is to be given up.

        Raises:
            DataError: the content is damaged, too large, or no image.
            AttackEnded: it was given up.
        """
        sides = [self._side(name, content, label, epsilon, steps, k, ended) for name in self._engines]
        return LabReport(label, epsilon, steps, sides)

    def _side(
        self, name: str, content: Content, label: str | None, epsilon: float, steps: int, k: int, ended: Event
    ) -> Side:
        engine, began = self._engines[name], time.perf_counter()
        pixels = engine.prepare(content)
        device = engine.device
        clean = torch.from_numpy(pixels[None]).to(device).float() / 255.0
        bank, aim = self._bank(name), None
        if bank is not None:
            aim = bank.known(label) or bank.most_frequent(_nearest(engine, pixels))
        if bank is not None and aim is not None:
            goal, objective = "mainstay", SemanticGoal(bank.bank)(engine.model, clean, bank.labels_of(aim))
        else:
            goal, objective = "own-code", OwnCodeGoal()(engine.model, clean, torch.empty(0))
        attack = APGD(ThreatModel("linf", epsilon), steps=steps)
        found = attack(engine.model, clean, _until(ended, objective))
        change = whole_change(found[0].cpu().numpy(), pixels, epsilon)
        seconds = time.perf_counter() - began
        attacked = (pixels + change).astype(np.uint8)
        both = np.stack([pixels, attacked])
        packed = engine.encode(both)
        before, after = engine.search([Query(code, k) for code in packed])
        risk_before, risk_after = engine.assess(both)
        factor = int(127 // max(1.0, epsilon * 255))
        return Side(
            name=name,
            goal=goal,
            label=aim,
            original=data_url(pixels),
            adversarial=data_url(attacked),
            difference=data_url(magnified(change, factor)),
            magnified=factor,
            largest=int(np.abs(change).max()),
            moved=int(packed_distances(packed[:1], packed[1:])[0, 0]),
            code_length=engine.model.code_length,
            before=before,
            after=after,
            risk_before=risk_before,
            risk_after=risk_after,
            seconds=seconds,
        )

    def _bank(self, name: str) -> _LabelBank | None:
        """Return the codes and labels of an engine's items, worked out once for each state of its index."""
        content = self._engines[name].content
        if name not in self._banks or self._banks[name][0] is not content:
            self._banks[name] = content, _LabelBank.of(content, self._engines[name].device)
        return self._banks[name][1]


@dataclass(frozen=True)
class _LabelBank:
    bank: CodeBank
    places: Mapping[str, int]

    @classmethod
    def of(cls, content: IndexContent, device: torch.device) -> _LabelBank | None:
        """Return the bank of the labeled items; none where there are no labels, or too many for classes."""
        if "label" not in content.metadata.column_names:
            return None
        texts = content.metadata.column("label").to_pylist()
        rows = np.array([row for row, text in enumerate(texts) if isinstance(text, str) and labels_in(text)], np.int64)
        rows = rows[:: max(1, -(-len(rows) // BANK))]
        sets = [labels_in(texts[row]) for row in rows]
        names = sorted({name for members in sets for name in members})
        if not names or len(names) > CLASSES:
            return None
        places = {name: place for place, name in enumerate(names)}
        labels = torch.zeros(len(rows), len(names), dtype=torch.uint8)
        for row, members in enumerate(sets):
            labels[row, [places[name] for name in members]] = 1
        codes = torch.from_numpy(unpack_codes(content.packed[rows]))
        return cls(CodeBank(codes.to(device), labels.to(device)), places)

    def known(self, label: object) -> str | None:
        """Return a label, or several joined by ", ", if every one is known; else none."""
        names = labels_in(label) if isinstance(label, str) else []
        return str(label) if names and all(name in self.places for name in names) else None

    def most_frequent(self, hits: Sequence[Hit]) -> str | None:
        """Return the known label that most hits have, the nearest of several; none without one."""
        found = [known for hit in hits if (known := self.known(hit.metadata.get("label")))]
        return Counter(found).most_common(1)[0][0] if found else None

    def labels_of(self, label: str) -> Tensor:
        """Return known labels as (1, C)."""
        labels = torch.zeros(1, len(self.places), device=self.bank.labels.device)
        labels[0, [self.places[name] for name in labels_in(label)]] = 1
        return labels


def _nearest(engine: SearchEngine, pixels: NDArray[np.uint8]) -> list[Hit]:
    return engine.search([Query(engine.encode(pixels[None])[0], VOTERS)])[0]


def whole_change(found: NDArray[np.float32], pixels: NDArray[np.uint8], epsilon: float) -> NDArray[np.int16]:
    """Return the change of an image in whole steps of 1/255, none larger than epsilon, so that it fits a file.

    Args:
        found: adversarial image (3, H, W) in [0, 1].
        pixels: the clean one, uint8 (3, H, W).
        epsilon: radius, as a fraction of the pixel range.

    >>> whole_change(np.array([[[0.0, 0.5]]], np.float32), np.array([[[3, 126]]], np.uint8), 1.5 / 255).tolist()
    [[[-1, 1]]]
    """
    most = int(epsilon * 255 + 1e-6)
    change = np.rint(found.astype(np.float64) * 255 - pixels).clip(-most, most)
    return (change + pixels).clip(0, 255).astype(np.int16) - pixels.astype(np.int16)


def _until(ended: Event, objective: CodeObjective) -> CodeObjective:
    """Return the objective, which ends the search when nobody waits for it."""

    def watched(logits: Tensor) -> Tensor:
        if ended.is_set():
            raise AttackEnded("nobody waits for this attack any more")
        return objective(logits)

    return watched
