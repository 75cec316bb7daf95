"""SDHA: away from all relevant codes at once, by a surrogate of the Hamming distance and weights by rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saat.codes.bank import CodeBank
from saat.hamming import relaxed_codes, sign_codes
from saat.types import CodeObjective

AWAY_SLOPE, AWAY_POWER = 5.0, -0.5  # near codes weigh most: they stand first in the ranking
TOWARD_SLOPE, TOWARD_POWER = 10.0, 0.3


@dataclass(frozen=True)
class SdhaGoal:
    """Away from the codes that share a label with the query, or, targeted, toward those that share one with the target.

    Lu, Chen, Sun, Wang, Wang, Yang, *A Smart Adversarial Attack on Deep Hashing Based Image Retrieval*, ICMR 2021. With
    x = relaxed * code of a bit and the logistic function l, the surrogate distance to a code sums over bits

        away: (1 - x) / 2 * l(5 x) + 1 - l(5 x),   toward: (1 - x) / 2 * l(-10 x),

    which is flat where a bit has flipped firmly; codes weigh by their Hamming distance d, d^-0.5 away and d^0.3 toward.

    *Differs from the paper*: its penalty on the squared change of the image is left out, as the threat model bounds it.
    A query without a relevant code stays where it is; the authors' code sends it away from its own code.

    Args:
        bank: codes and labels of the train split under the attacked model.
        targeted: toward the codes of `labels` (those of the target), instead of away from them.
    """

    bank: CodeBank
    targeted: bool = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:  # noqa: ARG002
        """Return the objective of images (B, 3, H, W) with labels (B, C); a query without a relevant code has 0."""
        codes = self.bank.codes.to(images.device).float()
        own, theirs = ((of > 0).float().to(images.device) for of in (labels, self.bank.labels))
        relevant = (own @ theirs.T > 0).float()
        share = relevant / relevant.sum(1, keepdim=True).clamp(min=1.0)
        distance, power, sign = (_toward, TOWARD_POWER, 1.0) if self.targeted else (_away, AWAY_POWER, -1.0)

        def objective(logits: Tensor) -> Tensor:
            relaxed = relaxed_codes(logits)
            agree, disagree = distance(relaxed), distance(-relaxed)  # of a bit with a code that is +1 there, or -1
            surrogate = (agree + disagree).sum(1, keepdim=True) / 2 + (agree - disagree) @ codes.T / 2
            hamming = (codes.shape[1] - sign_codes(logits).float() @ codes.T) / 2
            weights = share * (hamming + 1e-8).pow(power)
            return sign * (weights * surrogate).sum(1)

        return objective


def _away(agreement: Tensor) -> Tensor:
    gate = torch.sigmoid(AWAY_SLOPE * agreement)
    return (1 - agreement) / 2 * gate + 1 - gate


def _toward(agreement: Tensor) -> Tensor:
    return (1 - agreement) / 2 * torch.sigmoid(-TOWARD_SLOPE * agreement)
