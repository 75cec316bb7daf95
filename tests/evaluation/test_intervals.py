import pytest
import torch

from saat.errors import ArgumentError
from saat.evaluation import intervals
from saat.evaluation.intervals import bootstrap_interval


def normal(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_large_sample_gives_the_normal_interval():
    values = normal(1000, 0)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std().item() / 1000**0.5
    assert low == pytest.approx(values.mean().item() - half, abs=0.006)
    assert high == pytest.approx(values.mean().item() + half, abs=0.006)


def test_nineteen_of_twenty_intervals_hold_the_mean():
    ends = [bootstrap_interval(normal(100, seed), seed=seed, resamples=300) for seed in range(200)]
    held = sum(low <= 0.0 <= high for low, high in ends)
    assert 178 <= held <= 199  # 190 less or more four standard errors, where 100 values fall short by one in a hundred


def test_a_seed_gives_the_same_interval_in_any_blocks(monkeypatch):
    values = normal(50, 1)
    once = bootstrap_interval(values, seed=3)
    assert once == bootstrap_interval(values.clone(), seed=3) != bootstrap_interval(values, seed=4)
    monkeypatch.setattr(intervals, "_BLOCK_DRAWS", 700)
    assert once == pytest.approx(bootstrap_interval(values, seed=3), abs=1e-12)


def test_quantiles_of_two_values_by_hand():
    # Means are 0, 1/2 and 1 with odds 1 : 2 : 1, so both tails of 2.5 % lie on the ends.
    assert bootstrap_interval(torch.tensor([0.0, 1.0])) == (0.0, 1.0)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ArgumentError, match=r"`values` has shape \(Q,\), with one value at least; got \(0,\)"):
        bootstrap_interval(torch.zeros(0))
    with pytest.raises(ArgumentError, match="`resamples` is at least 1; got 0"):
        bootstrap_interval(torch.zeros(2), resamples=0)
