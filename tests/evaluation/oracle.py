"""The metrics again, written for the eye and not for speed. Distances and relevance are plain lists."""

from itertools import permutations


def naive_average_precision(relevant: list[bool], *, denominator: int | None = None) -> float:
    """AP of one ordered list: the mean, over hits, of the share of hits up to there."""
    precisions = [sum(relevant[: rank + 1]) / (rank + 1) for rank, hit in enumerate(relevant) if hit]
    total = sum(relevant) if denominator is None else denominator
    return sum(precisions) / total if total else 0.0


def expected_average_precision(distances: list[int], relevant: list[bool], k: int | None = None) -> float:
    """The mean AP over every order of the items that keeps distances ascending."""
    rows = range(len(distances))
    orders = [order for order in permutations(rows) if all(map(_ascending(distances), order, order[1:]))]
    cut = len(distances) if k is None else k
    denominator = min(sum(relevant), cut)
    lists = [[relevant[row] for row in order][:cut] for order in orders]
    return sum(naive_average_precision(hits, denominator=denominator) for hits in lists) / len(lists)


def paper_average_precision(distances: list[int], relevant: list[bool], k: int) -> float:
    """AP of the first k items, ties by ascending row, divided by the hits among them."""
    order = sorted(range(len(distances)), key=lambda row: (distances[row], row))
    return naive_average_precision([relevant[row] for row in order[:k]])


def _ascending(distances):
    return lambda left, right: distances[left] <= distances[right]
