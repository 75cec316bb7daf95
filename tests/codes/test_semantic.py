from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saat.codes.bank import CodeBank
from saat.codes.semantic import (
    anchor_codes,
    center_codes,
    has_label,
    label_cosine,
    label_jaccard,
    mainstay_codes,
)
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


@settings(max_examples=40)
@given(st.integers(1, 25), st.integers(1, 5), st.integers(0, 9999))
def test_sums_by_label_set_equal_the_naive_formula(items, classes, seed):
    codes, labels, wanted = random_case(items, classes, 16, seed)
    scores = (naive_weights(labels, wanted)[:, :, None] * codes[None].double()).sum(1)  # B x N x K
    expected = torch.where(scores > -1e-9, 1, -1).to(torch.int8)
    assert torch.equal(mainstay_codes(CodeBank(codes, labels), wanted), expected)


@settings(max_examples=20)
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


def naive_center_scores(labels: torch.Tensor, wanted: torch.Tensor, codes: torch.Tensor, *, mean: bool) -> torch.Tensor:
    """The weighted sum of the relevant codes less the mean of the others, (B, K), by the definition, item by item."""
    scores = torch.zeros(len(wanted), codes.shape[1], dtype=torch.float64)
    for b, y in enumerate(wanted.bool()):
        shares = [float((y & z).sum()) / float((y | z).sum()) for z in labels.bool()]
        weights = [float(share > 0) if mean else share for share in shares]
        for share, weight, code in zip(shares, weights, codes.double(), strict=True):
            scores[b] += code * (weight / sum(weights) if share else -1 / shares.count(0.0))
    return scores


@pytest.mark.parametrize("weights", ["jaccard", "mean"])
@settings(max_examples=30)
@given(st.integers(1, 25), st.integers(1, 5), st.integers(0, 9999))
def test_center_codes_equal_the_naive_formula(weights, items, classes, seed):
    codes, labels, wanted = random_case(items, classes, 16, seed)
    scores = naive_center_scores(labels, wanted, codes, mean=weights == "mean")
    expected = torch.where(scores > -1e-9, 1, -1).to(torch.int8)
    assert torch.equal(center_codes(CodeBank(codes, labels), wanted, weights=weights), expected)


def test_center_codes_by_hand():
    codes = torch.tensor([[1, 1], [-1, 1], [-1, 1], [1, 1]], dtype=torch.int8)
    labels = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 1]])
    assert label_jaccard(torch.tensor([[1, 0, 0]]), labels)[0].tolist() == pytest.approx([1, 1 / 3, 1 / 3, 0])
    bank, wanted = CodeBank(codes, labels), torch.tensor([[1, 0, 0]])
    # Jaccard weights 0.6, 0.2, 0.2: bit 0 is 0.6 - 0.4 = 0.2, less the irrelevant 1; bit 1 is 1 - 1 = 0, a tie.
    assert center_codes(bank, wanted).tolist() == [[-1, 1]]
    alone = CodeBank(codes[:3], labels[:3])  # nothing irrelevant: 0.2 by Jaccard, (1 - 1 - 1) / 3 by mean
    assert center_codes(alone, wanted).tolist() == [[1, 1]]
    assert center_codes(alone, wanted, weights="mean").tolist() == [[-1, 1]]
    with pytest.raises(ArgumentError, match="`weights` is one of jaccard, mean; got 'cosine'"):
        center_codes(bank, wanted, weights="cosine")


def test_on_single_labels_mainstay_and_center_codes_agree():
    codes = sign_codes(torch.randn(40, 16, generator=torch.Generator().manual_seed(0)))
    bank = CodeBank(codes, torch.eye(4).repeat(10, 1))
    for weights in ("jaccard", "mean"):
        assert torch.equal(center_codes(bank, torch.eye(4), weights=weights), mainstay_codes(bank, torch.eye(4)))


def test_an_anchor_is_the_nearest_code_to_those_that_vote():
    codes = sign_codes(torch.randn(9, 8, generator=torch.Generator().manual_seed(0)))
    anchor = anchor_codes(CodeBank(codes, torch.ones(9, 1)), torch.ones(1, 1))
    every_code = torch.tensor(list(product([-1, 1], repeat=8)), dtype=torch.int8)
    distances = (every_code[:, None, :] != codes[None]).sum((1, 2))
    assert (anchor != codes).sum() == distances.min()


def test_anchors_by_hand():
    codes = torch.tensor([[1, 1, 1], [1, -1, 1], [-1, -1, -1], [1, 1, -1]], dtype=torch.int8)
    labels = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    bank = CodeBank(codes, labels)
    # {0} has two members with exactly these labels: (1, 0, 1), and the tie is +1; the item of {0, 1} does not vote.
    assert anchor_codes(bank, torch.tensor([[3, 0, 0]])).tolist() == [[1, 1, 1]]
    # {0, 1, 2} has no member; the most similar is {0, 1}, with cosine 2 / sqrt(6).
    assert anchor_codes(bank, torch.tensor([[1, 1, 1]])).tolist() == [[1, 1, -1]]
    with pytest.raises(ArgumentError, match="`members` is at least 1; got 0"):
        anchor_codes(bank, labels, members=0)
    with pytest.raises(ArgumentError, match="got a row without one"):
        anchor_codes(bank, torch.zeros(1, 3))
    assert anchor_codes(bank, labels[:0]).shape == (0, 3)


def test_the_draw_of_a_label_set_depends_on_the_seed_and_on_nothing_else():
    codes = sign_codes(torch.randn(60, 16, generator=torch.Generator().manual_seed(0)))
    bank = CodeBank(codes, torch.eye(3).repeat(20, 1))
    together = anchor_codes(bank, torch.eye(3)[[2, 0, 1, 0]], members=3)
    assert torch.equal(together[1], together[3])
    for row, wanted in enumerate(torch.eye(3)[[2, 0, 1, 0]]):
        assert torch.equal(anchor_codes(bank, wanted[None], members=3)[0], together[row])
    points = {tuple(anchor_codes(bank, torch.eye(3)[:1], members=1, seed=seed)[0].tolist()) for seed in range(8)}
    assert len(points) > 1
    assert points <= {tuple(code) for code in codes[::3].tolist()}  # one member is a code of the bank
