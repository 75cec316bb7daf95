"""Semantic codes: the one code that stands for a label set, computed from a bank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saat.codes.bank import CodeBank
from saat.errors import ArgumentError, check_at_least, check_choice
from saat.hamming import sign_codes
from saat.runtime import make_generator
from saat.types import has_label

SemanticCodes = Callable[[CodeBank, Tensor], Tensor]
"""(bank, labels (B, C)) -> codes (B, K) in {-1, +1}, such as `mainstay_codes`."""
# Below this, a weighted mean of codes is a tie: rounding of exact ties in float64 stays under 1e-14 by far.
TIE = 1e-9


def label_cosine(labels: Tensor, others: Tensor) -> Tensor:
    """Return the cosine of label vectors (B, C) and (U, C) as float64 (B, U); 0 where a row has no label."""
    labels, others = (labels > 0).double(), (others > 0).double()
    norms = labels.sum(1).sqrt()[:, None] * others.sum(1).sqrt()[None, :]
    return (labels @ others.T) / norms.clamp(min=1.0)


def label_jaccard(labels: Tensor, others: Tensor) -> Tensor:
    """Return the shared share of the labels of both, of (B, C) and (U, C), as float64 (B, U); 0 for no label at all."""
    labels, others = (labels > 0).double(), (others > 0).double()
    shared = labels @ others.T
    either = labels.sum(1)[:, None] + others.sum(1)[None, :] - shared
    return shared / either.clamp(min=1.0)


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
    labels = _checked(bank, labels)
    return _discriminative(bank, label_cosine(labels, bank.set_labels))


def center_codes(bank: CodeBank, labels: Tensor, *, weights: str = "jaccard") -> Tensor:
    """Return the center code of each label set, the guide of CgAT.

    Wang, Lin, Li, *CgAT: Center-Guided Adversarial Training for Deep Hashing-Based Retrieval*, WWW 2023. It has the
    form of the mainstay code, with other weights of the relevant codes: as written, the Jaccard similarity of the
    label sets; as released, 1 for every code that shares a label. On single-label data all three codes agree.

    Args:
        bank: the codes to be represented.
        labels: (B, C) multi-hot, at least one a row.
        weights: `jaccard` or `mean`.

    Returns:
        int8 (B, K) in {-1, +1}, on the bank's device.

    Raises:
        ArgumentError: the label widths differ, a row has no label, or the weights are unknown.

    >>> codes = torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.int8)
    >>> bank = CodeBank(codes, torch.tensor([[1, 0], [1, 0], [0, 1]]))
    >>> center_codes(bank, torch.tensor([[1, 0]])).tolist()
    [[1, 1]]
    """
    check_choice("weights", weights, ("jaccard", "mean"))
    labels = _checked(bank, labels)
    similarity = label_jaccard(labels, bank.set_labels)
    return _discriminative(bank, similarity if weights == "jaccard" else (similarity > 0).double())


def anchor_codes(bank: CodeBank, labels: Tensor, *, members: int = 9, seed: int = 0) -> Tensor:
    """Return the anchor code of each label set: each bit by the vote of codes with these labels.

    Bai et al., *Targeted Attack for Deep Hashing Based Retrieval* (DHTA), ECCV 2020: the minimizer over {-1, +1}^K of
    the mean distance to the codes that vote. One member is their point-to-point baseline, P2P.

    *Differs from the paper*: in multi-label data, where few items have exactly the target's labels, those with the
    most similar labels vote. One draw serves all queries with the same target labels; the authors draw for each.

    Args:
        bank: the codes that may vote.
        labels: (B, C) multi-hot, at least one a row.
        members: how many codes vote, drawn by the seed; fewer where there are not as many.
        seed: of the draw. The draw of a label set does not depend on the others.

    Returns:
        int8 (B, K) in {-1, +1}, on the bank's device.

    Raises:
        ArgumentError: the label widths differ, a row has no label, or `members` is below 1.

    >>> codes = torch.tensor([[1, 1], [1, -1], [1, -1], [-1, -1]], dtype=torch.int8)
    >>> bank = CodeBank(codes, torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1]]))
    >>> anchor_codes(bank, torch.tensor([[1, 0]])).tolist()
    [[1, -1]]
    """
    check_at_least("members", members, 1)
    labels = _checked(bank, labels)
    sets, row_of = torch.unique((labels > 0).to(torch.uint8), dim=0, return_inverse=True)
    similarity = label_cosine(sets, bank.labels)
    anchors = torch.empty(len(sets), bank.code_length, dtype=torch.int8, device=bank.codes.device)
    for number, (row, wanted) in enumerate(zip(similarity, sets, strict=True)):
        nearest = torch.nonzero(row >= row.max() - TIE).flatten()
        drawn = torch.randperm(len(nearest), generator=make_generator(seed, str(wanted.tolist())))[:members]
        anchors[number] = sign_codes(bank.codes[nearest[drawn.to(nearest.device)]].sum(0))
    return anchors[row_of]


def _checked(bank: CodeBank, labels: Tensor) -> Tensor:
    labels = labels.to(bank.set_sums.device)
    if labels.ndim != 2 or labels.shape[1] != bank.set_labels.shape[1]:
        wanted = bank.set_labels.shape[1]
        raise ArgumentError(f"`labels` is (B, C) with C = {wanted} as in the bank; got {tuple(labels.shape)}")
    if not bool(has_label(labels).all()):
        raise ArgumentError("`labels` has a label in every row; got a row without one, which has no mainstay code")
    return labels


def _discriminative(bank: CodeBank, similarity: Tensor) -> Tensor:
    """Return sign(weighted mean of the relevant codes - mean of the irrelevant ones); similarity is float64 (B, U)."""
    irrelevant = (similarity == 0).double()
    relevant_weight = similarity / (similarity @ bank.set_counts).clamp(min=TIE)[:, None]
    irrelevant_weight = irrelevant / (irrelevant @ bank.set_counts).clamp(min=1.0)[:, None]
    scores = (relevant_weight - irrelevant_weight) @ bank.set_sums
    return torch.where(scores > -TIE, 1, -1).to(torch.int8)
