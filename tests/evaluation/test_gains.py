from collections.abc import Callable

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saat.errors import ArgumentError
from saat.evaluation.gains import (
    ndcg_at,
    precision_at,
    precision_at_recall,
    precision_within,
    recall_at,
    success_rate_at,
)
from saat.evaluation.ranking import RankingCounts, average_precision, chance_counts

Metric = Callable[[RankingCounts, int], torch.Tensor]
METRICS: dict[str, tuple[Metric, Callable[[list[bool], int], float]]] = {
    "precision": (precision_at, oracle.naive_precision_at),
    "recall": (recall_at, oracle.naive_recall_at),
    "ndcg": (ndcg_at, oracle.naive_ndcg_at),
    "average precision": (lambda counts, k: average_precision(counts, k=k), oracle.naive_average_precision_at),
    "success": (success_rate_at, oracle.naive_success_at),
}


def counts_of(distances: list[int], relevant: list[bool]) -> RankingCounts:
    groups, hits = torch.tensor(distances), torch.tensor(relevant)
    return RankingCounts(groups[hits].bincount(minlength=4)[None], groups.bincount(minlength=4)[None])


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], list[bool]]:
    size = draw(st.integers(1, 6))
    distances = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    return distances, draw(st.lists(st.booleans(), min_size=size, max_size=size))


@st.composite
def large_counts(draw: st.DrawFn) -> RankingCounts:
    items = draw(st.lists(st.integers(0, 40_000), min_size=2, max_size=9).filter(any))
    relevant = [draw(st.integers(0, size)) for size in items]
    return RankingCounts(torch.tensor([relevant]), torch.tensor([items]))


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=30)
@given(case=cases(), k=st.integers(1, 7))
def test_every_metric_is_the_mean_over_all_orders_of_ties(name, case, k):
    metric, naive = METRICS[name]
    counts = counts_of(*case)
    assert metric(counts, k).item() == pytest.approx(oracle.expected(lambda hits: naive(hits, k), *case), abs=1e-12)
    chance = oracle.expected(lambda hits: naive(hits, k), [0] * len(case[0]), case[1])
    assert metric(chance_counts(counts), k).item() == pytest.approx(chance, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_near_its_mean_over_random_orders_of_large_ties(name):
    metric, naive = METRICS[name]
    distances = torch.tensor([0] * 20 + [1] * 60 + [2] * 120)
    generator = torch.Generator().manual_seed(0)
    relevant = torch.rand(200, generator=generator) < torch.tensor([0.1] * 20 + [0.05] * 60 + [0.2] * 120)
    values = []
    for _ in range(400):
        order = (distances + torch.rand(200, generator=generator)).argsort()
        values.append(naive(relevant[order].tolist(), 30))
    drawn = torch.tensor(values, dtype=torch.float64)
    found = metric(counts_of(distances.tolist(), relevant.tolist()), 30).item()
    assert abs(found - drawn.mean().item()) < 4 * drawn.std().item() / 20 + 1e-12


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=30)
@given(counts=large_counts(), k=st.integers(1, 100_000))
def test_values_are_shares_and_a_constant_code_has_chance(name, counts, k):
    metric, _ = METRICS[name]
    value = metric(counts, k).item()
    assert -1e-12 <= value <= 1 + 1e-9
    constant = RankingCounts(*(torch.tensor([[int(group.sum()), 0, 0]]) for group in (counts.relevant, counts.items)))
    assert metric(constant, k).item() == metric(chance_counts(counts), k).item()


@settings(max_examples=50)
@given(counts=large_counts(), k=st.integers(1, 1000))
def test_more_results_find_more_and_hide_less(counts, k):
    assert recall_at(counts, k + 1).item() >= recall_at(counts, k).item() - 1e-12
    assert success_rate_at(counts, k + 1).item() <= success_rate_at(counts, k).item() + 1e-9
    assert recall_at(counts, int(counts.items.sum())).item() == pytest.approx(float(counts.relevant.any()))


def test_values_worked_by_hand():
    # Distance 0 holds one hit of two, distance 2 three hits of four; ranks 3 and 4 fall into the second group.
    counts = RankingCounts(torch.tensor([[1, 0, 3]]), torch.tensor([[2, 0, 4]]))
    assert precision_at(counts, 4).item() == pytest.approx((1 + 1.5) / 4)
    assert recall_at(counts, 4).item() == pytest.approx((1 + 1.5) / 4)
    assert recall_at(counts, 3).item() == pytest.approx(1.75 / 4)
    # Discounts 1, 0.63093, 0.5, 0.43068 with shares 1/2, 1/2, 3/4, 3/4, over their sum 2.56161.
    assert ndcg_at(counts, 4).item() == pytest.approx((1.63093 / 2 + 0.93068 * 3 / 4) / 2.56161, abs=1e-5)
    assert success_rate_at(counts, 1).item() == pytest.approx(1 / 2)
    assert success_rate_at(counts, 2).item() == 0.0  # the whole group has been seen
    # Ten irrelevant items, then five at one distance with two relevant: C(3, 2) / C(5, 2) = 3 / 10.
    late = RankingCounts(torch.tensor([[0, 2]]), torch.tensor([[10, 5]]))
    assert success_rate_at(late, 10).item() == pytest.approx(1.0)
    assert success_rate_at(late, 12).item() == pytest.approx(0.3)
    assert success_rate_at(late, 14).item() == 0.0
    assert precision_within(late, 0).item() == 0.0
    assert precision_within(late, 5).item() == pytest.approx(2 / 15)


def test_precision_at_recall_by_hand():
    # Half the hits are found after the whole first group, 1 of 2; all of them after 2 of 3.
    counts = RankingCounts(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 2, 1]]))
    curve = precision_at_recall(counts, torch.tensor([0.25, 0.5, 1.0]))
    assert curve[0].tolist() == pytest.approx([0.5, 0.5, 2 / 3])


def test_a_query_without_a_relevant_item_finds_nothing():
    counts = RankingCounts(torch.tensor([[0, 0]]), torch.tensor([[1, 3]]))
    for metric in (precision_at, recall_at, ndcg_at):
        assert metric(counts, 2).item() == 0.0
    assert success_rate_at(counts, 2).item() == pytest.approx(1.0)
    assert precision_at_recall(counts, torch.tensor([0.5])).item() == 0.0


def test_no_queries_give_empty_results():
    none = RankingCounts(*(torch.zeros(0, 5, dtype=torch.int64) for _ in range(2)))
    for metric, _ in METRICS.values():
        assert metric(none, 3).shape == (0,)


@pytest.mark.parametrize("name", METRICS)
def test_a_rank_below_one_is_an_error(name):
    with pytest.raises(ArgumentError, match="is at least 1; got 0"):
        METRICS[name][0](counts_of([0], [True]), 0)
