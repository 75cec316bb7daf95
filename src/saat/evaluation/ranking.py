"""Rankings by Hamming distance, measured by counting.

Only K + 1 distances exist, so a ranking of N items is full of ties. A float sort breaks them by accident; here they are
counted. Everything but the papers' MAP@k needs just two numbers for each query and distance: how many items lie there,
and how many of them are relevant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saat.errors import check_at_least
from saat.evaluation import loops
from saat.evaluation.pairs import Pairs


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
    """Count relevant and all items by distance, on the CPU. Two items are relevant when they share a label.

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
    counts = np.empty((len(query_codes), 2, query_codes.shape[1] + 1), np.int64)
    Pairs(query_codes, query_labels, database_codes, database_labels).run(loops.count_pairs, counts)
    irrelevant, relevant = torch.from_numpy(counts).unbind(dim=1)
    return RankingCounts(relevant=relevant.contiguous(), items=irrelevant + relevant)


def chance_counts(counts: RankingCounts) -> RankingCounts:
    """Return the counts of a constant code, which puts the whole database at one distance.

    What a metric makes of them is its chance value: its expectation over all orders of the database.

    Args:
        counts: of Q queries.

    Returns:
        Counts (Q, 1).

    One of two items is relevant: it comes first or second, (1 + 1/2) / 2.

    >>> counts = RankingCounts(relevant=torch.tensor([[0, 1]]), items=torch.tensor([[1, 1]]))
    >>> average_precision(chance_counts(counts)).item()
    0.75
    """
    return RankingCounts(counts.relevant.sum(1, keepdim=True), counts.items.sum(1, keepdim=True))


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
    scores = np.empty(len(query_codes), np.float64)
    pairs = Pairs(query_codes, query_labels, database_codes, database_labels)
    pairs.run(loops.average_precisions, scores, min(k, len(database_codes)))
    return torch.from_numpy(scores)


def chance_average_precision_at_k_paper(counts: RankingCounts, *, k: int = 5000) -> Tensor:
    """Return the expectation of each query's `average_precision_at_k_paper` over all orders of the database.

    Of N items R are relevant, and k count, at most N. With h hits among them, each of the k places holds one with
    probability h / k, and then 1 + (h - 1) (i - 1) / (k - 1) hits are expected up to place i. With the harmonic number
    H, the sum of precisions divided by h is expected to be::

        (H(k) + (h - 1) / (k - 1) * (k - H(k))) / k

    which is linear in h from 1 on, and 0 at 0. Over all orders h is hypergeometric, with the mean k R / N, and some
    hit is there with the probability P = 1 - C(N - R, k) / C(N, k). So the expectation is::

        (H(k) P + (k R / N - P) / (k - 1) * (k - H(k))) / k

    Args:
        counts: of Q queries.
        k: how many items of the ranking count.

    Returns:
        float64 (Q,) in [0, 1].

    Raises:
        ArgumentError: `k` is below 1.

    One of three items is relevant and two count: it comes first, second or not at all, (1 + 1/2 + 0) / 3 = 1/2.

    >>> counts = RankingCounts(relevant=torch.tensor([[0, 1]]), items=torch.tensor([[1, 2]]))
    >>> round(chance_average_precision_at_k_paper(counts, k=2).item(), 6)
    0.5
    """
    check_at_least("k", k, 1)
    relevant, items = counts.relevant.sum(1).double(), counts.items.sum(1).double()
    cut = items.clamp(max=k)
    size = int(cut.max()) if len(cut) else 0
    harmonic = torch.arange(1, size + 1, dtype=torch.float64, device=cut.device).reciprocal().cumsum(0)
    first = harmonic[cut.long() - 1]
    none = torch.exp(_log_choices(items - relevant, cut) - _log_choices(items, cut))
    some = 1.0 - torch.where(items - relevant >= cut, none, 0.0)
    return (first * some + (cut * relevant / items - some) / (cut - 1).clamp(min=1) * (cut - first)) / cut


def _log_choices(items: Tensor, chosen: Tensor) -> Tensor:
    """Return the logarithm of how many ways there are to choose some of the items, where there are as many."""
    left = (items - chosen).clamp(min=0)
    return torch.lgamma(items + 1) - torch.lgamma(chosen + 1) - torch.lgamma(left + 1)
