"""MAP@5000 by masks of bits, 64 items a word, against the published loop: a float sort of all items for every query."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from provenance import heading
from torch import Tensor
from turns import seconds

from saat.evaluation.ranking import average_precision, average_precision_at_k_paper, count_by_distance
from saat.hamming import sign_codes
from saat.runtime import set_threads, write_text

RESULT = Path(__file__).parent / "results" / "metrics.json"
K = 5000
CODE_LENGTH = 32
CLASSES = (21, 80)
LABELS_PER_ITEM = 2.5
LOOP_QUERIES = 100  # the loop's time grows with queries alone, so it is measured on some and scaled
ROUNDS = 7
REST = 0.2  # seconds before each measurement, in which the threads of the one before stop spinning
Case = tuple[Tensor, Tensor, Tensor, Tensor]


def random_case(queries: int, items: int, classes: int) -> Case:
    """Random codes and labels; nearly all codes of the database differ, the hardest case for counting."""
    generator = torch.Generator().manual_seed(0)
    codes = sign_codes(torch.randn(queries + items, CODE_LENGTH, generator=generator))
    labels = (torch.rand(queries + items, classes, generator=generator) < LABELS_PER_ITEM / classes).to(torch.uint8)
    return codes[:queries], labels[:queries], codes[queries:], labels[queries:]


def loop(case: Case, *, kind: str | None = None) -> NDArray[np.float64]:
    """Average precisions as the published code takes them, from its description; `kind` is that of the sort.

    For each query: float distances from a product of codes, an argsort of them all, relevance from a product of labels,
    the first k, the precision at each hit, and their mean.
    """
    query_codes, query_labels, database_codes, database_labels = (part.float().numpy() for part in case)
    scores = np.zeros(len(query_codes))
    for query in range(len(query_codes)):
        relevant = (query_labels[query] @ database_labels.T > 0).astype(np.float32)
        distances = 0.5 * (CODE_LENGTH - query_codes[query] @ database_codes.T)
        hits = relevant[np.argsort(distances, kind=kind)][:K]  # type: ignore[call-overload]
        ranks = np.flatnonzero(hits) + 1.0
        if len(ranks):
            scores[query] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
    return scores


def rested_seconds(run: Callable[[], object]) -> float:
    time.sleep(REST)
    return seconds(run)


def compare(queries: int, items: int, classes: int) -> dict[str, Any]:
    """Time both on one case, in turns, and check that they agree when the loop's sort is stable."""
    case = random_case(queries, items, classes)
    few: Case = (case[0][:LOOP_QUERIES], case[1][:LOOP_QUERIES], *case[2:])
    expected = loop(few, kind="stable")
    found = average_precision_at_k_paper(*few, k=K).numpy()
    assert np.allclose(found, expected, rtol=0, atol=1e-12), "the two do not agree"
    times: dict[str, list[float]] = {"loop": [], "ours": [], "ours_tie_aware": []}
    for _ in range(ROUNDS):
        times["loop"].append(rested_seconds(lambda: loop(few)) * queries / LOOP_QUERIES)
        times["ours"].append(rested_seconds(lambda: average_precision_at_k_paper(*case, k=K)))
        times["ours_tie_aware"].append(rested_seconds(lambda: average_precision(count_by_distance(*case), k=K)))
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = [slow / fast for slow, fast in zip(times["loop"], times["ours"], strict=True)]
    return {
        "queries": queries,
        "items": items,
        "classes": classes,
        "loop_queries_measured": LOOP_QUERIES,
        "n": ROUNDS,
        "median": median,
        "spread": {name: [min(values), max(values)] for name, values in times.items()},
        "speedup": statistics.median(ratios),
        "speedup_spread": [min(ratios), max(ratios)],
        "speedup_tie_aware": median["loop"] / median["ours_tie_aware"],
        "map_paper": float(found.mean()),
        "map_paper_loop_unstable": float(loop(few).mean()),
    }


def measure_alone(queries: int, items: int, classes: int) -> None:
    """Print the seconds and the memory of one measurement; run in a process of its own.

    The memory is the peak of the process over what it held before the call. A peak while data was made counts, too, so
    it is an upper bound.
    """
    case = random_case(queries, items, classes)
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    spent = seconds(lambda: average_precision_at_k_paper(*case, k=K))
    counted = seconds(lambda: average_precision(count_by_distance(*case), k=K))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KB
    print(json.dumps({"seconds": spent, "seconds_tie_aware": counted, "peak_mb": (peak - held) / 1e6}))


def alone(queries: int, items: int, classes: int) -> dict[str, float]:
    """Return what `measure_alone` prints in a fresh process."""
    command = [sys.executable, __file__, "--alone", *map(str, (queries, items, classes))]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: float(value) for name, value in json.loads(output).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out 5,000 queries on 190,000 items")
    parser.add_argument("--alone", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    set_threads(0)
    if options.alone:
        measure_alone(*options.alone)
        return
    rows = [compare(1000, 59_000, classes) for classes in CLASSES]
    for row in rows:
        row["peak_mb"] = alone(row["queries"], row["items"], row["classes"])["peak_mb"]
    result: dict[str, Any] = {
        **heading(),
        "n": ROUNDS,
        "code_length": CODE_LENGTH,
        "k": K,
        "rows": rows,
        "speedup": min(row["speedup"] for row in rows),
        "peak_mb": max(row["peak_mb"] for row in rows),
    }
    result["versions"]["numpy"] = np.__version__
    if not options.quick:
        result["large"] = {"queries": 5000, "items": 190_000, "classes": 80} | alone(5000, 190_000, 80)
    write_text(RESULT, json.dumps(result, indent=2) + "\n")
    headline = {name: round(result[name], 1) for name in ("speedup", "peak_mb")}
    headline |= {f"speedup_{row['classes']}_labels": round(row["speedup"], 1) for row in rows}
    print(json.dumps(headline))


if __name__ == "__main__":
    main()
