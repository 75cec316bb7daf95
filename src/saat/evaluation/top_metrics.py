"""What is measured of the first results: the same names for each query's own values, their means and intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from saat.evaluation import gains, ranking
from saat.evaluation.ranking import RankingCounts

RANKS = (1, 10, 100, 1000)
_AT_RANK = ("precision_at", "recall_at", "ndcg_at", "map_at", "success_rate_at")

Value = TypeVar("Value")
Other = TypeVar("Other")


@dataclass(frozen=True)
class TopMetrics(Generic[Value]):
    """What the first results hold, for each rank of `RANKS` up to the database's size.

    A value is float64 (Q,), one a query; or their mean; or the two ends of its 95 % bootstrap interval.

    Args:
        precision_at: precision among the first n items.
        recall_at: share of the relevant items found among the first n.
        ndcg_at: normalized discounted cumulative gain of the first n.
        map_at: average precision of the first n, divided by min(n, relevant); ties in expectation.
        success_rate_at: whether nothing relevant is among the first n, what an attack wants; ties in expectation.
        precision_within_radius_2: precision within Hamming radius 2; a query with no item there counts 0.
    """

    precision_at: dict[int, Value]
    recall_at: dict[int, Value]
    ndcg_at: dict[int, Value]
    map_at: dict[int, Value]
    success_rate_at: dict[int, Value]
    precision_within_radius_2: Value

    def flat(self) -> list[Value]:
        """Return all values, in the order of the fields and of the ranks."""
        at_rank: list[dict[int, Value]] = [getattr(self, name) for name in _AT_RANK]
        return [value for values in at_rank for value in values.values()] + [self.precision_within_radius_2]

    def filled(self, values: Iterable[Other]) -> TopMetrics[Other]:
        """Return other values under the same names and ranks.

        Args:
            values: as many as `flat` returns, in its order.
        """
        following = iter(values)
        at_rank = {name: {rank: next(following) for rank in getattr(self, name)} for name in _AT_RANK}
        return TopMetrics(**at_rank, precision_within_radius_2=next(following))


def top_values(counts: RankingCounts) -> TopMetrics[Tensor]:
    """Measure what the first results of each query hold. With `chance_counts`, those of a random ranking."""
    ranks = [rank for rank in RANKS if rank <= int(counts.items[0].sum())]
    return TopMetrics(
        precision_at={rank: gains.precision_at(counts, rank) for rank in ranks},
        recall_at={rank: gains.recall_at(counts, rank) for rank in ranks},
        ndcg_at={rank: gains.ndcg_at(counts, rank) for rank in ranks},
        map_at={rank: ranking.average_precision(counts, k=rank) for rank in ranks},
        success_rate_at={rank: gains.success_rate_at(counts, rank) for rank in ranks},
        precision_within_radius_2=gains.precision_within(counts, 2),
    )
