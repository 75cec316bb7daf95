import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saat.codes.bank import CodeBank
from saat.errors import ArgumentError
from saat.hamming import sign_codes


def random_codes(rows: int, seed: int, code_length: int = 16) -> torch.Tensor:
    return sign_codes(torch.randn(rows, code_length, generator=torch.Generator().manual_seed(seed)))


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 9999))
def test_sums_after_updates_are_those_of_a_new_bank(items, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(items, classes, generator=generator) < 0.4).float()
    bank = CodeBank(random_codes(items, seed), labels)
    for step in range(3):
        rows = torch.randperm(items, generator=generator)[: 1 + items // 2]
        bank.update_(rows, random_codes(len(rows), seed + step + 1))
    rebuilt = CodeBank(bank.codes, labels)
    assert torch.equal(bank.set_sums, rebuilt.set_sums)
    assert torch.equal(bank.set_labels, rebuilt.set_labels)
    assert torch.equal(bank.set_counts, rebuilt.set_counts)


def test_the_sums_of_each_distinct_label_set():
    codes = torch.tensor([[1] * 8, [-1] * 8, [1] * 8, [1] * 8], dtype=torch.int8)
    bank = CodeBank(codes, torch.tensor([[1, 0], [1, 1], [1, 0], [1, 1]]))
    assert bank.set_labels.tolist() == [[1, 0], [1, 1]]
    assert bank.set_counts.tolist() == [2, 2]
    assert bank.set_sums.tolist() == [[2] * 8, [0] * 8]


def test_the_bank_owns_its_codes():
    codes = random_codes(4, 0)
    kept = codes.clone()
    bank = CodeBank(codes, torch.eye(4))
    bank.update_(torch.tensor([2]), -codes[2:3])
    assert torch.equal(codes, kept)
    assert torch.equal(bank.codes[2], -kept[2])


def test_length_and_the_set_of_each_item():
    bank = CodeBank(random_codes(4, 0), torch.tensor([[0, 1], [1, 0], [0, 1], [1, 1]]))
    assert (len(bank), bank.code_length) == (4, 16)
    assert torch.equal(bank.set_labels[bank.set_of].long(), bank.labels)


def test_errors_name_what_was_found():
    codes = random_codes(4, 0)
    for wrong, found in ((codes.float(), "torch.float32"), (codes[0], r"torch.int8 \(16,\)"), (codes * 0, "int8")):
        with pytest.raises(ArgumentError, match=rf"`codes` is int8 \(N, K\).*got .*{found}"):
            CodeBank(wrong, torch.eye(4))
    with pytest.raises(ArgumentError, match=r"`labels` is \(N, C\) with N = 4 as in `codes`; got \(3, 3\)"):
        CodeBank(codes, torch.eye(3))
