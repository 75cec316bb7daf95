"""The papers' attacks by name, each at one budget for all and, where another is known, as published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EQUAL: dict[str, Any] = {"search": "pgd", "steps": 100, "step_size": 1 / 255, "last": True}
"""The budget of SAAT's own attack."""
PAPERS: dict[str, dict[str, Any]] = {
    "paper": EQUAL | {"goal": "mainstay", "objective": "weighted"},
    "paper-targeted": EQUAL | {"goal": "mainstay", "objective": "weighted-targeted", "targeted": True},
    "hag": EQUAL | {"goal": "own-code", "objective": "hag"},
    "sdha": EQUAL | {"goal": "relevant-codes", "search": "adam", "step_size": None},
    "cgat": EQUAL | {"goal": "center", "objective": "agreement"},
    "pga": EQUAL | {"goal": "mainstay", "objective": "agreement"},
    "p2p": EQUAL | {"goal": "point", "objective": "agreement", "targeted": True},
    "dhta": EQUAL | {"goal": "anchor", "objective": "agreement", "targeted": True},
    "tha": EQUAL | {"goal": "prototype", "objective": "agreement", "targeted": True},
    "pros-gan": EQUAL
    | {"goal": "prototype", "objective": "agreement", "targeted": True, "search": "generator", "step_size": None},
}
"""At equal budgets.

`pga` stands for the pharos-guided attack (Wang, Bai, Xu, Li, *Reliable and Efficient Evaluation of Adversarial
Robustness for Deep Hashing-Based Retrieval*, 2023) with the mainstay code as its guide: how its own guide weighs the
codes was not to be had. On data with one label an image, no weight of the relevant codes makes a difference.
"""
DHTA: dict[str, Any] = {"search": "ngd", "steps": 2000, "step_size": 1.0, "epsilon": 0.032}
PUBLISHED: dict[str, dict[str, Any]] = {
    # A rate of 100 on the mean over a batch of 128: here each image has an objective of its own.
    "hag": {"search": "sgd", "steps": 2000, "step_size": 100 / 128},
    "sdha": {"steps": 1500},
    "cgat": {"steps": 7, "step_size": 2 / 255, "schedule": False},
    "p2p": DHTA,
    "dhta": DHTA,
    "tha": {"search": "bim", "schedule": False},
    "pros-gan": {"search": "published-generator", "epsilon": 1.0},  # only its penalty holds the change
}
"""What the papers and their code have in place of the equal budget."""
PRESETS: Mapping[str, dict[str, Any]] = PAPERS | {
    f"{name}-published": PAPERS[name] | changes for name, changes in PUBLISHED.items()
}
"""The presets of `saat attack`; options given beside them win. docs/attacks.md says what each changes of its paper."""
