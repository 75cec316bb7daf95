import math

import pytest
import torch

from saat.errors import ArgumentError
from saat.hamming import hamming_distances
from saat.losses.central import CSQLoss, center_of_labels, csq_loss, hadamard_matrix, hash_centers


def smallest_distance(centers: torch.Tensor) -> int:
    distances = hamming_distances(centers, centers).fill_diagonal_(centers.shape[1])
    return int(distances.min())


@pytest.mark.parametrize("order", [1, 2, 8, 64])
def test_rows_of_a_hadamard_matrix_are_orthogonal(order):
    matrix = hadamard_matrix(order).float()
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order))


@pytest.mark.parametrize(("classes", "code_length"), [(10, 8), (16, 8), (10, 16), (80, 64), (128, 64)])
def test_hadamard_centers_are_half_a_code_apart(classes, code_length):
    centers = hash_centers(classes, code_length)
    assert centers.shape == (classes, code_length)
    assert centers.dtype == torch.int8
    assert smallest_distance(centers) == code_length // 2


# The smallest distances that are asked for lie far above those of independent draws.
@pytest.mark.parametrize(
    ("classes", "code_length", "least"), [(10, 48, 20), (100, 48, 14), (80, 24, 4), (100, 32, 8), (20, 8, 2)]
)
def test_drawn_centers_are_balanced_distinct_and_far_apart(classes, code_length, least):
    centers = hash_centers(classes, code_length)
    assert centers.shape == (classes, code_length)
    assert not bool(centers.int().sum(1).any())
    assert smallest_distance(centers) >= least
    assert torch.equal(centers, hash_centers(classes, code_length))
    assert not torch.equal(centers, hash_centers(classes, code_length, seed=1))


def test_a_label_set_takes_the_majority_of_its_centers():
    centers = torch.tensor([[1, 1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.int8)
    tie_break = torch.tensor([-1, -1, -1, 1], dtype=torch.int8)
    labels = torch.tensor([[1, 1, 1], [0, 0, 1], [1, 0, 1]])
    found = center_of_labels(centers, labels, tie_break)
    assert found.tolist() == [[1, 1, -1, -1], [1, -1, -1, 1], [1, -1, -1, 1]]  # the last has ties at bits 1, 2 and 3
    assert found.dtype == torch.int8


def test_a_loss_worked_by_hand():
    # At the logit ln(2) / 2, sigmoid(2 logit) = 2/3 and tanh(logit) = 1/3.
    # Cross entropies to +1 and -1: ln(3/2) and ln(3). Quantization: (1/3 - 1)^2 = 4/9, weighted by 0.9.
    logits = torch.full((1, 2), math.log(2) / 2)
    value = csq_loss(logits, torch.tensor([[1, -1]]), quantization_weight=0.9)
    assert value.item() == pytest.approx((math.log(3 / 2) + math.log(3)) / 2 + 0.4)


def test_rows_without_a_label_take_no_part():
    loss = CSQLoss(labels=torch.eye(4), code_length=8)
    labels = torch.eye(4)[[0, 1, 2]]
    labels[1] = 0.0
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = loss(logits, labels, torch.arange(3))
    value.backward()
    assert not bool(logits.grad[1].any())
    assert value.item() == loss(logits[[0, 2]], labels[[0, 2]], torch.arange(2)).item()
    none = loss(logits, torch.zeros(3, 4), torch.arange(3))
    assert none.item() == 0.0
    assert none.requires_grad


def test_the_centers_themselves_have_the_smallest_loss():
    loss = CSQLoss(labels=torch.eye(4), code_length=8)
    labels, rows = torch.eye(4), torch.arange(4)
    right, wrong = 10.0 * loss.centers.float(), 10.0 * loss.centers[[1, 2, 3, 0]].float()
    assert loss(right, labels, rows).item() < 1e-6
    assert loss(wrong, labels, rows).item() > 1.0


def test_codes_too_short_for_their_classes_are_an_error() -> None:
    # Balanced codes of 8 bits: 8 over 4 = 70, fewer than the 100 classes.
    with pytest.raises(ArgumentError, match="100 classes, 8 bits"):
        hash_centers(100, 8)
