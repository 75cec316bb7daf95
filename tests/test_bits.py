import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saat.bits import pack_codes, packed_distances, unpack_codes
from saat.errors import ArgumentError
from saat.hamming import hamming_distances


def random_codes(rows: int, code_length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), size=(rows, code_length))


@given(st.integers(0, 6), st.sampled_from([8, 32, 48, 64, 128]), st.integers(0, 999))
def test_unpack_undoes_pack(rows, code_length, seed):
    codes = random_codes(rows, code_length, seed)
    packed = pack_codes(codes)
    assert packed.shape == (rows, code_length // 8)
    assert packed.dtype == np.uint8
    assert np.array_equal(unpack_codes(packed), codes)


def test_the_lowest_bit_comes_first():
    # The order of FAISS: bit k of a code is bit k % 8 of byte k // 8.
    codes = np.full((1, 16), -1, dtype=np.int8)
    codes[0, [1, 8]] = 1
    assert pack_codes(codes).tolist() == [[2, 1]]


@pytest.mark.parametrize("block_bytes", [1, 40, 1 << 25])
def test_distances_equal_those_of_the_unpacked_codes(block_bytes, monkeypatch):
    monkeypatch.setattr("saat.bits._BLOCK_BYTES", block_bytes)
    a, b = random_codes(7, 48, 0), random_codes(5, 48, 1)
    expected = hamming_distances(torch.from_numpy(a), torch.from_numpy(b))
    assert np.array_equal(packed_distances(pack_codes(a), pack_codes(b)), expected.numpy())


def test_errors_name_what_was_found():
    codes = random_codes(2, 16, 0)
    with pytest.raises(TypeError, match="`codes` is int8; got int64"):
        pack_codes(codes.astype(np.int64))
    with pytest.raises(TypeError, match="`codes` is a numpy array of int8; got list"):
        pack_codes(codes.tolist())
    with pytest.raises(ArgumentError, match="multiple of 8; got 12"):
        pack_codes(codes[:, :12])
    with pytest.raises(ArgumentError, match="only -1 and \\+1; got 0"):
        pack_codes(np.zeros((1, 8), dtype=np.int8))
    with pytest.raises(TypeError, match="`packed` is uint8; got int8"):
        unpack_codes(codes)
    with pytest.raises(ArgumentError, match=r"two dimensions; got shape \(2,\)"):
        unpack_codes(pack_codes(codes)[0])
    with pytest.raises(ArgumentError, match="same width; got 2 and 1 bytes"):
        packed_distances(pack_codes(codes), pack_codes(codes[:, :8]))


def test_importing_bits_needs_no_torch():
    code = "import sys, saat.bits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
