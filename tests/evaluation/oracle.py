"""The metrics again, written for the eye and not for speed. Distances and relevance are plain lists."""

from collections.abc import Callable
from itertools import permutations
from math import log2


def naive_average_precision(relevant: list[bool], *, denominator: int | None = None) -> float:
    """AP of one ordered list: the mean, over hits, of the share of hits up to there."""
    precisions = [sum(relevant[: rank + 1]) / (rank + 1) for rank, hit in enumerate(relevant) if hit]
    total = sum(relevant) if denominator is None else denominator
    return sum(precisions) / total if total else 0.0


def naive_average_precision_at(relevant: list[bool], k: int) -> float:
    return naive_average_precision(relevant[:k], denominator=min(sum(relevant), k))


def naive_precision_at(relevant: list[bool], k: int) -> float:
    return sum(relevant[:k]) / k


def naive_recall_at(relevant: list[bool], k: int) -> float:
    return sum(relevant[:k]) / sum(relevant) if any(relevant) else 0.0


def naive_ndcg_at(relevant: list[bool], k: int) -> float:
    def gain(hits: list[bool]) -> float:
        return sum(1 / log2(rank + 2) for rank, hit in enumerate(hits[:k]) if hit)

    return gain(relevant) / gain(sorted(relevant, reverse=True)) if any(relevant) else 0.0


def naive_success_at(relevant: list[bool], k: int) -> float:
    return float(not any(relevant[:k]))


def expected(metric: Callable[[list[bool]], float], distances: list[int], relevant: list[bool]) -> float:
    """The mean of a metric over every order of the items that keeps distances ascending."""
    rows = range(len(distances))
    orders = [order for order in permutations(rows) if all(map(_ascending(distances), order, order[1:]))]
    return sum(metric([relevant[row] for row in order]) for order in orders) / len(orders)


def expected_average_precision(distances: list[int], relevant: list[bool], k: int | None = None) -> float:
    cut = len(distances) if k is None else k
    return expected(lambda hits: naive_average_precision_at(hits, cut), distances, relevant)


def paper_average_precision(distances: list[int], relevant: list[bool], k: int) -> float:
    """AP of the first k items, ties by ascending row, divided by the hits among them."""
    order = sorted(range(len(distances)), key=lambda row: (distances[row], row))
    return naive_average_precision([relevant[row] for row in order[:k]])


def _ascending(distances):
    return lambda left, right: distances[left] <= distances[right]
