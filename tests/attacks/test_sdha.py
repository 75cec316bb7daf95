import math

import pytest
import torch
from torch import nn

from saat.attacks.sdha import SdhaGoal
from saat.codes.bank import CodeBank
from saat.hamming import sign_codes

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(12, 8))


def bank() -> CodeBank:
    codes = torch.tensor([[1, 1], [1, 1], [1, -1], [-1, -1]], dtype=torch.int8)
    return CodeBank(codes, torch.tensor([[1, 0], [1, 0], [1, 1], [0, 1]]))


def test_values_worked_by_hand():
    # Relaxed codes 0.5 and -0.2, so the code is +-. With l the logistic function, by bit and by agreement x:
    # away(0.5) = 0.25 l(2.5) + 1 - l(2.5) = 0.25 * 0.924142 + 0.075858 = 0.306894
    # away(-0.2) = 0.6 l(-1) + 1 - l(-1) = 0.6 * 0.268941 + 0.731059 = 0.892423
    # away(0.2) = 0.4 l(1) + 1 - l(1) = 0.4 * 0.731059 + 0.268941 = 0.561365
    logits = torch.atanh(torch.tensor([[0.5, -0.2]]))
    objective = SdhaGoal(bank())(MODEL, torch.empty(1, 3, 2, 2), torch.tensor([[1, 0]]))
    # Relevant: ++ twice, at distance 1, weight 1; +- at distance 0, weight (1e-8)^-0.5 = 1e4. The mean of the three:
    expected = (2 * (0.306894 + 0.892423) + 1e4 * (0.306894 + 0.561365)) / 3
    assert objective(logits).item() == pytest.approx(-expected, rel=1e-5)
    # Toward, with (1 - x) / 2 * l(-10 x): toward(0.5) = 0.25 l(-5) = 0.25 * 0.006693 = 0.001673;
    # toward(-0.5) = 0.75 l(5) = 0.75 * 0.993307 = 0.744980; toward(0.2) = 0.4 l(-2) = 0.4 * 0.119203 = 0.047681.
    objective = SdhaGoal(bank(), targeted=True)(MODEL, torch.empty(1, 3, 2, 2), torch.tensor([[0, 1]]))
    # Relevant: +- at distance 0, weight (1e-8)^0.3 = 0.003981; -- at distance 1, weight 1.
    expected = (0.003981 * (0.001673 + 0.047681) + 1.0 * (0.744980 + 0.047681)) / 2
    assert objective(logits).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_sum_over_bits_equals_a_naive_loop(targeted):
    generator = torch.Generator().manual_seed(0)
    codes, labels = sign_codes(torch.randn(30, 8, generator=generator)), torch.eye(3).repeat(10, 1)
    labels[::5, 0] = 1
    logits, wanted = torch.randn(4, 8, generator=generator), torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 1, 1]])
    values = SdhaGoal(CodeBank(codes, labels), targeted)(MODEL, torch.empty(4, 3, 2, 2), wanted)(logits)
    for row in range(4):
        distances = []
        for code in codes[(labels.long() @ wanted[row]) > 0].tolist():
            agreements = [math.tanh(logit) * bit for logit, bit in zip(logits[row].tolist(), code, strict=True)]
            hamming = sum(agreement < 0 for agreement in agreements)
            slope, power = (-10, 0.3) if targeted else (5, -0.5)
            gates = [1 / (1 + math.exp(-slope * x)) for x in agreements]
            terms = [(1 - x) / 2 * g + (0 if targeted else 1 - g) for x, g in zip(agreements, gates, strict=True)]
            distances.append((hamming + 1e-8) ** power * sum(terms))
        mean = sum(distances) / len(distances)
        assert values[row].item() == pytest.approx(mean if targeted else -mean, rel=1e-4)


def test_a_query_without_a_relevant_code_has_zero_and_no_gradient():
    goal = SdhaGoal(CodeBank(torch.ones(2, 2, dtype=torch.int8), torch.eye(3)[:2]))
    logits = torch.ones(1, 2, requires_grad=True)
    value = goal(MODEL, torch.empty(1, 3, 2, 2), torch.tensor([[0, 0, 1]]))(logits)
    assert value.item() == 0.0
    assert not bool(torch.autograd.grad(value.sum(), logits)[0].any())


def test_it_leads_away_or_toward():
    labels = torch.tensor([[1, 0]])
    far, near = torch.tensor([[-3.0, -3.0]]), torch.tensor([[3.0, 3.0]])
    away = SdhaGoal(bank())(MODEL, torch.empty(1, 3, 2, 2), labels)
    toward = SdhaGoal(bank(), targeted=True)(MODEL, torch.empty(1, 3, 2, 2), labels)
    assert toward(near).item() < toward(far).item()
    # Away: near codes weigh most, so the gradient of the distance leads off where the code is one of them.
    logits = near.clone().requires_grad_()
    assert bool((torch.autograd.grad(away(logits).sum(), logits)[0][:, 0] > 0).all())
