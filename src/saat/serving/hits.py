"""What a service answers, for the engine, the service and the client alike. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hit:
    """One result.

    Args:
        id: of the item.
        distance: in bits.
        bits: which bits differ from the query's code, ascending, `distance` of them.
        name: of the item's file, without its folder.
        metadata: the item's columns, without `id` and `path`.
    """

    id: int
    distance: int
    bits: tuple[int, ...]
    name: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One item of an index.

    Args:
        id: given by the index, never used again.
        name: of its file, without its folder.
        metadata: its columns, without `id` and `path`.
    """

    id: int
    name: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Risk:
    """How much a query looks like an attack, as a detector finds it.

    Args:
        score: the share of clean images that look less like one, in [0, 1].
        threshold: above which a score is an alarm, in [0, 1].
        alarm: whether it is one.
        sentence: the same in words.
    """

    score: float
    threshold: float
    alarm: bool
    sentence: str

    @classmethod
    def of(cls, score: float, threshold: float) -> Risk:
        """Return the risk of a score.

        >>> Risk.of(0.97, 0.95).sentence, Risk.of(0.95, 0.95).sentence
        ('looks like an attack', 'looks ordinary')
        """
        alarm = score > threshold
        return cls(score, threshold, alarm, "looks like an attack" if alarm else "looks ordinary")


@dataclass(frozen=True)
class Answer:
    """What a search answers.

    Args:
        hits: by distance, then by id.
        risk: of the query; none without a detector, or where the image of an item is gone.
        within: how many items lie within the radius, of which `hits` are the nearest; none without a radius.
    """

    hits: list[Hit]
    risk: Risk | None = None
    within: int | None = None


@dataclass(frozen=True)
class About:
    """What is served."""

    version: str
    items: int
    code_length: int
    approximate: bool
    image_size: int
    columns: dict[str, str]
    lab: bool
    hardened: bool
    detector: bool
    writable: bool
