import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import expected_average_precision, naive_average_precision, paper_average_precision
from torchmetrics.functional.retrieval import retrieval_average_precision

from saat.errors import ArgumentError
from saat.evaluation.ranking import (
    RankingCounts,
    average_precision,
    average_precision_at_k_paper,
    chance_average_precision_at_k_paper,
    chance_counts,
    count_by_distance,
)
from saat.hamming import hamming_distances, sign_codes

CODE_LENGTH = 8
Case = tuple[list[int], list[bool]]


def as_case(distances: list[int], relevant: list[bool]) -> tuple[torch.Tensor, ...]:
    """One query and a database that lie at the given distances, as the four arguments of every metric."""
    rows = [[-1] * distance + [1] * (CODE_LENGTH - distance) for distance in distances]
    labels = [[1, 0] if hit else [0, 1] for hit in relevant]
    query = torch.ones(1, CODE_LENGTH, dtype=torch.int8), torch.tensor([[1, 0]], dtype=torch.uint8)
    return (*query, torch.tensor(rows, dtype=torch.int8), torch.tensor(labels, dtype=torch.uint8))


def random_case(queries: int, items: int, classes: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    codes = sign_codes(torch.randn(queries + items, 16, generator=generator))
    labels = torch.rand(queries + items, classes, generator=generator) < 0.3
    return codes[:queries], labels[:queries], codes[queries:], labels[queries:]


@st.composite
def tiny_cases(draw: st.DrawFn) -> Case:
    size = draw(st.integers(1, 6))
    distances = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    return distances, draw(st.lists(st.booleans(), min_size=size, max_size=size))


@settings(max_examples=60)
@given(tiny_cases())
def test_the_closed_form_is_the_mean_over_all_orders_of_ties(case):
    counts = count_by_distance(*as_case(*case))
    assert average_precision(counts).item() == pytest.approx(expected_average_precision(*case), abs=1e-12)
    for k in range(1, len(case[0]) + 2):
        assert average_precision(counts, k=k).item() == pytest.approx(expected_average_precision(*case, k), abs=1e-12)


@settings(max_examples=60)
@given(tiny_cases(), st.integers(1, 7))
def test_the_papers_convention_against_a_naive_list(case, k):
    ours = average_precision_at_k_paper(*as_case(*case), k=k).item()
    assert ours == pytest.approx(paper_average_precision(*case, k), abs=1e-12)


def test_values_worked_by_hand():
    # Distance 1 holds one hit and one miss, distance 2 one hit.
    counts = count_by_distance(*as_case([1, 1, 2], [True, False, True]))
    # Hit first: (1/1 + 2/3) / 2 = 5/6. Miss first: (1/2 + 2/3) / 2 = 7/12. Their mean is 17/24.
    assert average_precision(counts).item() == pytest.approx(17 / 24)
    # Cut after one item: a hit half the time, over min(2, 1).
    assert average_precision(counts, k=1).item() == pytest.approx(1 / 2)
    # Any order of two hits and a miss: HHM 1, HMH 5/6, MHH 7/12.
    assert average_precision(chance_counts(counts)).item() == pytest.approx((1 + 5 / 6 + 7 / 12) / 3)


def test_strictly_ordered_rankings_agree_with_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        distances = torch.randperm(CODE_LENGTH + 1, generator=generator)
        relevant = torch.rand(CODE_LENGTH + 1, generator=generator) < 0.4
        counts = count_by_distance(*as_case(distances.tolist(), relevant.tolist()))
        # torchmetrics counts an item with a score of at most 0 as irrelevant: keep every score above it.
        theirs = retrieval_average_precision(CODE_LENGTH + 1.0 - distances, relevant)
        assert average_precision(counts).item() == pytest.approx(theirs.item(), abs=1e-6)


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 10_000))
def test_constant_codes_score_exactly_chance(queries, items, seed):
    query_codes, query_labels, database_codes, database_labels = random_case(queries, items, 4, seed)
    constant = torch.ones_like(query_codes), query_labels, torch.ones_like(database_codes), database_labels
    counts = count_by_distance(*constant)
    chance = chance_counts(count_by_distance(query_codes, query_labels, database_codes, database_labels))
    assert torch.equal(average_precision(counts), average_precision(chance))


def test_chance_tends_to_the_share_of_relevant_items():
    labels = torch.eye(10).repeat(2000, 1)
    codes = torch.ones(len(labels), 8, dtype=torch.int8)
    chance = average_precision(chance_counts(count_by_distance(codes[:1], labels[:1], codes, labels))).item()
    assert 0.1 < chance < 0.101


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 10_000))
def test_the_order_of_the_database_does_not_matter(queries, items, seed):
    query_codes, query_labels, database_codes, database_labels = random_case(queries, items, 4, seed)
    order = torch.randperm(items, generator=torch.Generator().manual_seed(seed))
    counts = count_by_distance(query_codes, query_labels, database_codes, database_labels)
    shuffled = count_by_distance(query_codes, query_labels, database_codes[order], database_labels[order])
    assert torch.equal(counts.relevant, shuffled.relevant)
    assert torch.equal(counts.items, shuffled.items)


def test_perfect_codes_score_one_at_every_cut_and_recall():
    labels = torch.eye(4).repeat(5, 1)
    codes = sign_codes(labels.repeat(1, 2) - 0.5)
    counts = count_by_distance(codes, labels, codes, labels)
    assert average_precision(counts).tolist() == pytest.approx([1.0] * 20)
    assert average_precision(counts, k=3).tolist() == pytest.approx([1.0] * 20)
    assert average_precision_at_k_paper(codes, labels, codes, labels, k=3).tolist() == [1.0] * 20


def test_a_query_without_a_relevant_item_scores_zero():
    case = as_case([0, 1, 2], [False, False, False])
    counts = count_by_distance(*case)
    assert average_precision(counts).item() == 0.0
    assert average_precision(counts, k=2).item() == 0.0
    assert average_precision(chance_counts(counts)).item() == 0.0
    assert average_precision_at_k_paper(*case).item() == 0.0


def test_no_queries_give_empty_results():
    case = random_case(0, 5, 3, seed=0)
    counts = count_by_distance(*case)
    assert counts.items.shape == (0, 17)
    assert average_precision(counts).shape == (0,)
    assert average_precision_at_k_paper(*case).shape == (0,)


def test_an_empty_database_gives_zeros():
    query_codes, query_labels, database_codes, database_labels = random_case(2, 5, 3, seed=0)
    case = query_codes, query_labels, database_codes[:0], database_labels[:0]
    counts = count_by_distance(*case)
    assert counts.items.shape == (2, 17)
    assert not counts.items.any()
    assert average_precision(counts).tolist() == average_precision_at_k_paper(*case).tolist() == [0.0, 0.0]


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 70), st.integers(0, 10_000))
def test_the_papers_convention_over_many_queries_against_a_stable_sort(queries, items, k, seed):
    # The radius that holds k items is searched from that of the query before: it must move both ways.
    case = random_case(queries, items, 4, seed)
    case[0][1::2] = -1
    case[2][: items // 2] = -1
    distances = hamming_distances(case[0], case[2]).tolist()
    relevant = ((case[1].float() @ case[3].float().T) > 0).tolist()
    expected = [paper_average_precision(*query, k) for query in zip(distances, relevant, strict=True)]
    assert average_precision_at_k_paper(*case, k=k).tolist() == pytest.approx(expected, abs=1e-12)


def test_long_codes_keep_their_distances():
    generator = torch.Generator().manual_seed(0)
    codes, labels = sign_codes(torch.randn(30, 300, generator=generator)), torch.eye(3).repeat(10, 1)
    codes[1] = -codes[0]
    counts = count_by_distance(codes[:1], labels[:1], codes, labels)
    assert counts.items.sum().item() == 30
    assert counts.items[0, 0].item() == counts.items[0, 300].item() == 1
    assert counts.relevant.sum().item() == 10


def test_long_rankings_keep_their_digits():
    # The closed form takes differences of harmonic numbers; against the plain sum over 60,000 positions.
    items, relevant = torch.tensor([[40_000, 20_000]]), torch.tensor([[3, 9_000]])
    expected = 0.0
    for before, found, size, hits in ((0, 0, 40_000, 3), (40_000, 3, 20_000, 9_000)):
        steps = torch.arange(size, dtype=torch.float64)
        expected += (hits / size * (found + 1 + steps * (hits - 1) / (size - 1)) / (before + steps + 1)).sum().item()
    assert average_precision(RankingCounts(relevant, items)).item() == pytest.approx(expected / 9003, rel=1e-12)


def test_a_cut_below_one_is_an_error():
    case = random_case(2, 5, 3, seed=0)
    with pytest.raises(ArgumentError, match="`k` is at least 1; got 0"):
        average_precision(count_by_distance(*case), k=0)
    with pytest.raises(ArgumentError, match="`k` is at least 1; got 0"):
        average_precision_at_k_paper(*case, k=0)


def test_chance_of_the_papers_convention_is_the_mean_over_random_orders_of_a_large_database():
    relevant = (torch.arange(2000) % 50 == 0).numpy()  # 40 of 2,000, of which 300 count
    generator = np.random.default_rng(0)
    found = [naive_average_precision(generator.permutation(relevant)[:300].tolist()) for _ in range(400)]
    counts = RankingCounts(relevant=torch.tensor([[40], [0], [2000]]), items=torch.full((3, 1), 2000))
    chance = chance_average_precision_at_k_paper(counts, k=300)
    assert chance[0].item() == pytest.approx(np.mean(found), abs=4 * np.std(found) / 20)
    assert chance[1:].tolist() == pytest.approx([0.0, 1.0], abs=1e-9)
    assert torch.allclose(chance_average_precision_at_k_paper(counts), average_precision(counts))  # all items count
    with pytest.raises(ArgumentError, match="`k` is at least 1; got 0"):
        chance_average_precision_at_k_paper(counts, k=0)
