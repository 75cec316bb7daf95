"""Deployment: the database as an attacker who knows it sees it, folded so that many codes can be tried."""

from __future__ import annotations

import torch
from torch import Tensor

from saat.codes.bank import CodeBank

_BLOCK_PAIRS = 1 << 22  # pairs of a code and a group that are held at once
BLOCK_FLOATS = 1 << 25  # of the one-hot distances held at once


class Deployment:
    """A database of codes, folded to its distinct codes with their items by label set.

    Items with one code and one label set are interchangeable in every ranking, so average precision needs only how
    many there are.

    Args:
        bank: codes and labels of the database.

    Attributes:
        codes: float32 (G, K), the distinct codes.
        items: float32 (G,), how many items have each.
        set_labels: float32 (U, C), the distinct label sets.
        pair_items: float32 (P,), how many items have each pair of a code and a label set that occurs.
    """

    def __init__(self, bank: CodeBank) -> None:
        codes, code_of = torch.unique(bank.codes, dim=0, return_inverse=True)
        sets = len(bank.set_labels)
        pairs, items_of_pair = torch.unique(code_of * sets + bank.set_of, return_counts=True)
        self.codes = codes.float()
        self.set_labels = bank.set_labels.float()
        self.pair_items = items_of_pair.float()
        self._code_of_pair, self._set_of_pair = pairs // sets, pairs % sets
        self.items = torch.bincount(code_of, minlength=len(codes)).float()

    @property
    def code_length(self) -> int:
        """K, in bits."""
        return int(self.codes.shape[1])

    def relevant(self, labels: Tensor) -> Tensor:
        """Return how many items of each code share a label with each row of `labels` (B, C), float32 (B, G)."""
        shares: Tensor = ((labels > 0).float().to(self.set_labels.device) @ self.set_labels.T > 0).float()
        relevant = shares.new_zeros(len(labels), len(self.codes))
        relevant.index_add_(1, self._code_of_pair, shares[:, self._set_of_pair] * self.pair_items)
        return relevant

    def soft_counts(self, relaxed: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
        """Return relevant and all items at each distance of relaxed codes, float (B, K + 1), differentiable.

        A distance between two whole numbers counts for both, in proportion (a triangular kernel). At codes in {-1, +1}
        these are the exact counts.

        Args:
            relaxed: (B, K) in [-1, 1].
            relevant: (B, G), of `relevant`.
        """
        bins = self.code_length + 1
        distances = ((self.code_length - relaxed @ self.codes.T) / 2).clamp(0.0, self.code_length)
        below = distances.detach().floor().clamp(max=self.code_length - 1)
        upper = distances - below
        place = below.long()

        def spread(weights: Tensor) -> Tensor:
            counts = weights.new_zeros(len(relaxed), bins)
            counts = counts.scatter_add(1, place, weights * (1 - upper))
            return counts.scatter_add(1, place + 1, weights * upper)

        return spread(relevant), spread(self.items.expand(len(relaxed), -1))

    def average_precision(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Return the tie-aware average precision of each code (B, K) in {-1, +1} for labels (B, C), float64 (B,)."""
        rows = max(1, _BLOCK_PAIRS // len(self.codes))
        parts = [
            soft_average_precision(*self.soft_counts(part.float(), self.relevant(part_labels)))
            for part, part_labels in zip(torch.split(codes, rows), torch.split(labels, rows), strict=True)
        ]
        return torch.cat(parts)

    def average_precision_table(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Return the tie-aware average precision that each of M codes would have for each query, float64 (B, M).

        Args:
            codes: (M, K) in {-1, +1}.
            labels: (B, C) of the queries.
        """
        bins, groups = self.code_length + 1, len(self.codes)
        weights = torch.cat([self.relevant(labels), self.items[None]])  # (B + 1, G)
        rows = max(1, BLOCK_FLOATS // (groups * bins))
        parts = []
        for part in torch.split(codes.float(), rows):
            distances = ((self.code_length - part @ self.codes.T) / 2).round().long()
            at = weights.new_zeros(groups, len(part) * bins)  # one-hot: row g has a 1 at the distance of each code
            at.scatter_(1, distances.T + bins * torch.arange(len(part), device=at.device), 1.0)
            counts = (weights @ at).view(len(weights), len(part), bins)
            hits, items = counts[:-1], counts[-1].expand_as(counts[:-1])
            parts.append(soft_average_precision(hits.flatten(0, 1), items.flatten(0, 1)).view(len(labels), -1))
        return torch.cat(parts, dim=1)


def soft_average_precision(relevant: Tensor, items: Tensor) -> Tensor:
    """Return average precision from counts that need not be whole, differentiable.

    The closed form of `ranking.average_precision`, with the harmonic numbers continued by the digamma function:
    H(n) = digamma(n + 1) + 0.577...; equal to it at whole counts.

    Args:
        relevant: (B, K + 1), relevant items at each distance.
        items: (B, K + 1), all items at each distance.

    Returns:
        float64 (B,) in [0, 1]; 0 for a query without a relevant item.

    >>> value = soft_average_precision(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    >>> round(value.item() * 18, 6)  # as in `ranking.average_precision`
    11.0
    """
    relevant, items = relevant.double(), items.double()
    before_items, before_relevant = items.cumsum(1) - items, relevant.cumsum(1) - relevant
    span = torch.digamma(before_items + items + 1) - torch.digamma(before_items + 1)
    share = relevant / items.clamp(min=1e-9)
    slope = (relevant - 1).clamp(min=0) / (items - 1).clamp(min=1)
    gains = share * ((before_relevant + 1 - slope * (before_items + 1)) * span + slope * items)
    return gains.sum(1) / relevant.sum(1).clamp(min=1e-9)
