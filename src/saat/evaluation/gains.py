"""What the first results of a ranking hold: precision, recall, nDCG, and whether anything relevant is left.

Each is the exact expectation over all orders of items at equal distance: within a group of n items with m relevant,
each position is relevant with probability m / n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saat.errors import check_at_least
from saat.evaluation.ranking import RankingCounts


def precision_at(counts: RankingCounts, k: int) -> Tensor:
    """Return each query's share of relevant items among its first k, expected over the orders of equal distances.

    Args:
        counts: of Q queries.
        k: how many items of the ranking count.

    Returns:
        float64 (Q,).

    Raises:
        ArgumentError: `k` is below 1.

    >>> counts = RankingCounts(relevant=torch.tensor([[1, 1]]), items=torch.tensor([[1, 2]]))
    >>> precision_at(counts, 2).item()
    0.75
    """
    check_at_least("k", k, 1)
    return _found(counts, k) / k


def recall_at(counts: RankingCounts, k: int) -> Tensor:
    """Return each query's share of its relevant items found among its first k, expected over the orders of ties.

    Args:
        counts: of Q queries.
        k: how many items of the ranking count.

    Returns:
        float64 (Q,) in [0, 1]; 0 for a query without a relevant item.

    Raises:
        ArgumentError: `k` is below 1.

    >>> counts = RankingCounts(relevant=torch.tensor([[1, 1]]), items=torch.tensor([[1, 2]]))
    >>> recall_at(counts, 2).item()
    0.75
    """
    check_at_least("k", k, 1)
    return _found(counts, k) / counts.relevant.sum(1).clamp(min=1)


def ndcg_at(counts: RankingCounts, k: int) -> Tensor:
    """Return each query's normalized discounted cumulative gain at k, expected over the orders of ties.

    K. Järvelin and J. Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 2002; the expectation
    over ties is that of McSherry and Najork, ECIR 2008. The gain of an item is 1 if it is relevant, else 0, and its
    discount at rank i is 1 / log2(i + 1). With D(n) the sum of the first n discounts, a group of n items with m
    relevant, of which the first a are among the top k, after t items adds::

        m / n * (D(t + a) - D(t))

    The sum over groups is divided by D(min(k, relevant)), the gain of the best ranking.

    Args:
        counts: of Q queries.
        k: how many items of the ranking count.

    Returns:
        float64 (Q,) in [0, 1]; 0 for a query without a relevant item.

    Raises:
        ArgumentError: `k` is below 1.

    One relevant item, first or second: (1 + 1 / log2(3)) / 2 = 0.8155.

    >>> round(ndcg_at(RankingCounts(torch.tensor([[1, 0]]), torch.tensor([[2, 0]])), 5).item(), 4)
    0.8155
    """
    check_at_least("k", k, 1)
    before = counts.items.cumsum(1) - counts.items
    taken = _taken(counts, k)
    size = int(counts.items.sum(1).max()) if len(before) else 0
    ranks = torch.arange(1, min(k, size) + 1, dtype=torch.float64, device=before.device)
    discounts = torch.cat([ranks.new_zeros(1), (ranks + 1).log2().reciprocal().cumsum(0)])
    start = before.clamp(max=len(ranks))
    gains = (discounts[start + taken] - discounts[start]) * _share(counts)
    ideal = discounts[counts.relevant.sum(1).clamp(max=len(ranks))]
    return gains.sum(1) / torch.where(ideal > 0, ideal, 1.0)


def success_rate_at(counts: RankingCounts, k: int) -> Tensor:
    """Return each query's probability, over the orders of ties, that none of its first results is relevant.

    An (untargeted) attack succeeds on such a query: the user sees nothing right. A group of n items with m relevant
    that gives its first a to the ranking gives no relevant one with the hypergeometric probability C(n - m, a) /
    C(n, a); the groups are independent.

    Args:
        counts: of Q queries.
        k: how many results the user looks at.

    Returns:
        float64 (Q,) in [0, 1]; 1 for a query without a relevant item.

    Raises:
        ArgumentError: `k` is below 1.

    Of four items at one distance, one is relevant: with two looked at, it is missed half the time.

    >>> round(success_rate_at(RankingCounts(torch.tensor([[1]]), torch.tensor([[4]])), 2).item(), 9)
    0.5
    """
    check_at_least("k", k, 1)
    taken = _taken(counts, k)
    irrelevant = counts.items - counts.relevant
    enough = taken <= irrelevant
    ways = _log_falling(irrelevant, taken.minimum(irrelevant)) - _log_falling(counts.items, taken)
    return torch.where(enough, ways.exp().clamp(max=1.0), 0.0).prod(1)


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


def _taken(counts: RankingCounts, k: int) -> Tensor:
    """Return how many items of each group are among the first k, int64 (Q, groups)."""
    before = counts.items.cumsum(1) - counts.items
    return (k - before).clamp(min=0).minimum(counts.items)


def _share(counts: RankingCounts) -> Tensor:
    """Return the relevant share of each group, float64 (Q, groups)."""
    return counts.relevant.double() / counts.items.clamp(min=1)


def _found(counts: RankingCounts, k: int) -> Tensor:
    """Return the expected number of relevant items among the first k, float64 (Q,)."""
    return (_taken(counts, k) * _share(counts)).sum(1)


def _log_falling(n: Tensor, a: Tensor) -> Tensor:
    """Return the logarithm of n (n - 1) ... (n - a + 1)."""
    return torch.lgamma(n.double() + 1) - torch.lgamma((n - a).double() + 1)
