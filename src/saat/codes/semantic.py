"""Semantic codes: the one code that stands for a label set, computed from a bank."""

from __future__ import annotations

import torch
from torch import Tensor

from saat.codes.bank import CodeBank
from saat.errors import ArgumentError

# Below this, a weighted mean of codes is a tie: rounding of exact ties in float64 stays under 1e-14 by far.
TIE = 1e-9


def label_cosine(labels: Tensor, others: Tensor) -> Tensor:
    """Return the cosine of label vectors (B, C) and (U, C) as float64 (B, U); 0 where a row has no label."""
    labels, others = (labels > 0).double(), (others > 0).double()
    norms = labels.sum(1).sqrt()[:, None] * others.sum(1).sqrt()[None, :]
    return (labels @ others.T) / norms.clamp(min=1.0)


def mainstay_codes(bank: CodeBank, labels: Tensor) -> Tensor:
    """Return the mainstay code of each label set: discriminative mainstay feature learning in closed form.

    Yuan, Zhang, Wang, Wu, *Semantic-Aware Adversarial Training for Reliable Deep Hashing Retrieval*, IEEE TIFS 2023.
    With s_i the cosine of `labels` and the labels of bank item i,

        mainstay = sign(sum_i p_i b_i - sum_j n_j b_j),   p_i = s_i / sum s,   n_j = [s_j = 0] / #{s = 0},

    the minimizer over {-1, +1}^K of the weighted mean distance to relevant codes minus the mean distance to
    irrelevant ones. A term without a member drops out; sign(0) = +1.

    Args:
        bank: the codes to be represented, usually those of the train split.
        labels: (B, C) multi-hot. A row without a label has no mainstay code: leave it out before (see `has_label`).

    Returns:
        int8 (B, K) in {-1, +1}, on the bank's device.

    Raises:
        ArgumentError: the label widths differ, or a row has no label.

    >>> codes = torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.int8)
    >>> bank = CodeBank(codes, torch.tensor([[1, 0], [1, 0], [0, 1]]))
    >>> mainstay_codes(bank, torch.tensor([[1, 0]])).tolist()  # (0 + 1, 0 + 1) after taking off (-1, -1)
    [[1, 1]]
    """
    labels = labels.to(bank.set_sums.device)
    if labels.ndim != 2 or labels.shape[1] != bank.set_labels.shape[1]:
        wanted = bank.set_labels.shape[1]
        raise ArgumentError(f"`labels` is (B, C) with C = {wanted} as in the bank; got {tuple(labels.shape)}")
    if not bool(has_label(labels).all()):
        raise ArgumentError("`labels` has a label in every row; got a row without one, which has no mainstay code")
    similarity = label_cosine(labels, bank.set_labels)
    irrelevant = (similarity == 0).double()
    relevant_weight = similarity / (similarity @ bank.set_counts).clamp(min=TIE)[:, None]
    irrelevant_weight = irrelevant / (irrelevant @ bank.set_counts).clamp(min=1.0)[:, None]
    scores = (relevant_weight - irrelevant_weight) @ bank.set_sums
    return torch.where(scores > -TIE, 1, -1).to(torch.int8)


def has_label(labels: Tensor) -> Tensor:
    """Return which rows of `labels` (B, C) have a label at all, bool (B,)."""
    return (labels > 0).any(dim=1)
