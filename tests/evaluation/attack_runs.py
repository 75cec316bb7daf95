"""Folders of attack runs for tests, on random pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from saat.evaluation.examples import choose_queries, write_examples
from saat.evaluation.metrics import evaluate_retrieval
from saat.hamming import sign_codes

CLASSES = ("<b>Coat</b> & 'hat'", "Bag", "Shoe")
ATTACK: dict[str, Any] = {
    "name": "pgd",
    "search": "pgd",
    "goal": "mainstay",
    "objective": "margin",
    "targeted": False,
    "norm": "linf",
    "epsilon": 8 / 255,
    "steps": 20,
    "step_size": 1 / 255,
    "restarts": 1,
    "seed": 0,
    "seconds": 1.0,
    "model_evaluations": 240,
    "max_perturbation": 8 / 255,
}


def make_run(folder: Path, *, noise: float = 0.3, side: int = 8, seed: int = 0, **changes: Any) -> Path:
    """Write the folder of an attack run on random pictures, as `saat attack` does; `changes` go over its report."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(3, 16, generator=generator)

    def split(rows: int, shift: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        classes = torch.arange(rows) % 3
        noisy = centers[(classes + shift) % 3] + noise * torch.randn(rows, 16, generator=generator)
        return sign_codes(noisy), torch.nn.functional.one_hot(classes, 3).to(torch.uint8)

    (clean_codes, labels), (attacked_codes, _), (database_codes, database_labels) = split(12), split(12, 1), split(40)
    images = torch.rand(12, 3, side, side, generator=generator)
    clean, attacked = (
        evaluate_retrieval(codes, labels, database_codes, database_labels) for codes in (clean_codes, attacked_codes)
    )
    examples = write_examples(
        folder,
        queries=choose_queries(labels, 6, seed=seed),
        clean=(255 * images).round().to(torch.uint8),
        adversarial=(images + 8 / 255).clamp(0, 1),
        database=(255 * torch.rand(40, 3, side, side, generator=generator)).to(torch.uint8),
        clean_codes=clean_codes,
        adversarial_codes=attacked_codes,
        database_codes=database_codes,
        query_labels=labels,
        database_labels=database_labels,
        class_names=CLASSES,
    )
    content = {
        "saat": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "name": folder.name,
        "data": {
            "name": "made-up",
            "class_names": CLASSES,
            "sizes": {"train": 40, "query": 12, "database": 40},
            "checksums": {"train": "t", "query": "q", "database": "d"},
            "damaged": [],
            "overlap": 0,
        },
        "model": {"checkpoint": "runs/plain", "backbone": "tiny", "code_length": 16, "defense": None, "parent": None},
        "attack": ATTACK,
        "clean_map": clean.map,
        "attacked_map": attacked.map,
        "clean_map_paper": clean.map_paper,
        "attacked_map_paper": attacked.map_paper,
        "chance_map": clean.chance_map,
        "chance_map_paper": clean.chance_map_paper,
        "clean": clean.to_json(),
        "attacked": attacked.to_json(),
        "change": {"linf": 0.03, "linf_maximum": 0.0314, "l2": 1.5, "psnr": 33.2, "ssim": 0.97},
        "flags": [],
        "examples": examples,
    }
    (folder / "report.json").write_text(json.dumps(content | changes))
    return folder
