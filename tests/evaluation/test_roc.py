"""Areas and curves against counting pairs, and a chart that names its parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saat.errors import ArgumentError
from saat.evaluation.roc import GRID, area_under_curve, detection_rates, roc_chart

SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=12)


@given(SCORES, SCORES)
def test_the_area_counts_pairs(clean: list[int], attacked: list[int]) -> None:
    pairs = [(b > a) + 0.5 * (b == a) for a in clean for b in attacked]
    found = area_under_curve(torch.tensor(clean).float(), torch.tensor(attacked).float())
    assert found == pytest.approx(sum(pairs) / len(pairs))


@given(SCORES, SCORES)
def test_a_curve_keeps_its_false_alarms_and_rises(clean: list[int], attacked: list[int]) -> None:
    rates = detection_rates(torch.tensor(clean).float(), torch.tensor(attacked).float())
    assert rates == sorted(rates)
    assert rates[-1] == 1.0
    for rate, found in zip(GRID, rates, strict=True):
        allowed = [
            threshold
            for threshold in (*clean, -1)
            if sum(score > threshold for score in clean) <= rate * len(clean) + 1e-9
        ]
        assert found == pytest.approx(sum(score > min(allowed) for score in attacked) / len(attacked))


def test_perfect_and_useless_scores() -> None:
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([0.8, 0.9])
    assert (area_under_curve(low, high), area_under_curve(high, low), area_under_curve(low, low)) == (1.0, 0.0, 0.5)
    assert detection_rates(low, high, [0.0]) == [1.0]
    assert detection_rates(high, low, [0.0, 0.5, 1.0]) == [0.0, 0.0, 1.0]


def test_the_chart_names_its_parts() -> None:
    chart = roc_chart({"standard": GRID, "adaptive": [0.0] * len(GRID)})
    assert "<svg" in chart
    for part in ("standard", "adaptive", "chance", "false-alarm rate", "detection rate"):
        assert f">{part}<" in chart


def test_no_score_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"one at least in each; got \(0,\) and \(1,\)"):
        area_under_curve(torch.zeros(0), torch.zeros(1))
    with pytest.raises(ArgumentError, match="one at least in each"):
        detection_rates(torch.zeros(1), torch.zeros(1, 1))
