import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saat.errors import ArgumentError
from saat.hamming import hamming_distances, relaxed_codes, sign_codes


def random_codes(rows: int, code_length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sign_codes(torch.randn(rows, code_length, generator=generator))


def test_sign_of_zero_is_plus_one():
    codes = sign_codes(torch.tensor([[0.0, -0.0, 1e-30, -1e-30]]))
    assert codes.tolist() == [[1, 1, 1, -1]]
    assert codes.dtype == torch.int8


@given(st.integers(0, 5), st.integers(1, 9), st.sampled_from([8, 48, 64, 256, 1024]), st.integers(0, 999))
def test_distances_count_differing_bits(rows, items, code_length, seed):
    a, b = random_codes(rows, code_length, seed), random_codes(items, code_length, seed + 1)
    naive = (a[:, None, :] != b[None, :, :]).sum(dim=2)
    distances = hamming_distances(a, b)
    assert distances.dtype == torch.int16
    assert torch.equal(distances.long(), naive)


def test_distance_to_the_opposite_code_is_the_code_length():
    codes = random_codes(1, 48, 0)
    assert hamming_distances(codes, -codes).item() == 48


def test_relaxed_codes_come_near_to_the_signs():
    logits = torch.tensor([[0.5, -0.5]])
    assert relaxed_codes(logits)[0].tolist() == pytest.approx([0.46211716, -0.46211716])
    assert torch.equal(relaxed_codes(logits, sharpness=100.0), torch.tensor([[1.0, -1.0]]))


def test_errors_name_what_was_found():
    codes = random_codes(2, 16, 0)
    with pytest.raises(TypeError, match=r"`codes_a` is int8.*got torch\.float32"):
        hamming_distances(codes.float(), codes)
    with pytest.raises(ArgumentError, match=r"`codes_b` has shape.*got \(16,\)"):
        hamming_distances(codes, codes[0])
    with pytest.raises(ArgumentError, match="same code length; got 16 and 8"):
        hamming_distances(codes, codes[:, :8])
    with pytest.raises(ArgumentError, match="at most 32767; got 40000"):
        hamming_distances(codes.repeat(1, 2500), codes.repeat(1, 2500))
