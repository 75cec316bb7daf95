"""Central losses: each class has a hash center, and codes are drawn to the centers of their labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saat.errors import ArgumentError
from saat.hamming import hamming_distances, relaxed_codes
from saat.runtime import make_generator
from saat.types import has_label

SEED = 0  # of the centers where there is no Hadamard matrix, and of the code that breaks ties
CANDIDATES = 64  # draws a center; more hardly widen the smallest distance


def hadamard_matrix(order: int) -> Tensor:
    """Return Sylvester's Hadamard matrix, int8 (order, order) in {-1, +1}; `order` is a power of two.

    >>> hadamard_matrix(2).tolist()
    [[1, 1], [1, -1]]
    """
    matrix = torch.ones(1, 1, dtype=torch.int8)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def hash_centers(num_classes: int, code_length: int, *, seed: int = 0) -> Tensor:
    """Return one center a class, far from each other.

    Yuan et al., *Central Similarity Quantization for Efficient Image and Video Retrieval*, CVPR 2020: rows of a
    Hadamard matrix and their negatives, K/2 bits apart at least.
    *Differs from the paper* where it fails: when K is no power of two, or there are more than 2K classes, each
    center is the farthest from those before it among seeded balanced draws.

    Args:
        num_classes: C, at least 1.
        code_length: K, in bits, even.
        seed: of the draws.

    Returns:
        int8 (C, K) in {-1, +1}, all different.

    Raises:
        ArgumentError: no balanced code that was drawn is left for a class: codes are too short.

    >>> int(hamming_distances(hash_centers(4, 8), hash_centers(4, 8))[0, 1])
    4
    """
    if code_length & (code_length - 1) == 0 and num_classes <= 2 * code_length:
        matrix = hadamard_matrix(code_length)
        return torch.cat([matrix, -matrix])[:num_classes]
    generator = make_generator(seed, "hash centers")
    balanced = torch.arange(code_length).remainder(2).mul(2).sub(1).to(torch.int8)
    centers = balanced[torch.randperm(code_length, generator=generator)][None]
    while len(centers) < num_classes:
        order = torch.rand(CANDIDATES, code_length, generator=generator).argsort(1)
        candidates = balanced[order]
        nearest = hamming_distances(candidates, centers).amin(1)
        if int(nearest.max()) == 0:
            found = f"{num_classes} classes, {code_length} bits"
            raise ArgumentError(f"`code_length` leaves a balanced code to each class; got {found}")
        centers = torch.cat([centers, candidates[nearest.argmax()][None]])
    return centers


def center_of_labels(centers: Tensor, labels: Tensor, tie_break: Tensor) -> Tensor:
    """Return the center of each label set: the bitwise majority of its labels' centers, ties by `tie_break`.

    Args:
        centers: int8 (C, K) in {-1, +1}.
        labels: (B, C) multi-hot.
        tie_break: int8 (K,) in {-1, +1}.

    Returns:
        int8 (B, K) in {-1, +1}.
    """
    votes = labels.float() @ centers.float()
    return torch.where(votes == 0, tie_break.float(), votes.sign()).to(torch.int8)


def csq_loss(logits: Tensor, target: Tensor, *, quantization_weight: float) -> Tensor:
    """Return the bitwise cross entropy of relaxed codes to the centers, plus the quantization term.

        mean of BCE((relaxed + 1) / 2, (target + 1) / 2) + quantization_weight * mean of (|relaxed| - 1)^2

    (tanh(x) + 1) / 2 is sigmoid(2 x), so the first term is computed from the logits and stays finite.

    Args:
        logits: (B, K).
        target: (B, K) in {-1, +1}.
        quantization_weight: weight of the second term.

    >>> csq_loss(torch.zeros(1, 2), torch.ones(1, 2), quantization_weight=0.0)  # ln 2
    tensor(0.6931)
    """
    central = F.binary_cross_entropy_with_logits(2.0 * logits, (target.float() + 1.0) / 2.0)
    return central + quantization_weight * (relaxed_codes(logits).abs() - 1.0).square().mean()


class CSQLoss(nn.Module):
    """Central similarity quantization (Yuan et al., CVPR 2020). Rows without a label take no part.

    *Differs from the authors' code*: no pairwise term beside the two of `csq_loss` (theirs weighs 0.2), and the
    quantization term weighs 1e-4, as in hardening, where theirs weighs 0.05.

    Args:
        labels: (N, C) multi-hot, the labels of the train split; only C matters.
        code_length: K, in bits.
        quantization_weight: weight of the quantization term.
    """

    centers: Tensor
    tie_break: Tensor

    def __init__(self, *, labels: Tensor, code_length: int, quantization_weight: float = 1e-4) -> None:
        super().__init__()
        self.quantization_weight = quantization_weight
        self.register_buffer("centers", hash_centers(labels.shape[1], code_length, seed=SEED))
        draw = torch.randint(0, 2, (code_length,), generator=make_generator(SEED, "tie break"))
        self.register_buffer("tie_break", (draw * 2 - 1).to(torch.int8))

    def forward(self, logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:  # noqa: ARG002
        """Return the scalar loss of logits (B, K), labels (B, C); indices take no part."""
        labeled = has_label(labels)
        if not bool(labeled.any()):
            return logits.sum() * 0.0
        target = center_of_labels(self.centers, labels[labeled], self.tie_break)
        return csq_loss(logits[labeled].float(), target, quantization_weight=self.quantization_weight)
