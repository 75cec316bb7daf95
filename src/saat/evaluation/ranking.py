"""Rankings by Hamming distance, measured by counting.

Only K + 1 distances exist, so a ranking of N items is full of ties. A float sort breaks them by accident; here they are
counted. Everything but the papers' MAP@k needs just two numbers for each query and distance: how many items lie there,
and how many of them are relevant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from saat.errors import ArgumentError, check_at_least
from saat.hamming import check_codes, hamming_distances

_BLOCK_PAIRS = 1 << 21  # query-database pairs held at once: some 60 MB


@dataclass(frozen=True)
class RankingCounts:
    """How many items lie at each distance from each query.

    Args:
        relevant: int64 (Q, K + 1), the relevant items.
        items: int64 (Q, K + 1), all items.
    """

    relevant: Tensor
    items: Tensor


def count_by_distance(
    query_codes: Tensor, query_labels: Tensor, database_codes: Tensor, database_labels: Tensor
) -> RankingCounts:
    """Count relevant and all items by distance. Two items are relevant to each other when they share a label.

    Args:
        query_codes: int8 (Q, K) in {-1, +1}.
        query_labels: (Q, C) multi-hot.
        database_codes: int8 (N, K) in {-1, +1}.
        database_labels: (N, C) multi-hot.

    Raises:
        TypeError: codes are not int8.
        ArgumentError: the shapes do not fit each other.

    >>> codes = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    >>> counts = count_by_distance(codes[:1], torch.eye(2)[:1], codes, torch.eye(2))
    >>> counts.relevant.tolist(), counts.items.tolist()
    ([[1, 0, 0]], [[1, 1, 0]])
    """
    bins = query_codes.shape[-1] + 1
    counts = [query_codes.new_zeros((0, bins, 2), dtype=torch.int64)]
    for distances, relevant in ranked_blocks(query_codes, query_labels, database_codes, database_labels):
        rows = len(distances)
        keys = distances.int().mul_(2).add_(relevant).long()
        keys += torch.arange(rows, device=keys.device)[:, None] * (2 * bins)
        counts.append(keys.flatten().bincount(minlength=rows * bins * 2).view(rows, bins, 2))
    irrelevant, relevant = torch.cat(counts).unbind(dim=2)
    return RankingCounts(relevant=relevant, items=irrelevant + relevant)


def ranked_blocks(
    query_codes: Tensor, query_labels: Tensor, database_codes: Tensor, database_labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield int16 distances (B, N) and bool relevance (B, N) for one block of queries after another."""
    check_pairs(query_codes, query_labels, database_codes, database_labels)
    columns = database_labels.float().T
    rows = max(1, _BLOCK_PAIRS // max(1, len(database_codes)))
    for start in range(0, len(query_codes), rows):
        block = slice(start, start + rows)
        relevant = (query_labels[block].float() @ columns) > 0
        yield hamming_distances(query_codes[block], database_codes), relevant


def average_precision(counts: RankingCounts, *, k: int | None = None) -> Tensor:
    """Return each query's average precision, expected over all orders of items at equal distance.

    F. McSherry and M. Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of
    Tied Scores", ECIR 2008. Let a group of n items at one distance, m of them relevant, follow t items with r relevant.
    Position t + i of the ranking is relevant with probability m / n, and then r + 1 + c (i - 1) relevant items are
    expected up to it, with c = (m - 1) / (n - 1). With the harmonic numbers H, the group adds the closed form::

        sum_{i=1..n} m/n * (r + 1 + c (i - 1)) / (t + i)  =  m/n * ((r + 1 - c (t + 1)) * (H(t+n) - H(t)) + c n)

    The sum over all groups is divided by the number of relevant items, or by min(relevant, k) when the ranking is cut
    after k items. A query without a relevant item has 0.

    Args:
        counts: of Q queries.
        k: how many items of the ranking count; None is all of them.

    Returns:
        float64 (Q,) in [0, 1].

    Raises:
        ArgumentError: `k` is below 1.

    Three items at distance 0, one of them relevant: it comes first, second or third, (1 + 1/2 + 1/3) / 3 = 11/18.

    >>> counts = RankingCounts(relevant=torch.tensor([[1, 0]]), items=torch.tensor([[3, 0]]))
    >>> round(average_precision(counts).item() * 18, 6)
    11.0
    """
    items, relevant = counts.items.double(), counts.relevant.double()
    before_items, before_relevant = items.cumsum(1) - items, relevant.cumsum(1) - relevant
    total = relevant.sum(1)
    counted, denominator = items, total
    if k is not None:
        check_at_least("k", k, 1)
        counted = (k - before_items).clamp_(min=0).minimum(items)
        denominator = total.clamp(max=k)
    size = int(counts.items.sum(1).max()) if len(items) else 0
    ranks = torch.arange(1, size + 1, dtype=torch.float64, device=items.device)
    harmonic = torch.cat([ranks.new_zeros(1), ranks.reciprocal().cumsum(0)])
    span = harmonic[(before_items + counted).long()] - harmonic[before_items.long()]
    share = relevant / items.clamp(min=1)
    slope = (relevant - 1).clamp(min=0) / (items - 1).clamp(min=1)
    gains = share * ((before_relevant + 1 - slope * (before_items + 1)) * span + slope * counted)
    return gains.sum(1) / denominator.clamp(min=1)


def chance_average_precision(counts: RankingCounts) -> Tensor:
    """Return each query's average precision, expected over all orders of the whole database: what a constant code has.

    It is the share of relevant items, plus a term of order log(N) / N for the lucky heads of short rankings.

    Args:
        counts: of Q queries; only their sums are used.

    Returns:
        float64 (Q,).

    One of two items is relevant: it comes first or second, (1 + 1/2) / 2.

    >>> chance_average_precision(RankingCounts(torch.tensor([[0, 1]]), torch.tensor([[1, 1]]))).item()
    0.75
    """
    one_group = RankingCounts(counts.relevant.sum(1, keepdim=True), counts.items.sum(1, keepdim=True))
    return average_precision(one_group)


def average_precision_at_k_paper(
    query_codes: Tensor, query_labels: Tensor, database_codes: Tensor, database_labels: Tensor, *, k: int = 5000
) -> Tensor:
    """Return each query's average precision as the deep-hashing papers define it.

    Ties are ranked by ascending database row; the sum of precisions at the hits is divided by the number of hits in
    the top k, not of all relevant items. A query without a hit has 0.

    *Differs from the published code*: that sorts float distances with an unstable sort, and its ties fall by accident.

    Args:
        query_codes: int8 (Q, K) in {-1, +1}.
        query_labels: (Q, C) multi-hot.
        database_codes: int8 (N, K) in {-1, +1}.
        database_labels: (N, C) multi-hot.
        k: how many items of the ranking count.

    Returns:
        float64 (Q,) in [0, 1].

    Raises:
        TypeError: codes are not int8.
        ArgumentError: the shapes do not fit each other, or `k` is below 1.

    Hits on ranks 1 and 3 of 3: (1/1 + 2/3) / 2 = 5/6.

    >>> codes, labels = torch.ones(3, 8, dtype=torch.int8), torch.tensor([[1], [0], [1]])
    >>> round(average_precision_at_k_paper(codes[:1], labels[:1], codes, labels).item() * 6, 6)
    5.0
    """
    check_at_least("k", k, 1)
    narrow = torch.uint8 if query_codes.shape[-1] < 256 else torch.int16  # one byte sorts twice as fast as two
    scores = [torch.zeros(0, dtype=torch.float64, device=query_codes.device)]
    for distances, relevant in ranked_blocks(query_codes, query_labels, database_codes, database_labels):
        order = distances.to(narrow).sort(dim=1, stable=True).indices[:, :k]
        hits = relevant.gather(1, order).double()
        ranks = torch.arange(1, order.shape[1] + 1, dtype=torch.float64, device=order.device)
        scores.append((hits.cumsum(1) / ranks * hits).sum(1) / hits.sum(1).clamp(min=1))
    return torch.cat(scores)


def precision_at(counts: RankingCounts, n: int) -> Tensor:
    """Return each query's share of relevant items among its first n, expected over the orders of equal distances.

    Args:
        counts: of Q queries.
        n: how many items.

    Returns:
        float64 (Q,).

    Raises:
        ArgumentError: `n` is below 1.

    >>> counts = RankingCounts(relevant=torch.tensor([[1, 1]]), items=torch.tensor([[1, 2]]))
    >>> precision_at(counts, 2).item()
    0.75
    """
    check_at_least("n", n, 1)
    items, relevant = counts.items.double(), counts.relevant.double()
    taken = (n - (items.cumsum(1) - items)).clamp_(min=0).minimum(items)
    return (taken * relevant / items.clamp(min=1)).sum(1) / n


def precision_within(counts: RankingCounts, radius: int) -> Tensor:
    """Return each query's share of relevant items within a Hamming radius; 0 where no item lies there.

    Args:
        counts: of Q queries.
        radius: the largest distance that counts.

    Returns:
        float64 (Q,).

    >>> precision_within(RankingCounts(torch.tensor([[1, 0, 0, 5]]), torch.tensor([[1, 0, 1, 9]])), radius=2).item()
    0.5
    """
    near = slice(0, radius + 1)
    return counts.relevant[:, near].sum(1).double() / counts.items[:, near].sum(1).clamp(min=1)


def precision_at_recall(counts: RankingCounts, recall: Tensor) -> Tensor:
    """Return each query's precision when it has found a share of its relevant items.

    Within a group of equal distance, relevant items are taken as evenly spread: after t items with r relevant, a group
    of n with m relevant reaches the share s of R relevant items after t + n (s R - r) / m items.

    Args:
        counts: of Q queries.
        recall: float (P,), ascending in (0, 1].

    Returns:
        float64 (Q, P); 0 for a query without a relevant item.

    >>> counts = RankingCounts(relevant=torch.tensor([[1, 1]]), items=torch.tensor([[1, 3]]))
    >>> precision_at_recall(counts, torch.tensor([0.5, 1.0])).tolist()
    [[1.0, 0.5]]
    """
    found = counts.relevant.cumsum(1).double()
    wanted = recall.double()[None, :] * found[:, -1:]
    # The small number keeps a wanted count that is a whole number from slipping into the next group by rounding.
    group = torch.searchsorted(found, wanted - 1e-9).clamp(max=found.shape[1] - 1)
    in_group = counts.relevant.double().gather(1, group)
    size = counts.items.double().gather(1, group)
    seen = counts.items.cumsum(1).double().gather(1, group)
    missing = found.gather(1, group) - wanted
    ranks = seen - size * missing / in_group.clamp(min=1)
    return wanted / ranks.clamp(min=1e-9)


def check_pairs(query_codes: Tensor, query_labels: Tensor, database_codes: Tensor, database_labels: Tensor) -> None:
    """Raise unless codes and labels of both splits fit each other."""
    for split, codes, labels in (
        ("query", query_codes, query_labels),
        ("database", database_codes, database_labels),
    ):
        check_codes(f"{split}_codes", codes)
        if labels.ndim != 2 or len(labels) != len(codes):
            raise ArgumentError(
                f"`{split}_labels` has shape ({len(codes)}, C), a row a code; got {tuple(labels.shape)}"
            )
    if query_labels.shape[1] != database_labels.shape[1]:
        raise ArgumentError(
            "`query_labels` and `database_labels` have the same classes; "
            f"got {query_labels.shape[1]} and {database_labels.shape[1]}"
        )
