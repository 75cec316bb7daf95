import pytest
import torch
from torch import Tensor, nn

from saat.attacks.descent import GradientDescent
from saat.attacks.threat import ThreatModel
from saat.errors import ArgumentError

WIDE = ThreatModel("linf", 0.25)
CLEAN = torch.full((1, 3, 1, 1), 0.5)


def three_pixels() -> nn.Module:
    """Three logits, the values of the three pixels."""
    return nn.Flatten()


def turning(logits: Tensor) -> Tensor:
    """Gradient (3, 4, 0) where the first pixel is above 0.495, and (-1, 0, 0) elsewhere."""
    high = (logits[:, 0].detach() > 0.495).float()
    return high * (3 * logits[:, 0] + 4 * logits[:, 1]) - (1 - high) * logits[:, 0]


def test_two_steps_with_momentum_by_hand():
    """v = (3, 4, 0), the step -0.01 v; then v = 0.5 (3, 4, 0) + (-1, 0, 0) = (0.5, 2, 0)."""
    for steps, expected in ((1, [0.47, 0.46, 0.5]), (2, [0.465, 0.44, 0.5])):
        attack = GradientDescent(WIDE, steps=steps, step_size=0.01, momentum=0.5, keep_best=False)
        assert attack(three_pixels(), CLEAN, turning).flatten().tolist() == pytest.approx(expected)


def test_two_steps_of_one_length_by_hand():
    """The gradient (3, 4, 0) has the length 5: a step of 0.1 * (0.6, 0.8, 0); then one of 0.1 * (-1, 0, 0)."""
    for steps, expected in ((1, [0.44, 0.42, 0.5]), (2, [0.54, 0.42, 0.5])):
        attack = GradientDescent(WIDE, steps=steps, step_size=0.1, unit=True, keep_best=False)
        assert attack(three_pixels(), CLEAN, turning).flatten().tolist() == pytest.approx(expected)


def test_each_image_has_a_length_of_its_own_and_none_stays_none():
    scales = torch.tensor([[3.0, 4.0, 0.0], [0.0, -1e-3, 0.0], [0.0, 0.0, 0.0]])
    attack = GradientDescent(WIDE, steps=1, step_size=0.1, unit=True, keep_best=False)
    found = attack(three_pixels(), CLEAN.repeat(3, 1, 1, 1), lambda logits: (scales * logits).sum(1))
    expected = torch.tensor([[0.44, 0.42, 0.5], [0.5, 0.6, 0.5], [0.5, 0.5, 0.5]])
    assert torch.allclose(found.flatten(1), expected)


def test_a_bound_holds_a_pixel_back_and_not_its_momentum():
    """At the edge, 0.25, the gradient turns from 1 to -0.5: v = 0.9 - 0.5 still points out, then 0.36 - 0.5 in."""
    objective = lambda logits: (torch.where(logits.detach() > 0.3, 1.0, -0.5) * logits)[:, 0]  # noqa: E731
    for steps, expected in ((1, 0.25), (2, 0.25), (3, 0.25 + 0.8 * 0.14)):
        attack = GradientDescent(WIDE, steps=steps, step_size=0.8, momentum=0.9, keep_best=False)
        assert attack(three_pixels(), CLEAN, objective).flatten().tolist() == pytest.approx([expected, 0.5, 0.5])


def test_without_a_bound_it_is_the_sgd_of_torch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16))
    clean = 0.4 + 0.2 * torch.rand(4, 3, 4, 4)
    objective = lambda logits: logits.tanh().mean(1)  # noqa: E731
    pixels = clean.clone().requires_grad_()
    optimizer = torch.optim.SGD([pixels], lr=0.1, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        objective(model(pixels)).sum().backward()
        optimizer.step()
    pixels = pixels.detach()
    assert 0 < float(pixels.min()) < float(pixels.max()) < 1  # the box bounds nothing here
    attack = GradientDescent(ThreatModel("linf", 1.0), steps=10, step_size=0.1, momentum=0.9, keep_best=False)
    found = attack(model, clean, objective)
    assert torch.allclose(found, pixels, atol=1e-6)
    assert float((found - clean).abs().max()) > 0.05


def test_sharpness_follows_the_steps():
    """Two steps of four at a slope of 1, then two at 3: with the logits themselves as objective, 1 + 1 + 3 + 3."""
    attack = GradientDescent(WIDE, steps=4, step_size=0.01, sharpness=(1.0, 3.0), keep_best=False)
    found = attack(three_pixels(), CLEAN, lambda logits: logits[:, 0])
    assert found.flatten().tolist() == pytest.approx([0.42, 0.5, 0.5])


def test_bad_options_are_named():
    with pytest.raises(ArgumentError, match="`steps` is at least 1; got 0"):
        GradientDescent(WIDE, steps=0, step_size=1.0)
    with pytest.raises(ArgumentError, match=r"`step_size` is at least 0\.0; got -1"):
        GradientDescent(WIDE, step_size=-1.0)
    with pytest.raises(ArgumentError, match=r"`momentum` lies in \[0, 1\), 1 excluded; got 1\.0"):
        GradientDescent(WIDE, step_size=1.0, momentum=1.0)
    with pytest.raises(ArgumentError, match="`sharpness` has at least one slope; got none"):
        GradientDescent(WIDE, step_size=1.0, sharpness=())
