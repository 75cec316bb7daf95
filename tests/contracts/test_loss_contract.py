"""What every hashing loss promises. A new loss is in the table as soon as it is in LOSSES."""

import pytest
import torch

from saat.errors import ArgumentError
from saat.losses.catalog import LOSSES, build_loss

SHAPES = [(8, 5), (48, 5), (64, 5), (8, 20), (48, 100)]  # code length K, classes C; the last two have C > 2 K


def case(code_length: int, classes: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(code_length + classes)
    labels = (torch.rand(30, classes, generator=generator) < 0.3).float()
    labels[:, 0] = 1.0
    indices = torch.tensor([4, 0, 29, 7])
    logits = torch.randn(4, code_length, generator=generator).requires_grad_()
    return labels, indices, logits


@pytest.mark.parametrize(("code_length", "classes"), SHAPES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_finite_scalar_whose_gradient_reaches_every_logit(name, code_length, classes):
    labels, indices, logits = case(code_length, classes)
    loss = build_loss(name, labels=labels, code_length=code_length)
    value = loss(logits, labels[indices], indices)
    assert value.shape == ()
    assert bool(torch.isfinite(value))
    value.backward()
    assert bool(torch.isfinite(logits.grad).all())
    assert bool((logits.grad != 0).any(dim=1).all())


@pytest.mark.parametrize("name", LOSSES)
def test_a_few_steps_down_the_gradient_lower_the_loss(name):
    labels, indices, logits = case(16, 5)
    loss = build_loss(name, labels=labels, code_length=16)
    values = []
    for _ in range(20):
        value = loss(logits, labels[indices], indices)
        (gradient,) = torch.autograd.grad(value, logits)
        logits = (logits - 5.0 * gradient).detach().requires_grad_()
        values.append(value.item())
    assert values[-1] < values[0]


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name, scale):
    labels, indices, logits = case(16, 5)
    extreme = (logits.detach() * scale).requires_grad_()
    value = build_loss(name, labels=labels, code_length=16)(extreme, labels[indices], indices)
    value.backward()
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(extreme.grad).all())


@pytest.mark.parametrize("unlabeled", [[1], [0, 1, 2, 3]])
@pytest.mark.parametrize("name", LOSSES)
def test_rows_without_a_label_are_harmless(name, unlabeled):
    labels, indices, logits = case(16, 5)
    labels[indices[unlabeled]] = 0.0
    value = build_loss(name, labels=labels, code_length=16)(logits, labels[indices], indices)
    value.backward()
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("name", LOSSES)
def test_the_state_resumes_training(name):
    labels, indices, logits = case(16, 5)
    loss = build_loss(name, labels=labels, code_length=16)
    loss(logits, labels[indices], indices)
    other = build_loss(name, labels=labels, code_length=16)
    other.load_state_dict(loss.state_dict())
    later = torch.tensor([1, 2, 3, 5])
    values = [each(logits * 0.5, labels[later], later).item() for each in (loss, other)]
    assert values[0] == values[1]


def test_an_unknown_loss_names_the_known_ones():
    with pytest.raises(ArgumentError, match="`loss` is one of csq, dph; got 'cqs'; did you mean 'csq'"):
        build_loss("cqs", labels=torch.eye(2), code_length=8)
