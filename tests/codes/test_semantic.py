from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saat.codes.bank import CodeBank
from saat.codes.semantic import has_label, label_cosine, mainstay_codes
from saat.errors import ArgumentError
from saat.hamming import sign_codes


def random_case(items: int, classes: int, code_length: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Codes and labels of a bank, some rows without a label, and five label sets that have one at least."""
    generator = torch.Generator().manual_seed(seed)
    codes = sign_codes(torch.randn(items, code_length, generator=generator))
    labels = (torch.rand(items + 5, classes, generator=generator) < 0.4).float()
    wanted = labels[items:]
    wanted[torch.arange(5), torch.randint(classes, (5,), generator=generator)] = 1.0
    return codes, labels[:items], wanted


def naive_weights(labels: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """p_i - n_j as (B, N), by the definition: one weight for each label set and bank item."""
    weights = torch.zeros(len(wanted), len(labels), dtype=torch.float64)
    for b, y in enumerate(wanted.double()):
        cosines = [float(y @ z / (y.norm() * z.norm())) if z.any() else 0.0 for z in labels.double()]
        irrelevant = sum(cosine == 0 for cosine in cosines)
        for i, cosine in enumerate(cosines):
            weights[b, i] = cosine / sum(cosines) if cosine else -1 / irrelevant
    return weights


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 5), st.integers(0, 9999))
def test_sums_by_label_set_equal_the_naive_formula(items, classes, seed):
    codes, labels, wanted = random_case(items, classes, 16, seed)
    scores = (naive_weights(labels, wanted)[:, :, None] * codes[None].double()).sum(1)  # B x N x K
    expected = torch.where(scores > -1e-9, 1, -1).to(torch.int8)
    assert torch.equal(mainstay_codes(CodeBank(codes, labels), wanted), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 25), st.integers(1, 5), st.integers(0, 9999))
def test_no_other_code_is_nearer_to_the_relevant_and_farther_from_the_irrelevant(items, classes, seed):
    codes, labels, wanted = random_case(items, classes, 8, seed)
    every_code = torch.tensor(list(product([-1, 1], repeat=8)), dtype=torch.int8)
    distances = (every_code[:, None, :] != codes[None]).sum(2).double()  # (256, N)
    objective = distances @ naive_weights(labels, wanted).T  # weighted mean distances, (256, B)
    found = mainstay_codes(CodeBank(codes, labels), wanted)
    rows = (every_code[:, None, :] == found[None]).all(2).int().argmax(0)
    assert torch.allclose(objective[rows, torch.arange(5)], objective.amin(0), atol=1e-9)


def test_a_code_worked_by_hand():
    codes = torch.tensor([[1, 1, -1, 1], [1, -1, -1, -1], [-1, 1, 1, -1], [1, 1, 1, -1]], dtype=torch.int8)
    labels = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]])
    # For {0}: cosines 1, 1/sqrt(2), 0, 0, so p = 0.586, 0.414; the last two share the irrelevant weight.
    # Bits: 1 - 0 = 1; 0.172 - 1 < 0; -1 - 1 < 0; 0.172 + 1 > 0.
    bank = CodeBank(codes, labels)
    assert mainstay_codes(bank, torch.tensor([[1, 0, 0]])).tolist() == [[1, -1, -1, 1]]
    assert label_cosine(torch.tensor([[1, 0, 0]]), labels)[0].tolist() == pytest.approx([1, 0.5**0.5, 0, 0])
    # Two shared labels, of two and of three; what a label weighs does not count.
    pair, trio = torch.tensor([[2, 1, 0]]), torch.tensor([[1, 1, 5]])
    assert label_cosine(pair, trio).item() == pytest.approx(2 / 6**0.5)


def test_terms_without_a_member_drop_out_and_ties_are_plus_one():
    codes = torch.tensor([[1, -1], [1, 1]], dtype=torch.int8)
    everything_relevant = CodeBank(codes, torch.tensor([[1, 0], [1, 0]]))
    assert mainstay_codes(everything_relevant, torch.tensor([[1, 0]])).tolist() == [[1, 1]]  # (1, 0): a tie
    assert mainstay_codes(everything_relevant, torch.tensor([[0, 1]])).tolist() == [[-1, 1]]  # minus (1, 0)


def test_the_code_follows_the_bank():
    bank = CodeBank(torch.ones(2, 8, dtype=torch.int8), torch.eye(2))
    bank.update_(torch.tensor([0, 1]), torch.tensor([[-1] * 8, [1] * 8], dtype=torch.int8))
    assert mainstay_codes(bank, torch.eye(2)).tolist() == [[-1] * 8, [1] * 8]


def test_rows_without_a_label_are_refused():
    labels = torch.tensor([[0, 1], [0, 0]])
    assert has_label(labels).tolist() == [True, False]
    bank = CodeBank(torch.ones(2, 8, dtype=torch.int8), torch.eye(2))
    with pytest.raises(ArgumentError, match="got a row without one, which has no mainstay code"):
        mainstay_codes(bank, labels)
    with pytest.raises(ArgumentError, match=r"C = 2 as in the bank; got \(1, 3\)"):
        mainstay_codes(bank, torch.ones(1, 3))
    assert mainstay_codes(bank, labels[:0]).shape == (0, 8)
