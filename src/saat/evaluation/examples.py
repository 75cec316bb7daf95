"""Pictures for a report: queries, their perturbation, and what is found before and after the attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from saat.hamming import hamming_distances
from saat.runtime import atomic_write, make_generator

FOLDER = "examples"


def choose_queries(labels: Tensor, count: int, *, seed: int) -> list[int]:
    """Choose queries by seed and labels (Q, C) only, so that every model shows the same, over many label sets."""
    order = torch.randperm(len(labels), generator=make_generator(seed, "examples")).tolist()
    seen: dict[tuple[int, ...], int] = {}
    rounds: list[tuple[int, int]] = []
    for place, row in enumerate(order):
        key = tuple(labels[row].tolist())
        if any(key):
            rounds.append((seen.get(key, 0), place))
            seen[key] = seen.get(key, 0) + 1
    return [order[place] for _, place in sorted(rounds)[:count]]


def magnified(perturbation: Tensor, factor: float) -> Tensor:
    """Return a perturbation as a picture: mid-gray is no change, and each change is `factor` times as large.

    >>> magnified(torch.tensor([0.0, 0.01, 1.0]), 16).tolist()
    [0.5, 0.6599999666213989, 1.0]
    """
    return (0.5 + factor * perturbation).clamp(0.0, 1.0)


def write_examples(
    folder: Path,
    *,
    queries: Sequence[int],
    clean: Tensor,
    adversarial: Tensor,
    database: Tensor,
    clean_codes: Tensor,
    adversarial_codes: Tensor,
    database_codes: Tensor,
    query_labels: Tensor,
    database_labels: Tensor,
    class_names: Sequence[str],
    factor: float = 16.0,
    top: int = 10,
) -> list[dict[str, Any]]:
    """Write the pictures of some queries to `folder/examples`, and return what a report says of them.

    Args:
        folder: the run.
        queries: rows of the queries.
        clean: float (Q, 3, S, S) in [0, 1].
        adversarial: float (Q, 3, S, S) in [0, 1].
        database: uint8 (N, 3, S, S).
        clean_codes: int8 (Q, K).
        adversarial_codes: int8 (Q, K).
        database_codes: int8 (N, K).
        query_labels: (Q, C) multi-hot.
        database_labels: (N, C) multi-hot.
        class_names: C names.
        factor: of the magnified perturbation.
        top: results shown, by distance, ties by ascending row.
    """

    def results(code: Tensor, row: int) -> list[dict[str, Any]]:
        distances = hamming_distances(code[None], database_codes)[0]
        found = []
        for item in torch.sort(distances, stable=True).indices[:top].tolist():
            name = f"{FOLDER}/item_{item}.png"
            _save(folder / name, database[item].float() / 255.0)
            found.append(
                {
                    "item": item,
                    "labels": _names(database_labels[item], class_names),
                    "relevant": bool((database_labels[item].float() @ query_labels[row].float()) > 0),
                    "distance": int(distances[item]),
                    "image": name,
                }
            )
        return found

    examples = []
    for number, row in enumerate(queries):
        pictures = {
            "clean": clean[row],
            "adversarial": adversarial[row],
            "perturbation": magnified(adversarial[row] - clean[row], factor),
        }
        for name, picture in pictures.items():
            _save(folder / f"{FOLDER}/{number}_{name}.png", picture)
        examples.append(
            {
                "query": row,
                "labels": _names(query_labels[row], class_names),
                **{f"{name}_image": f"{FOLDER}/{number}_{name}.png" for name in pictures},
                "perturbation_factor": factor,
                "clean_results": results(clean_codes[row], row),
                "attacked_results": results(adversarial_codes[row], row),
            }
        )
    return examples


def _names(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    return [name for name, has in zip(class_names, labels.tolist(), strict=True) if has]


def _save(path: Path, image: Tensor) -> None:
    pixels = (image * 255.0).round().to(torch.uint8).permute(1, 2, 0).numpy()
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, "PNG")
