"""Hashing losses by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from saat.errors import check_choice
from saat.losses.central import CSQLoss
from saat.losses.pairwise import DPHLoss

LOSSES: Mapping[str, Callable[..., nn.Module]] = {"dph": DPHLoss, "csq": CSQLoss}


def build_loss(name: str, *, labels: Tensor, code_length: int) -> nn.Module:
    """Build the loss called `name` for a train split.

    Args:
        name: a key of `LOSSES`.
        labels: (N, C) multi-hot, the labels of the train split.
        code_length: K, in bits.

    Raises:
        ArgumentError: `name` is unknown.
    """
    return LOSSES[check_choice("loss", name, LOSSES)](labels=labels, code_length=code_length)
