import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saat.codes.bank import CodeBank
from saat.evaluation import ranking
from saat.evaluation.deployment import Deployment, soft_average_precision
from saat.hamming import sign_codes


def random_case(queries: int, items: int, classes: int, seed: int, code_length: int = 4) -> tuple[torch.Tensor, ...]:
    """Short codes, so that many items share one; some rows have no label."""
    generator = torch.Generator().manual_seed(seed)
    codes = sign_codes(torch.randn(queries + items, code_length, generator=generator))
    labels = (torch.rand(queries + items, classes, generator=generator) < 0.4).to(torch.uint8)
    return codes[:queries], labels[:queries], codes[queries:], labels[queries:]


SIZES = (st.integers(1, 4), st.integers(1, 40), st.integers(1, 4), st.integers(0, 10_000))


@settings(max_examples=40)
@given(*SIZES)
def test_at_codes_the_soft_counts_are_the_exact_counts(queries, items, classes, seed):
    case = random_case(queries, items, classes, seed)
    deployment = Deployment(CodeBank(case[2], case[3]))
    exact = ranking.count_by_distance(*case)
    relevant, everything = deployment.soft_counts(case[0].float(), deployment.relevant(case[1]))
    assert torch.equal(relevant, exact.relevant.float())
    assert torch.equal(everything, exact.items.float())
    assert deployment.items.sum() == deployment.pair_items.sum() == items
    assert torch.allclose(deployment.average_precision(case[0], case[1]), ranking.average_precision(exact), atol=1e-12)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=9))
def test_at_whole_counts_soft_average_precision_is_average_precision(groups):
    relevant = torch.tensor([[hits for hits, _ in groups]])
    items = relevant + torch.tensor([[misses for _, misses in groups]])
    expected = ranking.average_precision(ranking.RankingCounts(relevant, items))
    assert torch.allclose(soft_average_precision(relevant.float(), items.float()), expected, atol=1e-10)


def test_a_distance_between_two_whole_numbers_counts_for_both():
    # Codes ++ (label 0) and -- (label 1), two and one items. From (1, 0): distances (2 - 1) / 2 = 0.5 and 1.5.
    codes = torch.tensor([[1, 1], [1, 1], [-1, -1]], dtype=torch.int8)
    deployment = Deployment(CodeBank(codes, torch.eye(2)[[0, 0, 1]]))
    relevant = deployment.relevant(torch.tensor([[1, 0]]))
    soft = deployment.soft_counts(torch.tensor([[1.0, 0.0]]), relevant)
    assert soft[0].tolist() == [[1, 1, 0]]
    assert soft[1].tolist() == [[1, 1.5, 0.5]]  # half of two; half of two and half of one; half of one


def test_equal_items_are_folded_and_label_weights_do_not_count():
    codes = torch.tensor([[1, 1], [1, 1], [1, 1], [-1, 1]], dtype=torch.int8)
    deployment = Deployment(CodeBank(codes, torch.tensor([[1, 0], [2, 0], [0, 1], [0, 0]])))
    assert deployment.code_length == 2
    assert deployment.codes.tolist() == [[-1, 1], [1, 1]]
    assert deployment.items.tolist() == [1, 3]
    assert deployment.pair_items.tolist() == [1, 1, 2]  # (-+, none), (++, second label), (++, first label)
    assert deployment.relevant(torch.tensor([[5, 0], [0, 1], [1, 1], [0, 0]])).tolist() == [
        [0, 2],
        [0, 1],
        [0, 3],
        [0, 0],
    ]


def test_a_database_of_many_label_sets_takes_no_table_of_codes_by_sets():
    items = 3000  # as many codes, as many label sets: a table would hold 9,000,000 numbers
    bits = 2 ** torch.arange(12)
    codes = (((torch.arange(items)[:, None] // bits) % 2) * 2 - 1).to(torch.int8)
    deployment = Deployment(CodeBank(codes, (codes > 0).to(torch.uint8)))
    assert (len(deployment.codes), len(deployment.set_labels)) == (items, items)
    assert max(value.numel() for value in vars(deployment).values()) <= 12 * items


def test_gradients_are_true_away_from_whole_distances():
    codes, labels = random_case(0, 60, 3, seed=5, code_length=8)[2:]
    deployment = Deployment(CodeBank(codes, labels))
    relevant = deployment.relevant(torch.eye(3)).double()
    deployment.codes, deployment.items = deployment.codes.double(), deployment.items.double()
    relaxed = 0.9 * torch.rand(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.3
    distances = (8 - relaxed @ deployment.codes.T) / 2
    assert float((distances - distances.round()).abs().min()) > 1e-4  # no kink within the steps of gradcheck

    def value(point: torch.Tensor) -> torch.Tensor:
        return soft_average_precision(*deployment.soft_counts(point, relevant))

    assert torch.autograd.gradcheck(value, relaxed.requires_grad_(), eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(value(relaxed).sum(), relaxed)
    assert bool((gradient.abs().sum(1) > 1e-3).all())


def test_the_gradient_is_finite_at_codes_and_with_nothing_to_find():
    codes, labels = random_case(0, 30, 3, seed=0)[2:]
    deployment = Deployment(CodeBank(codes, labels))
    relaxed = codes[:4].float().requires_grad_()
    values = soft_average_precision(*deployment.soft_counts(relaxed, deployment.relevant(torch.eye(4)[:, :3])))
    (gradient,) = torch.autograd.grad(values.sum(), relaxed)
    assert bool(torch.isfinite(gradient).all())
    assert values[3].item() == 0.0  # a query without a label
    assert not bool(gradient[3].any())


@pytest.mark.parametrize("pairs", [1, 50, 1 << 22])
def test_blocks_do_not_change_average_precision(pairs, monkeypatch):
    case = random_case(7, 30, 3, seed=2)
    deployment = Deployment(CodeBank(case[2], case[3]))
    whole = deployment.average_precision(case[0], case[1])
    monkeypatch.setattr("saat.evaluation.deployment._BLOCK_PAIRS", pairs)
    assert torch.equal(deployment.average_precision(case[0], case[1]), whole)
    assert deployment.average_precision(case[0][:0], case[1][:0]).shape == (0,)
    assert deployment.average_precision(case[0][:0], case[1][:0]).dtype == torch.float64


@pytest.mark.parametrize("floats", [1, 1 << 25])  # a code at a time, and all at once
def test_every_code_for_every_query_is_each_code_for_each_query(floats, monkeypatch):
    monkeypatch.setattr("saat.evaluation.deployment.BLOCK_FLOATS", floats)
    case = random_case(5, 40, 3, seed=1)
    deployment = Deployment(CodeBank(case[2], case[3]))
    every = deployment.average_precision_table(case[0], case[1])
    for number, code in enumerate(case[0]):
        codes = code.expand(len(case[1]), -1)
        assert torch.allclose(every[:, number], deployment.average_precision(codes, case[1]), rtol=0, atol=1e-9)
