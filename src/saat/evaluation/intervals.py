"""How far a mean over queries can be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from saat.errors import ArgumentError, check_at_least
from saat.runtime import make_generator

LEVEL = 0.95
_BLOCK_DRAWS = 1 << 20  # drawn values held at once: some 16 MB


def bootstrap_interval(values: Tensor, *, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of some values.

    B. Efron, "Bootstrap Methods: Another Look at the Jackknife", The Annals of Statistics, 1979. The queries are drawn
    again with replacement, so many times; the interval spans the 2.5th to the 97.5th percentile of the means.

    Args:
        values: float (Q,), one a query.
        seed: of the draws.
        resamples: how many times.

    Returns:
        The two ends, the lower first.

    Raises:
        ArgumentError: there is no value, or `resamples` is below 1.

    >>> bootstrap_interval(torch.full((7,), 0.25))
    (0.25, 0.25)
    """
    if values.ndim != 1 or not len(values):
        raise ArgumentError(f"`values` has shape (Q,), with one value at least; got {tuple(values.shape)}")
    check_at_least("resamples", resamples, 1)
    values = values.detach().cpu().double()
    generator = make_generator(seed, "bootstrap")
    rows = max(1, _BLOCK_DRAWS // len(values))
    means = [
        values[torch.randint(len(values), (min(rows, resamples - start), len(values)), generator=generator)].mean(1)
        for start in range(0, resamples, rows)
    ]
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.cat(means), tails).tolist()
    return low, high
