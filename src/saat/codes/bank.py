"""CodeBank: codes with their labels, and their sums for each distinct label set."""

from __future__ import annotations

import torch
from torch import Tensor

from saat.errors import ArgumentError


class CodeBank:
    """N codes with labels; the hinge between models and everything that ranks or guides.

    Semantic weights depend on label sets only, so the bank keeps one sum of codes for each *distinct* label set:
    guides cost B x U x K for U sets, instead of B x N x K.

    Args:
        codes: (N, K) int8 in {-1, +1}.
        labels: (N, C) multi-hot, any number type.

    Attributes:
        set_labels: float64 (U, C), the distinct label sets.
        set_of: int64 (N,), the row of each item's set in `set_labels`.
        set_counts: float64 (U,), the members of each set.
        set_sums: float64 (U, K), the sum of the codes of each set (exact: they are integers).

    Raises:
        ArgumentError: shapes disagree, or codes are not in {-1, +1}.
    """

    def __init__(self, codes: Tensor, labels: Tensor) -> None:
        if codes.ndim != 2 or codes.dtype != torch.int8 or not bool((codes.abs() == 1).all()):
            raise ArgumentError(f"`codes` is int8 (N, K) in {{-1, +1}}; got {codes.dtype} {tuple(codes.shape)}")
        if labels.ndim != 2 or len(labels) != len(codes):
            raise ArgumentError(f"`labels` is (N, C) with N = {len(codes)} as in `codes`; got {tuple(labels.shape)}")
        self.codes = codes.clone()
        self.labels = labels
        sets, self.set_of, counts = torch.unique(
            (labels > 0).to(torch.uint8), dim=0, return_inverse=True, return_counts=True
        )
        self.set_labels = sets.double()
        self.set_counts = counts.double()
        self.set_sums = torch.zeros(len(sets), codes.shape[1], dtype=torch.float64, device=codes.device)
        self.set_sums.index_add_(0, self.set_of, codes.double())

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def code_length(self) -> int:
        """K, in bits."""
        return self.codes.shape[1]

    def update_(self, indices: Tensor, codes: Tensor) -> None:
        """Put `codes` (B, K) in the rows `indices` (B,), each at most once, and keep the sums true."""
        change = codes.double() - self.codes[indices].double()
        self.set_sums.index_add_(0, self.set_of[indices], change)
        self.codes[indices] = codes

    def restore_(self, codes: Tensor) -> None:
        """Put `codes` (N, K), which may be on another device, in the place of all."""
        self.update_(torch.arange(len(self), device=self.codes.device), codes.to(self.codes.device))
