import pytest
import torch
from torch import nn

from saat.attacks.goals import OwnCodeGoal, SemanticGoal
from saat.attacks.objectives import OBJECTIVES, agreement_objective, margin_objective, weighted_objective
from saat.codes.bank import CodeBank
from saat.errors import ArgumentError
from saat.hamming import sign_codes

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(12, 8))
IMAGES = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def random_logits(seed: int) -> torch.Tensor:
    return torch.randn(4, 16, generator=torch.Generator().manual_seed(seed))


def test_values_worked_by_hand():
    # tanh(atanh(s)) = s. The aim is -1, so s = relaxed code: 0.5, -0.2 and -0.8, which has flipped firmly.
    logits = torch.atanh(torch.tensor([[0.5, -0.2, -0.8]]))
    aim = -torch.ones(1, 3)
    # (0.5 + 2) 0.5 = 1.25 and (-0.2 + 2)(-0.2) = -0.36, over the two bits that still count.
    assert weighted_objective(aim, logits)(logits).item() == pytest.approx((1.25 - 0.36) / 2)
    assert agreement_objective(aim, logits)(logits).item() == pytest.approx((0.5 - 0.2 - 0.8) / 3)
    # Over the mean clean logit, 2: 2, 0.5 and -1.5, which counts as -0.5.
    clean = torch.tensor([[1.0, -2.0, 3.0]])
    found = torch.tensor([[4.0, 1.0, -3.0]])
    assert margin_objective(aim, clean)(found).item() == pytest.approx((2 + 0.5 - 0.5) / 3)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_image_does_not_depend_on_its_batch(name):
    aim, clean, logits = sign_codes(random_logits(0)), random_logits(1), random_logits(2)
    whole = OBJECTIVES[name](aim, clean)(logits)
    assert whole.shape == (4,)
    for row in range(4):
        part = slice(row, row + 1)
        assert torch.allclose(OBJECTIVES[name](aim[part], clean[part])(logits[part]), whole[part])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_aim_has_a_lower_value_than_its_opposite(name):
    aim, clean = sign_codes(random_logits(0)), random_logits(1)
    objective = OBJECTIVES[name](aim, clean)
    assert bool((objective(3.0 * aim) < objective(-3.0 * aim)).all())


def test_the_margin_is_free_of_scale():
    aim, clean, logits = sign_codes(random_logits(0)), random_logits(1), random_logits(2)
    values = margin_objective(aim, clean)(logits)
    assert torch.allclose(margin_objective(aim, 1000 * clean)(1000 * logits), values, rtol=1e-5)


def test_the_margin_has_a_gradient_where_tanh_has_none():
    logits = torch.full((1, 16), 20.0, requires_grad=True)
    aim = -torch.ones(1, 16)
    gradients = {
        name: torch.autograd.grad(make(aim, logits.detach())(logits).sum(), logits)[0]
        for name, make in OBJECTIVES.items()
    }
    assert bool((gradients["margin"] > 0).all())
    assert not bool(gradients["weighted"].any())
    assert not bool(gradients["agreement"].any())


def test_the_own_goal_leads_away_from_the_code_of_the_clean_image():
    logits = MODEL(IMAGES).detach()
    objective = OwnCodeGoal()(MODEL, IMAGES, torch.zeros(3, 2))
    assert bool((objective(-logits) < objective(logits)).all())
    assert not OwnCodeGoal().targeted


def test_the_mainstay_goal_leads_away_or_toward():
    codes = torch.tensor([[1] * 8, [-1] * 8], dtype=torch.int8)
    bank = CodeBank(codes, torch.eye(2))
    labels = torch.eye(2)[[0, 1, 0]]
    toward = SemanticGoal(bank, targeted=True)(MODEL, IMAGES, labels)
    away = SemanticGoal(bank)(MODEL, IMAGES, labels)
    mainstay = codes[[0, 1, 0]].float()
    assert bool((toward(mainstay) < toward(-mainstay)).all())
    assert bool((away(-mainstay) < away(mainstay)).all())
    with pytest.raises(ArgumentError, match="has no mainstay code"):
        SemanticGoal(bank)(MODEL, IMAGES, torch.zeros(3, 2))
