"""Settings of each defense by name, those of the papers and of our own: the presets of `saat harden`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SAAT_FIT = {"epochs": 20, "batch_size": 32, "schedule": "multistep", "augment": False}
QUERY_SIDE_FIT = {
    "epochs": 40,
    "batch_size": 128,
    "learning_rate": 0.4,
    "weight_decay": 5e-4,
    "schedule": "one-cycle",
    "average": 0.99,
}
PRESETS: Mapping[str, dict[str, Any]] = {
    "paper": {"objective": "agreement", "attack_mode": "train", "fit": SAAT_FIT | {"momentum": 0.0}},
    "saat": {"objective": "agreement", "fit": SAAT_FIT},
    "cgat": {
        "defense": "cgat",
        "objective": "agreement",
        "attack_mode": "train",
        "fit": {
            "epochs": 30,
            "batch_size": 32,
            "learning_rate": 0.01,
            "weight_decay": 5e-4,
            "schedule": "multistep",
            "augment": True,
        },
    },
    "atrdh": {
        "defense": "atrdh",
        "objective": "agreement",
        "attack_mode": "train",
        "adversarial_weight": 2.0,
        "fit": SAAT_FIT,
    },
    "pgd-at": {"defense": "pgd-at", "objective": "flips", "fit": {"epochs": 20, "batch_size": 32}},
    "trades": {
        "defense": "trades",
        "objective": "flips",
        "adversarial_weight": 6.0,
        "fit": {"epochs": 20, "batch_size": 32},
    },
    "distill": {"defense": "distill", "objective": "flips", "fit": {"epochs": 20, "batch_size": 32}},
    "query-side": {
        "defense": "query-side",
        "epsilon": 10 / 255,
        "steps": 1,
        "step_size": 10 / 255,
        "epsilon_warmup": 0.5,
        "mirror": True,
        "fit": QUERY_SIDE_FIT,
    },
    "smoothing": {"defense": "query-side", "noise": 0.25, "fit": QUERY_SIDE_FIT},
}
"""Published settings (`paper` is SAAT as released), or our own: start from these; options given beside them win.

`saat` mends two things of the released code, whose inner attack sees batch statistics and dropout and which has no
momentum. *Differs from the released code*: that of ATRDH takes 100 epochs of Adam; here it has the budget of SAAT.
"""
