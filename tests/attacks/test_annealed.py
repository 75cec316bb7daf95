import pytest
import torch
from torch import Tensor, nn

from saat.attacks.annealed import AnnealedPGD, step_shares
from saat.attacks.threat import ThreatModel
from saat.errors import ArgumentError


def first_pixel() -> nn.Module:
    """One logit: the value of the first of three pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 0.0, 0.0]])
    return model


def test_steps_fall_by_one_factor_to_a_32nd():
    shares = torch.tensor(step_shares(100))
    assert shares[[0, -1]].tolist() == pytest.approx([1.0, 1 / 32])
    assert (shares[1:] / shares[:-1]).tolist() == pytest.approx([32 ** (-1 / 99)] * 99)
    assert step_shares(1) == [1.0]


def test_a_search_by_hand():
    """|x - 0.4| within 0.25 of 0.5, from 0.75: the gradient is 1 above 0.4 and -1 below, divided by a mean of 1/3.

    1: velocity 3; a step of 1/4 to 0.5.
    2: 0.75 * 3 + 3 = 5.25; a step of 1/8 to 0.375, the best.
    3: 0.75 * 5.25 - 3 = 0.9375: momentum goes on against the gradient, by 1/16 to 0.3125.
    4: 0.75 * 0.9375 - 3 < 0: back by 1/32 to 0.34375; then by 1/64 and 1/128.
    """
    seen = []

    def objective(logits: Tensor) -> Tensor:
        seen.append(logits.item())
        return (logits - 0.4).abs()[:, 0]

    clean = torch.full((1, 3, 1, 1), 0.5)
    start = torch.tensor([0.75, 0.5, 0.5]).view(1, 3, 1, 1)
    found = AnnealedPGD(ThreatModel("linf", 0.25), steps=6, start=start)(first_pixel(), clean, objective)
    assert seen == pytest.approx([0.5, 0.75, 0.5, 0.375, 0.3125, 0.34375, 0.359375, 0.3671875])
    assert found.flatten().tolist() == pytest.approx([0.375, 0.5, 0.5])


def test_without_a_start_it_begins_at_the_clean_image_and_looks_at_it_once():
    seen = []

    def objective(logits: Tensor) -> Tensor:
        seen.append(logits.item())
        return logits[:, 0]

    attack = AnnealedPGD(ThreatModel("linf", 0.25), steps=1)
    found = attack(first_pixel(), torch.full((1, 3, 1, 1), 0.5), objective)
    assert seen == pytest.approx([0.5, 0.25])
    assert found.flatten().tolist() == pytest.approx([0.25, 0.5, 0.5])
    assert (attack.cost.model_evaluations, attack.cost.gradients) == (2, 1)


def test_l2_steps_have_the_length_of_the_threat():
    clean = torch.full((1, 3, 1, 1), 0.5)
    start = torch.tensor([0.9, 0.5, 0.5]).view(1, 3, 1, 1)
    seen = []

    def objective(logits: Tensor) -> Tensor:
        seen.append(logits.item())
        return logits[:, 0]

    AnnealedPGD(ThreatModel("l2", 0.4), steps=2, start=start)(first_pixel(), clean, objective)
    assert seen == pytest.approx([0.5, 0.9, 0.5, 0.4875])  # steps of 0.4 and 0.4 / 32


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_are_at_least_one(steps):
    with pytest.raises(ArgumentError, match="`steps`"):
        AnnealedPGD(ThreatModel(), steps=steps)


def test_a_start_of_another_shape_is_refused():
    attack = AnnealedPGD(ThreatModel(), steps=1, start=torch.zeros(2, 3, 1, 1))
    with pytest.raises(ArgumentError, match="`start`"):
        attack(first_pixel(), torch.full((1, 3, 1, 1), 0.5), lambda logits: logits[:, 0])
