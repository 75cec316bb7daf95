"""Codes as packed bytes in numpy: 8 bits a byte, bit 1 means +1, the lowest bit first (the order of FAISS)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saat.errors import ArgumentError, check_code_length

_BLOCK_BYTES = 1 << 25  # room for one block of exclusive-or results


def pack_codes(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack codes to bits.

    Args:
        codes: int8 (N, K) in {-1, +1}, K a multiple of 8.

    Returns:
        uint8 (N, K/8).

    Raises:
        TypeError: `codes` is not an int8 array.
        ArgumentError: `codes` is not (N, K), K is no multiple of 8, or a value is neither -1 nor +1.

    >>> pack_codes(np.array([[1, -1, -1, -1, -1, -1, -1, 1]], dtype=np.int8)).tolist()
    [[129]]
    """
    _check_matrix("codes", codes, np.int8)
    check_code_length(codes.shape[1])
    odd = codes[np.abs(codes) != 1]
    if odd.size:
        raise ArgumentError(f"`codes` holds only -1 and +1; got {odd[0]}")
    return np.packbits(codes > 0, axis=1, bitorder="little")


def unpack_codes(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return the codes that `pack_codes` packed.

    Args:
        packed: uint8 (N, K/8).

    Returns:
        int8 (N, K) in {-1, +1}.

    Raises:
        TypeError: `packed` is not a uint8 array.
        ArgumentError: `packed` is not (N, K/8).

    >>> unpack_codes(np.array([[129]], dtype=np.uint8)).tolist()
    [[1, -1, -1, -1, -1, -1, -1, 1]]
    """
    _check_matrix("packed", packed, np.uint8)
    bits = np.unpackbits(packed, axis=1, bitorder="little").astype(np.int8)
    return np.asarray(2 * bits - 1, dtype=np.int8)


def packed_distances(packed_a: NDArray[np.uint8], packed_b: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the Hamming distance between each two rows: the set bits of their exclusive or.

    Args:
        packed_a: uint8 (B, K/8).
        packed_b: uint8 (N, K/8).

    Returns:
        int32 (B, N) in [0, K].

    Raises:
        TypeError: an argument is not a uint8 array.
        ArgumentError: an argument is not a matrix, or their widths differ.

    >>> a, b = np.array([[129]], dtype=np.uint8), np.array([[129], [0], [126]], dtype=np.uint8)
    >>> packed_distances(a, b).tolist()
    [[0, 2, 8]]
    """
    _check_matrix("packed_a", packed_a, np.uint8)
    _check_matrix("packed_b", packed_b, np.uint8)
    width = packed_a.shape[1]
    if packed_b.shape[1] != width:
        raise ArgumentError(f"`packed_a` and `packed_b` have the same width; got {width} and {packed_b.shape[1]} bytes")
    distances = np.empty((len(packed_a), len(packed_b)), dtype=np.int32)
    rows = max(1, _BLOCK_BYTES // max(1, packed_b.size))
    for start in range(0, len(packed_a), rows):
        block = packed_a[start : start + rows, None, :] ^ packed_b[None, :, :]
        distances[start : start + rows] = np.bitwise_count(block).sum(axis=2, dtype=np.int32)
    return distances


def _check_matrix(name: str, array: NDArray[np.generic], dtype: type[np.generic]) -> None:
    """Raise unless `array` is a two-dimensional numpy array of `dtype`; errors call it `name`.

    Raises:
        TypeError: it is no array, or of another dtype.
        ArgumentError: it has another number of dimensions.
    """
    check_array(name, array, dtype)
    if array.ndim != 2:
        raise ArgumentError(f"`{name}` has two dimensions; got shape {array.shape}")


def check_array(name: str, array: object, dtype: type[np.generic]) -> None:
    """Raise `TypeError` unless `array` is a numpy array of `dtype`; errors call it `name`."""
    wanted = np.dtype(dtype)
    if not isinstance(array, np.ndarray):
        raise TypeError(f"`{name}` is a numpy array of {wanted}; got {type(array).__name__}")
    if array.dtype != wanted:
        raise TypeError(f"`{name}` is {wanted}; got {array.dtype}")
