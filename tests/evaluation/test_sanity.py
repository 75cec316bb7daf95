from dataclasses import replace

import pytest
import torch

from saat.evaluation import sanity
from saat.evaluation.metrics import RetrievalMetrics, evaluate_retrieval
from saat.hamming import sign_codes


def measured(noise: float, *, classes: int = 4, rows: int = 400, constant: bool = False) -> RetrievalMetrics:
    """Measure noisy class codes: noise 0 is perfect search, large noise is chance."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(classes, 32, generator=generator)
    labels = torch.arange(rows) % classes
    codes = sign_codes(centers[labels] + noise * torch.randn(rows, 32, generator=generator))
    if constant:
        codes = torch.ones_like(codes)
    multi_hot = torch.nn.functional.one_hot(labels, classes).to(torch.uint8)
    return evaluate_retrieval(codes[:100], multi_hot[:100], codes[100:], multi_hot[100:])


CALM = torch.linspace(-5, 5, 64).reshape(2, 32)


def names(flags: list[sanity.Flag]) -> list[str]:
    return [flag.name for flag in flags]


def test_a_sound_measurement_raises_no_flag():
    assert sanity.find_flags(measured(0.5), measured(2.0), logits=CALM, overlap=0) == []
    assert sanity.find_flags(measured(0.5), None, logits=CALM, overlap=0) == []


def test_one_code_a_class_is_not_a_collapse():
    metrics = measured(0.0, classes=4)
    assert metrics.distinct_codes == 4
    assert sanity.collapsed_codes(metrics) is None


def test_a_constant_code_is_collapsed_and_at_chance():
    constant = measured(0.5, constant=True)
    assert names(sanity.find_flags(constant, constant, logits=CALM, overlap=0)) == [
        "collapsed-codes",
        "clean-at-chance",
    ]


@pytest.mark.parametrize("change", [{"distinct_codes": 1}, {"bit_entropy": 0.01}])
def test_few_codes_or_dead_bits_are_a_collapse(change: dict[str, float]):
    flag = sanity.collapsed_codes(replace(measured(0.5), **change))
    assert flag is not None
    assert flag.name == "collapsed-codes"


def test_fewer_codes_than_half_the_classes_are_a_collapse():
    metrics = measured(0.5, classes=20)
    assert sanity.collapsed_codes(replace(metrics, distinct_codes=10)) is None
    flag = sanity.collapsed_codes(replace(metrics, distinct_codes=9))
    assert flag is not None
    assert "9 distinct" in flag.message


def test_random_codes_are_at_chance():
    flag = sanity.clean_at_chance(measured(1e6))
    assert flag is not None
    assert "chance 0.2" in flag.message


def test_a_lead_is_judged_query_by_query():
    metrics = measured(0.5)
    chance = torch.linspace(0.05, 0.95, 100, dtype=torch.float64)  # differs widely between queries
    assert (
        sanity.clean_at_chance(replace(metrics, chance_average_precision=chance, average_precision=chance + 0.01))
        is None
    )
    noise = 0.5 * (-1.0) ** torch.arange(100)
    leads = replace(metrics, chance_average_precision=chance, average_precision=chance + 0.01 + noise)
    assert sanity.clean_at_chance(leads) is not None


def test_an_attack_that_helps_is_flagged():
    assert names(sanity.find_flags(measured(2.0), measured(0.5), logits=CALM, overlap=0)) == ["attacked-above-clean"]
    assert sanity.attacked_above_clean(measured(2.0), measured(2.0)) is None


def test_logits_are_saturated_when_over_half_lie_beyond_the_flat_end_of_tanh():
    half = torch.tensor([[20.0, -20.0, 1.0, 9.5]])
    assert sanity.saturated_logits(half) is None
    flag = sanity.saturated_logits(torch.tensor([[20.0, -20.0, 9.6, 1.0]]))
    assert flag is not None
    assert flag.name == "saturated-logits"
    assert "75%" in flag.message


def test_overlap_is_flagged_with_its_number():
    flag = sanity.overlapping_splits(3)
    assert flag is not None
    assert "3 queries" in flag.message
    assert sanity.overlapping_splits(0) is None
