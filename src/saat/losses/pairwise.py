"""Pairwise losses: codes of similar images agree, codes of others do not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saat.hamming import relaxed_codes
from saat.types import has_label


def pairwise_similarity(labels: Tensor, others: Tensor) -> Tensor:
    """Return +1 where rows of (B, C) and (N, C) share a label and -1 elsewhere, float (B, N)."""
    return (labels.float() @ others.float().T > 0).float() * 2.0 - 1.0


def dph_loss(relaxed: Tensor, memory: Tensor, similarity: Tensor) -> Tensor:
    """Return the mean squared difference of code agreement and similarity.

        mean over (i, j) of (relaxed_i . memory_j / K - similarity_ij)^2

    Args:
        relaxed: (B, K) in [-1, 1], with a graph.
        memory: (N, K) in [-1, 1], what was last seen of every train item.
        similarity: (B, N) in {-1, +1}.

    >>> dph_loss(torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0]]))  # (0 - 1)^2
    tensor(1.)
    """
    agreement = relaxed @ memory.T / relaxed.shape[1]
    return (agreement - similarity).square().mean()


class DPHLoss(nn.Module):
    """Deep pairwise hashing as the SAAT and HAG papers train it (their default loss).

    Yang, Liu, Deng, Tao, *Adversarial Examples for Hamming Space Search*, IEEE Transactions on Cybernetics 2020.
    A memory holds the last relaxed code of each train item; before its first visit zero, or, in hardening, its code
    under the model before. Items without a label, which
    would be pushed from everything, themselves included, take no part on either side.

    Args:
        labels: (N, C) multi-hot, the labels of the train split.
        code_length: K, in bits.
    """

    memory: Tensor
    labels: Tensor
    labeled: Tensor

    def __init__(self, *, labels: Tensor, code_length: int) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(len(labels), code_length))
        self.register_buffer("labeled", torch.nonzero(has_label(labels)).flatten(), persistent=False)
        self.register_buffer("labels", labels[self.labeled].float(), persistent=False)  # of these items

    def forward(self, logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, K), labels (B, C), rows of the train split (B,)."""
        relaxed = relaxed_codes(logits.float())
        self.memory = self.memory.index_copy(0, indices, relaxed.detach())
        labeled = has_label(labels)
        if not bool(labeled.any()):
            return logits.sum() * 0.0
        similarity = pairwise_similarity(labels[labeled], self.labels)
        return dph_loss(relaxed[labeled], self.memory[self.labeled], similarity)
