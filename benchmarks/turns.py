"""Timing in turns, so that what slows the machine down slows every side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

LEAST_SECONDS = 1.5  # of all rounds of one comparison


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return n, median and spread (lowest, highest) of measured values."""
    return {"n": len(values), "median": statistics.median(values), "spread": [min(values), max(values)]}


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each of `runs` once a round, after one that is not counted; who begins changes. Short ones have more."""
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in count():
        if turn > rounds and sum(map(sum, times.values())) > LEAST_SECONDS:
            break
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            spent = seconds(runs[name])
            if turn:
                times[name].append(spent)
    return times


def over_fastest(times: Mapping[str, list[float]], ours: str) -> dict[str, Any]:
    """Return how many times as fast `ours` is as the fastest of the others."""
    fastest = min((name for name in times if name != ours), key=lambda name: statistics.median(times[name]))
    ratios = [theirs / mine for theirs, mine in zip(times[fastest], times[ours], strict=True)]
    return {"fastest": fastest} | summary(ratios)
