"""Hashing losses by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from saat.errors import check_choice
from saat.losses.central import CSQLoss
from saat.losses.pairwise import DPHLoss

LOSSES: Mapping[str, Callable[..., nn.Module]] = {"dph": DPHLoss, "csq": CSQLoss}


def build_loss(name: str, *, labels: Tensor, code_length: int, codes: Tensor | None = None) -> nn.Module:
    """Build the loss called `name` for a train split.

    Args:
        name: a key of `LOSSES`.
        labels: (N, C) multi-hot, the labels of the train split.
        code_length: K, in bits.
        codes: (N, K) in {-1, +1}, of the train split under a model that is trained further: a memory begins with them.

    Raises:
        ArgumentError: `name` is unknown.
    """
    loss = LOSSES[check_choice("loss", name, LOSSES)](labels=labels, code_length=code_length)
    if codes is not None and isinstance(loss, DPHLoss):
        loss.memory.copy_(codes)
    return loss
