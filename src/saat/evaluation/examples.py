"""Pictures for a report: queries, their perturbation, and what is found before and after the attack."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from saat.hamming import hamming_distances
from saat.runtime import atomic_write, make_generator

FOLDER = "examples"
FACTOR = 16.0  # of the magnified perturbation
TOP = 10  # results shown


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
) -> list[dict[str, Any]]:
    """Write the pictures of some queries to `folder/examples`, and return what a report says of them.

    Args:
        folder: the run.
        queries: rows of the queries.
        clean, database: uint8 (Q, 3, S, S) and (N, 3, S, S).
        adversarial: float (Q, 3, S, S) in [0, 1].
        clean_codes, adversarial_codes, database_codes: int8 (Q, K), (Q, K) and (N, K).
        query_labels, database_labels: (Q, C) and (N, C) multi-hot.
        class_names: C names.
    """
    find = partial(
        _results,
        folder,
        database=database,
        database_codes=database_codes,
        database_labels=database_labels,
        class_names=class_names,
    )
    return [
        {
            "query": row,
            "labels": _names(query_labels[row], class_names),
            **_pictures(folder, number, clean[row].float() / 255.0, adversarial[row]),
            "perturbation_factor": FACTOR,
            "clean_results": find(clean_codes[row], query_labels[row]),
            "attacked_results": find(adversarial_codes[row], query_labels[row]),
        }
        for number, row in enumerate(queries)
    ]


def _pictures(folder: Path, number: int, clean: Tensor, adversarial: Tensor) -> dict[str, str]:
    """Write the three pictures of a query, and return where they lie."""
    change = magnified(adversarial - clean, FACTOR)
    paths = {}
    for name, picture in (("clean", clean), ("adversarial", adversarial), ("perturbation", change)):
        paths[f"{name}_image"] = f"{FOLDER}/{number}_{name}.png"
        write_picture(folder / paths[f"{name}_image"], picture)
    return paths


def _results(
    folder: Path,
    code: Tensor,
    query_labels: Tensor,
    *,
    database: Tensor,
    database_codes: Tensor,
    database_labels: Tensor,
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Write the pictures of the `TOP` items nearest to a code (K,), ties by row; return what a report says of them."""
    distances = hamming_distances(code[None], database_codes)[0]
    found = []
    for item in torch.sort(distances, stable=True).indices[:TOP].tolist():
        name = f"{FOLDER}/item_{item}.png"
        write_picture(folder / name, database[item].float() / 255.0)
        found.append(
            {
                "item": item,
                "labels": _names(database_labels[item], class_names),
                "relevant": bool((database_labels[item].float() @ query_labels.float()) > 0),
                "distance": int(distances[item]),
                "image": name,
            }
        )
    return found


def _names(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    return [name for name, has in zip(class_names, labels.tolist(), strict=True) if has]


def write_picture(path: Path, image: Tensor) -> None:
    """Write an image (3, H, W) in [0, 1] to a PNG file, atomically."""
    pixels = (image * 255.0).round().to(torch.uint8).permute(1, 2, 0).numpy()
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, "PNG")
