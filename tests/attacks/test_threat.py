import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saat.attacks.threat import ThreatModel
from saat.errors import ArgumentError

THREATS = [ThreatModel("linf", 8 / 255), ThreatModel("l2", 0.5), ThreatModel("linf", 1.0), ThreatModel("l2", 100.0)]


def pixels(seed: int, batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60)
@given(st.sampled_from(THREATS), st.integers(0, 10_000), st.floats(0, 10))
def test_projection_ends_inside_and_moves_nothing_that_is_inside(threat, seed, scale):
    clean = pixels(seed)
    far = clean + scale * (pixels(seed + 1) - 0.5)
    near = threat.project(far, clean)
    assert threat.violation(near, clean).tolist() == [0.0] * 3
    assert torch.allclose(threat.project(near, clean), near, atol=1e-6)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_random_starts_lie_inside_and_follow_the_seed(threat):
    clean = pixels(0, 50)
    starts = [threat.random_start(clean, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert not bool(threat.violation(starts[0], clean).any())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_random_starts_fill_the_ball():
    clean = torch.full((2000, 3, 4, 4), 0.5)
    generator = torch.Generator().manual_seed(0)
    linf = ThreatModel("linf", 0.1).random_start(clean, generator=generator) - clean
    assert linf.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert linf.var().item() == pytest.approx(0.2**2 / 12, rel=0.02)  # of a uniform draw over an interval of 0.2
    radii = ThreatModel("l2", 0.1).size(ThreatModel("l2", 0.1).random_start(clean, generator=generator), clean)
    assert radii.mean().item() == pytest.approx(0.05, rel=0.05)  # uniform in radius


def test_sizes_and_violations_worked_by_hand():
    clean = torch.full((1, 3, 2, 2), 0.5)
    moved = clean.clone()
    moved[0, 0, 0, 0] += 0.3
    moved[0, 1, 1, 1] -= 0.4
    assert ThreatModel("linf", 0.1).size(moved, clean).item() == pytest.approx(0.4)
    assert ThreatModel("l2", 0.1).size(moved, clean).item() == pytest.approx(0.5)  # 3, 4, 5
    assert ThreatModel("linf", 0.1).violation(moved, clean).item() == pytest.approx(0.3)
    assert ThreatModel("linf", 1.0).violation(clean + 0.75, clean).item() == pytest.approx(0.25)  # over the box
    assert ThreatModel("linf", 0.4).violation(moved, clean).item() == 0.0  # rounding is no violation


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_step_goes_down_and_has_its_length(norm):
    threat = ThreatModel(norm, 0.5)
    clean, gradient = pixels(0), pixels(1) + 0.1
    moved = threat.descend(clean, gradient, 0.25)
    assert threat.size(moved, clean).tolist() == pytest.approx([0.25] * 3, rel=1e-5)
    assert bool(((moved - clean) * gradient < 0).all())
    assert torch.equal(threat.descend(clean, torch.zeros_like(clean), 0.25), clean)


def test_errors_name_what_was_found():
    with pytest.raises(ArgumentError, match="`norm` is one of l2, linf; got 'l_inf'; did you mean 'linf'"):
        ThreatModel("l_inf", 0.1)
    with pytest.raises(ArgumentError, match=r"got 8\.0 \(did you mean 8/255\?\)"):
        ThreatModel("linf", 8.0)
    with pytest.raises(ArgumentError, match=r"got -0\.1$"):
        ThreatModel("linf", -0.1)
    assert ThreatModel("l2", 8.0).epsilon == 8.0  # a length, that may pass 1


@pytest.mark.parametrize("epsilon", [-1.0, float("nan"), float("inf")])
def test_an_l2_radius_is_finite_and_not_negative(epsilon: float) -> None:
    with pytest.raises(ArgumentError, match="`epsilon` is a finite l2 radius"):
        ThreatModel("l2", epsilon)


@pytest.mark.parametrize("epsilon", [1.0, 3.0, 12.0])
def test_large_images_stay_in_an_l2_ball_however_their_values_are_summed(epsilon: float) -> None:
    threat = ThreatModel("l2", epsilon)
    generator = torch.Generator().manual_seed(0)
    clean = 0.3 + 0.4 * torch.rand(4, 3, 224, 224, generator=generator)
    start = clean + 0.05 * torch.randn(clean.shape, generator=generator)
    for perturbed in (
        threat.project(start, clean),
        threat.project(start.contiguous(memory_format=torch.channels_last), clean),
    ):
        length = (perturbed.double() - clean.double()).flatten(1).norm(dim=1)
        torch.testing.assert_close(length, torch.full_like(length, epsilon), rtol=0.0, atol=1e-6 * epsilon)
        torch.testing.assert_close(threat.size(perturbed, clean).double(), length, rtol=1e-6, atol=0.0)
        assert not threat.violation(perturbed, clean).any()
    assert threat.violation(clean + 1.0001 * (perturbed - clean), clean).all()
