import pytest
import torch

from saat.errors import ArgumentError
from saat.evaluation import intervals
from saat.evaluation.intervals import bootstrap_intervals


def normal(rows: int, seed: int, columns: int = 1) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_large_sample_gives_the_normal_interval():
    values = normal(1000, 0)
    [(low, high)] = bootstrap_intervals(values)
    half = 1.96 * values.std().item() / 1000**0.5
    assert low == pytest.approx(values.mean().item() - half, abs=0.006)
    assert high == pytest.approx(values.mean().item() + half, abs=0.006)


def test_nineteen_of_twenty_intervals_hold_the_mean():
    ends = [bootstrap_intervals(normal(100, seed), seed=seed, resamples=300)[0] for seed in range(200)]
    held = sum(low <= 0.0 <= high for low, high in ends)
    assert 178 <= held <= 199  # 190 less or more four standard errors, where 100 values fall short by one in a hundred


def test_a_seed_gives_the_same_intervals_in_any_blocks(monkeypatch):
    values = normal(50, 1, columns=3)
    once = bootstrap_intervals(values, seed=3)
    assert once == bootstrap_intervals(values.clone(), seed=3) != bootstrap_intervals(values, seed=4)
    monkeypatch.setattr(intervals, "_BLOCK_DRAWS", 700)
    again = bootstrap_intervals(values, seed=3)
    assert torch.tensor(again).numpy() == pytest.approx(torch.tensor(once).numpy(), abs=1e-12)


def test_quantiles_by_hand():
    # A mean of two draws from 0 and 1 is 0, 1/2 or 1 with odds 1 : 2 : 1, so both tails of 2.5 % lie on the ends.
    assert bootstrap_intervals(torch.tensor([[0.0], [1.0]])) == [(0.0, 1.0)]
    # A mean of four draws from 0, 0, 0 and 1 is 0 in 32 % of the cases, 3/4 or more in 5.1 %, and 1 in 0.4 %.
    assert bootstrap_intervals(torch.tensor([[0.0], [0.0], [1.0], [0.0]])) == [(0.0, 0.75)]


def test_all_numbers_of_a_query_are_drawn_together():
    first, second = normal(60, 5, columns=2).unbind(1)
    rest = 1.0 - first
    alone, *together = bootstrap_intervals(torch.stack([first, second, rest, first + second + rest], dim=1))
    assert bootstrap_intervals(first[:, None])[0] == pytest.approx(alone, abs=1e-12)
    assert together[1] == pytest.approx((1 - alone[1], 1 - alone[0]), abs=1e-12)
    assert together[2] == pytest.approx((1 + together[0][0], 1 + together[0][1]), abs=1e-12)


def test_equal_values_have_an_interval_of_no_width():
    third = 1 / 3
    assert bootstrap_intervals(torch.full((11, 2), third, dtype=torch.float64)) == [(third, third)] * 2
    assert bootstrap_intervals(torch.full((1, 1), third, dtype=torch.float64)) == [(third, third)]


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ArgumentError, match=r"`values` has shape \(Q, M\), with one query at least; got \(0, 3\)"):
        bootstrap_intervals(torch.zeros(0, 3))
    with pytest.raises(ArgumentError, match=r"`values` has shape \(Q, M\), with one query at least; got \(3,\)"):
        bootstrap_intervals(torch.zeros(3))
    with pytest.raises(ArgumentError, match="`resamples` is at least 1; got 0"):
        bootstrap_intervals(torch.zeros(2, 1), resamples=0)
