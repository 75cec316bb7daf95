"""The whole of `evaluate_retrieval` against naive lists, on multi-label sets full of ties."""

from itertools import permutations
from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import expected_average_precision, naive_average_precision, paper_average_precision

from saat.evaluation.metrics import evaluate_retrieval
from saat.hamming import sign_codes


@settings(max_examples=15)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 9999))
def test_map_and_its_relatives_equal_naive_means(items, k, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = sign_codes(torch.randn(3 + items, 3, generator=generator))
    labels = (torch.rand(3 + items, 4, generator=generator) < 0.4).float()
    labels[:3, 0] = 1.0
    metrics = evaluate_retrieval(codes[:3], labels[:3], codes[3:], labels[3:], k_paper=k)
    distances = (codes[:3, None, :] != codes[None, 3:]).sum(2).tolist()
    relevant = ((labels[:3, None, :] * labels[None, 3:]).sum(2) > 0).tolist()
    expected = [expected_average_precision(*query) for query in zip(distances, relevant, strict=True)]
    chance = [expected_average_precision([0] * items, hits) for hits in relevant]
    paper = [paper_average_precision(*query, k) for query in zip(distances, relevant, strict=True)]
    assert metrics.average_precision.tolist() == pytest.approx(expected, abs=1e-12)
    assert metrics.chance_average_precision.tolist() == pytest.approx(chance, abs=1e-12)
    assert metrics.map == pytest.approx(sum(expected) / 3, abs=1e-12)
    assert metrics.chance_map == pytest.approx(sum(chance) / 3, abs=1e-12)
    assert metrics.map_paper == pytest.approx(sum(paper) / 3, abs=1e-12)
    orders = [[naive_average_precision(order[:k]) for order in set(permutations(hits))] for hits in relevant]
    assert metrics.chance_map_paper == pytest.approx(fmean(map(fmean, orders)), abs=1e-12)
    assert metrics.relevant_share == pytest.approx(sum(map(sum, relevant)) / (3 * items))
