"""All the numbers of one retrieval: a set of query codes against a set of database codes."""

from __future__ import annotations

import math
from dataclasses import dataclass, is_dataclass, replace

import torch
from torch import Tensor

from saat.errors import ArgumentError
from saat.evaluation import gains, ranking
from saat.evaluation.code_statistics import bit_entropies, count_distinct
from saat.evaluation.intervals import bootstrap_intervals
from saat.evaluation.pairs import check_pairs
from saat.evaluation.ranking import RankingCounts
from saat.evaluation.top_metrics import TopMetrics, top_values
from saat.hamming import check_codes
from saat.types import has_label

RECALL_GRID = tuple(step / 50 for step in range(1, 51))
Interval = tuple[float, float]


@dataclass(frozen=True)
class PrecisionRecall:
    """A curve: the mean precision of all queries at each recall of a fixed grid, the same for every model.

    Args:
        recall: ascending in (0, 1].
        precision: as many values.
        intervals: of each of them the 95 % bootstrap interval.
    """

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class DistanceHistogram:
    """How many query-database pairs lie at each Hamming distance, 0 to K.

    Args:
        relevant: K + 1 counts of pairs that share a label.
        irrelevant: K + 1 counts of the others.
    """

    relevant: tuple[int, ...]
    irrelevant: tuple[int, ...]


@dataclass(frozen=True)
class RetrievalMetrics:
    """How well query codes find database items that share a label.

    Args:
        map: mean average precision over the whole ranking, expected over the orders of equal distances.
        map_standard_error: the standard error of `map` over queries.
        map_interval: the 95 % bootstrap interval of `map` over queries, on the same draws as every other interval.
        map_paper: MAP@k by the papers' convention: ties by ascending row, divided by the hits in the top k.
        map_paper_interval: of `map_paper`.
        k_paper: that k.
        chance_map_paper: `map_paper` of a random ranking.
        chance_map: the MAP of a random ranking, which is also that of a constant code.
        relevant_share: the mean share of the database that is relevant to a query; `chance_map` tends to it.
        precision_at, recall_at, ndcg_at, map_at, success_rate_at, precision_within_radius_2: means of `TopMetrics`.
        chance: the same of a random ranking.
        intervals: their 95 % bootstrap intervals.
        precision_recall: the mean curve.
        distance_histogram: distances of all pairs.
        distinct_codes: how many different codes the database has.
        distinct_query_codes: how many different codes the queries have.
        bit_entropy: mean over bits of the entropy of a bit in the database, in bits; 1 is even use, 0 a dead bit.
        bit_entropy_minimum: of the least used bit.
        code_length: K.
        database: how many items were ranked.
        queries: how many queries were measured.
        queries_without_label: how many were left out for having no label.
        average_precision: float64 (Q,), each measured query's own value behind `map`; not part of the JSON.
        chance_average_precision: float64 (Q,), what a random ranking gives it; not part of the JSON.
    """

    map: float
    map_standard_error: float
    map_interval: Interval
    map_paper: float
    map_paper_interval: Interval
    k_paper: int
    chance_map_paper: float
    chance_map: float
    relevant_share: float
    precision_at: dict[int, float]
    recall_at: dict[int, float]
    ndcg_at: dict[int, float]
    map_at: dict[int, float]
    success_rate_at: dict[int, float]
    precision_within_radius_2: float
    chance: TopMetrics[float]
    intervals: TopMetrics[Interval]
    precision_recall: PrecisionRecall
    distance_histogram: DistanceHistogram
    distinct_codes: int
    distinct_query_codes: int
    bit_entropy: float
    bit_entropy_minimum: float
    code_length: int
    database: int
    queries: int
    queries_without_label: int
    average_precision: Tensor
    chance_average_precision: Tensor

    def to_json(self) -> dict[str, object]:
        """Return everything but the per-query values, ready for `json.dumps`."""
        per_query = ("average_precision", "chance_average_precision")
        return {name: _plain(value) for name, value in vars(self).items() if name not in per_query}


def evaluate_retrieval(
    query_codes: Tensor,
    query_labels: Tensor,
    database_codes: Tensor,
    database_labels: Tensor,
    *,
    k_paper: int = 5000,
) -> RetrievalMetrics:
    """Rank the database for every query by Hamming distance, and measure the rankings.

    Queries without a label have nothing to find; they are left out and counted.

    Args:
        query_codes: int8 (Q, K) in {-1, +1}.
        query_labels: (Q, C) multi-hot.
        database_codes: int8 (N, K) in {-1, +1}.
        database_labels: (N, C) multi-hot.
        k_paper: the cut of the papers' MAP@k.

    Raises:
        TypeError: codes are not int8.
        ArgumentError: shapes do not fit each other, `k_paper` is below 1, or there is nothing to measure.

    >>> codes = torch.tensor([[1, 1], [-1, -1]], dtype=torch.int8)
    >>> metrics = evaluate_retrieval(codes, torch.eye(2), codes, torch.eye(2))
    >>> metrics.map, metrics.chance_map, metrics.distinct_codes
    (1.0, 0.75, 2)
    """
    check_pairs(query_codes, query_labels, database_codes, database_labels)
    labeled = has_label(query_labels)
    query_codes, query_labels = query_codes[labeled], query_labels[labeled]
    if not len(query_codes) or not len(database_codes):
        raise ArgumentError(
            "a measurement needs queries with a label and a database; "
            f"got {len(query_codes)} such queries and {len(database_codes)} items"
        )
    arguments = (query_codes, query_labels, database_codes, database_labels)
    counts = ranking.count_by_distance(*arguments)
    precision = ranking.average_precision(counts)
    chance_counts = ranking.chance_counts(counts)
    chance = ranking.average_precision(chance_counts)
    paper = ranking.average_precision_at_k_paper(*arguments, k=k_paper)
    top, chance_top = top_values(counts), top_values(chance_counts)
    means = top.filled(map(_mean, top.flat()))
    grid = torch.tensor(RECALL_GRID, dtype=torch.float64, device=counts.items.device)
    curve = gains.precision_at_recall(counts, grid)
    values = torch.cat([torch.stack([precision, paper, *top.flat()], dim=1), curve], dim=1)
    map_interval, map_paper_interval, *ends = bootstrap_intervals(values)
    rounded = [(_round(low), _round(high)) for low, high in ends]
    top_ends, curve_ends = rounded[: -len(RECALL_GRID)], rounded[-len(RECALL_GRID) :]
    entropies = bit_entropies(database_codes)
    return RetrievalMetrics(
        map=precision.mean().item(),
        map_standard_error=standard_error(precision),
        map_interval=map_interval,
        map_paper=paper.mean().item(),
        map_paper_interval=map_paper_interval,
        k_paper=k_paper,
        chance_map_paper=ranking.chance_average_precision_at_k_paper(counts, k=k_paper).mean().item(),
        chance_map=chance.mean().item(),
        relevant_share=(counts.relevant.sum() / counts.items.sum()).item(),
        **vars(means),
        chance=chance_top.filled(map(_mean, chance_top.flat())),
        intervals=top.filled(top_ends),
        precision_recall=PrecisionRecall(
            recall=RECALL_GRID, precision=tuple(map(_mean, curve.unbind(1))), intervals=tuple(curve_ends)
        ),
        distance_histogram=distance_histogram(counts),
        distinct_codes=count_distinct(database_codes),
        distinct_query_codes=count_distinct(query_codes),
        bit_entropy=_mean(entropies),
        bit_entropy_minimum=_round(entropies.min().item()),
        code_length=query_codes.shape[1],
        database=len(database_codes),
        queries=len(query_codes),
        queries_without_label=int((~labeled).sum()),
        average_precision=precision,
        chance_average_precision=chance,
    )


def toward_target(metrics: RetrievalMetrics) -> RetrievalMetrics:
    """Return a measurement by the targets' labels with the success rate of an attack that aims at them.

    It succeeds at rank n where something relevant to the target is among the first n, not where nothing is.

    >>> codes = torch.tensor([[1, 1], [-1, -1]], dtype=torch.int8)
    >>> metrics = evaluate_retrieval(codes, torch.eye(2), codes, torch.eye(2))
    >>> metrics.success_rate_at, toward_target(metrics).success_rate_at
    ({1: 0.0}, {1: 1.0})
    """

    def opposite(rates: dict[int, float]) -> dict[int, float]:
        return {rank: _round(1.0 - rate) for rank, rate in rates.items()}

    ends = metrics.intervals.success_rate_at
    opposite_ends = {rank: (_round(1.0 - high), _round(1.0 - low)) for rank, (low, high) in ends.items()}
    return replace(
        metrics,
        success_rate_at=opposite(metrics.success_rate_at),
        chance=replace(metrics.chance, success_rate_at=opposite(metrics.chance.success_rate_at)),
        intervals=replace(metrics.intervals, success_rate_at=opposite_ends),
    )


def distance_histogram(counts: RankingCounts) -> DistanceHistogram:
    """Return the number of relevant and of irrelevant pairs at each distance."""
    relevant, items = counts.relevant.sum(0), counts.items.sum(0)
    return DistanceHistogram(relevant=tuple(relevant.tolist()), irrelevant=tuple((items - relevant).tolist()))


def bit_flip_rate(clean_codes: Tensor, attacked_codes: Tensor) -> Tensor:
    """Return the share of each query's bits that an attack flipped.

    Args:
        clean_codes: int8 (Q, K) in {-1, +1}.
        attacked_codes: int8 (Q, K) of the same queries.

    Returns:
        float64 (Q,) in [0, 1].

    Raises:
        TypeError: codes are not int8.
        ArgumentError: the shapes differ.

    >>> codes = torch.tensor([[1, 1, -1, 1]], dtype=torch.int8)
    >>> bit_flip_rate(codes, -codes).item(), bit_flip_rate(codes, codes.abs()).item()
    (1.0, 0.25)
    """
    check_codes("clean_codes", clean_codes)
    check_codes("attacked_codes", attacked_codes)
    if clean_codes.shape != attacked_codes.shape:
        raise ArgumentError(
            "`clean_codes` and `attacked_codes` have the same shape; "
            f"got {tuple(clean_codes.shape)} and {tuple(attacked_codes.shape)}"
        )
    return (clean_codes != attacked_codes).double().mean(1)


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of float (Q,) values; 0 for a single one.

    >>> standard_error(torch.tensor([0.0, 1.0]))
    0.5
    """
    return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else 0.0


def _plain(value: object) -> object:
    """Return a value as JSON has it: fields by name, keys as text, and lists."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _mean(values: Tensor) -> float:
    return _round(values.mean().item())


def _round(value: float) -> float:
    """Return `value` to six digits, so that a report stays small. MAP itself is kept whole."""
    return round(value, 6)
