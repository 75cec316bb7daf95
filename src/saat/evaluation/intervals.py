"""How far means over queries can be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from saat.errors import ArgumentError, check_at_least
from saat.runtime import make_generator

LEVEL = 0.95
_BLOCK_DRAWS = 1 << 19  # drawn queries held at once: some 16 MB with their counts


def bootstrap_intervals(values: Tensor, *, seed: int = 0, resamples: int = 2000) -> list[tuple[float, float]]:
    """Return the 95 % percentile bootstrap intervals of the means of several numbers of the same queries.

    B. Efron, "Bootstrap Methods: Another Look at the Jackknife", The Annals of Statistics, 1979. The queries are drawn
    again with replacement, so many times; an interval spans the 2.5th to the 97.5th percentile of the means. What is
    drawn depends on `seed` and Q alone: all numbers, and those of another measurement of as many queries, are means
    over the same draws.

    Args:
        values: float (Q, M), a row a query.
        seed: of the draws.
        resamples: how many times.

    Returns:
        M pairs of ends, the lower first. Where all queries have one value, both ends are that value.

    Raises:
        ArgumentError: there is no row, or `resamples` is below 1.

    The mean of two draws from 0 and 1 is 0 or 1 in a quarter of the cases each, so the tails of 2.5 % end there.

    >>> bootstrap_intervals(torch.tensor([[0.0, 0.1], [1.0, 0.1]], dtype=torch.float64))
    [(0.0, 1.0), (0.1, 0.1)]
    """
    if values.ndim != 2 or not len(values):
        raise ArgumentError(f"`values` has shape (Q, M), with one query at least; got {tuple(values.shape)}")
    check_at_least("resamples", resamples, 1)
    queries, values = len(values), values.detach().cpu().double()
    above_first = values - values[0]  # zero where all are equal, and sums of zeros are exact: an interval of no width
    generator = make_generator(seed, "bootstrap")
    rows = max(1, _BLOCK_DRAWS // queries)
    means = []
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = torch.randint(queries, (block, queries), generator=generator)
        drawn += queries * torch.arange(block)[:, None]
        times = torch.bincount(drawn.flatten(), minlength=block * queries).view(block, queries)
        means.append(times.double() @ above_first / queries)
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = (torch.quantile(torch.cat(means), tails, dim=0) + values[0]).tolist()
    return list(zip(low, high, strict=True))
