"""What codes are like by themselves: how many differ, how far, and how evenly their bits are used."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from saat.hamming import check_codes


def count_distinct(codes: Tensor) -> int:
    """Return how many different codes a set has.

    Args:
        codes: int8 (N, K) in {-1, +1}.

    >>> count_distinct(torch.tensor([[1, -1], [1, 1], [1, -1]], dtype=torch.int8))
    2
    """
    check_codes("codes", codes)
    return len(np.unique(np.packbits(codes.cpu().numpy() > 0, axis=1), axis=0))


def bit_entropies(codes: Tensor) -> Tensor:
    """Return the entropy of each bit over a set of codes: 1 when it is +1 half the time, 0 when it never moves.

    Args:
        codes: int8 (N, K) in {-1, +1}.

    Returns:
        float64 (K,) in [0, 1].

    >>> bit_entropies(torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)).tolist()
    [0.0, 1.0]
    """
    check_codes("codes", codes)
    share = (codes > 0).double().mean(0)
    entropy: Tensor = torch.special.entr(share) + torch.special.entr(1 - share)
    return entropy / math.log(2)


def chance_bit_flip_rate(codes: Tensor) -> float:
    """Return the mean share of bits in which the codes of two different queries differ, over all pairs of queries.

    It is what becomes of the bit-flip rate if each query gets the code of another one, drawn at random.

    Args:
        codes: int8 (Q, K) in {-1, +1}.

    Returns:
        0 to 1: near 0.5 where bits are independent and even, 0 of a constant code or a single query.

    Raises:
        TypeError: codes are not int8.

    >>> chance_bit_flip_rate(torch.tensor([[1, 1], [1, -1], [1, -1], [1, -1]], dtype=torch.int8))  # 3 of 6 pairs
    0.25
    """
    check_codes("codes", codes)
    queries, positive = len(codes), (codes > 0).sum(0).double()
    differing = positive * (queries - positive)  # pairs of queries, for each bit
    return differing.mean().item() / max(1.0, queries * (queries - 1) / 2)
