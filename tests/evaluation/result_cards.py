"""Result cards for tests, made by the code itself from small reports with the entries that a suite writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saat.evaluation.result_card import result_card

MODEL = {
    "checkpoint": "/home/me/runs/hard",
    "backbone": "resnet20",
    "weights": "C:\\states\\cifar.th",
    "code_length": 32,
    "loss": "csq",
    "defense": "saat",
    "parent": "runs/plain",
    "train_seconds": 12.5,
    "epochs": 20,
}


def make_report(
    name: str = "hard",
    *,
    clean: float = 0.9,
    worst: float = 0.3,
    chance: float = 0.1,
    seed: int = 0,
    flags: Sequence[str] = (),
    epsilon: float = 8 / 255,
    suite: str = "fast",
    steps: int = 10,
    members: Sequence[str] = ("away-from-mainstay", "soft-ranking"),
    query: str = "q1",
    image_size: int = 28,
    surrogates: Sequence[str] = (),
    **model: Any,
) -> dict[str, Any]:
    """Return a report; `query` is the checksum of the queries, and `model` goes over the model's entries."""
    found = {"map_paper": 0.5, "map_interval": [0.4, 0.6], "model_evaluations": 200, "seconds": 1.5}
    return {
        "saat": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "name": name,
        "unreliable": bool(flags),
        "flags": [{"name": flag, "message": f"about {flag}"} for flag in flags],
        "data": {
            "name": "made-up",
            "class_names": ["a", "b"],
            "sizes": {"train": 40, "query": 12, "database": 1234},
            "checksums": {"train": "t1", "query": query, "database": "d1"},
            "image_size": image_size,
            "crop_border": 0,
        },
        "model": MODEL | model,
        "clean_map": clean,
        "attacked_map": worst,
        "attacked_map_paper": 0.375,
        "chance_map": chance,
        "chance_map_paper": 0.12,
        "attacked": {"map_interval": (worst - 0.02, worst + 0.02)},
        "attack": {
            "suite": suite,
            "norm": "linf",
            "epsilon": epsilon,
            "steps": steps,
            "seed": seed,
            "surrogate_weights": list(surrogates),
            "members": {member: found | {"map": worst + 0.01 * place} for place, member in enumerate(members)},
            "any_code_map": 0.02,
            "model_evaluations": 400,
            "seconds": 3.0,
        },
    }


def make_card(name: str = "hard", **changes: Any) -> dict[str, Any]:
    """Return the card of `make_report` with the same arguments."""
    return result_card(make_report(name, **changes))
