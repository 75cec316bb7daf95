"""Goals: where an attack sends the code; and objectives: how nearness to that aim is measured on logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saat.codes.bank import CodeBank
from saat.codes.semantic import mainstay_codes
from saat.hamming import relaxed_codes, sign_codes
from saat.runtime import frozen
from saat.types import CodeObjective

MakeObjective = Callable[[Tensor, Tensor], CodeObjective]
"""(aim (B, K) in {-1, +1}, clean logits (B, K)) -> objective; lower is nearer to the aim."""


def weighted_objective(aim: Tensor, clean_logits: Tensor) -> CodeObjective:  # noqa: ARG001
    """Return the objective of the SAAT paper, on relaxed codes, for reproduction.

    With s = -aim * relaxed in [-1, 1] (untargeted, this is relaxed * mainstay): the mean of (s + 2) s over the bits
    with s > -0.5, those not yet flipped firmly. Bits far from flipping weigh most.
    *Differs from the paper*: the mean is taken for each image, so that images do not depend on their batch.
    As in the paper, it is a guide for the search, no measure of success: with all bits flipped firmly it is 0, above
    its lowest value.

    tanh has an exactly zero float32 gradient beyond |logit| of about 9.5: a model can look robust by growing its
    logits. `margin_objective` has no such blind spot.

    >>> weighted_objective(torch.tensor([[-1.0, -1.0]]), torch.empty(0))(torch.tensor([[99.0, -99.0]]))  # (1 + 2) * 1
    tensor([3.])
    """
    opposite = -aim.float()

    def objective(logits: Tensor) -> Tensor:
        agreement = relaxed_codes(logits) * opposite
        active = (agreement > -0.5).float()
        return (active * (agreement + 2.0) * agreement).sum(1) / active.sum(1).clamp(min=1.0)

    return objective


def agreement_objective(aim: Tensor, clean_logits: Tensor) -> CodeObjective:  # noqa: ARG001
    """Return the mean disagreement of relaxed codes with the aim: what the papers' inner attacks in training use.

    >>> agreement_objective(torch.tensor([[-1.0, -1.0]]), torch.empty(0))(torch.tensor([[99.0, -99.0]]))
    tensor([0.])
    """
    opposite = -aim.float()
    return lambda logits: (relaxed_codes(logits) * opposite).mean(1)


def margin_objective(aim: Tensor, clean_logits: Tensor) -> CodeObjective:
    """Return a scale-free objective on logits: the mean hinge over the bits that have not yet flipped firmly.

    With m = -aim * logits / mean |clean logits| of the same image, the mean of max(m, -0.5) over bits. Growing all
    logits changes nothing, and no bit that is still to be flipped has a vanishing gradient.

    >>> margin_objective(torch.tensor([[-1.0, -1.0]]), torch.tensor([[30.0, 10.0]]))(torch.tensor([[20.0, -20.0]]))
    tensor([0.2500])
    """
    opposite = -aim.float() / clean_logits.abs().mean(1, keepdim=True).clamp(min=1e-12)

    def objective(logits: Tensor) -> Tensor:
        return (logits * opposite).clamp(min=-0.5).mean(1)

    return objective


OBJECTIVES: Mapping[str, MakeObjective] = {
    "margin": margin_objective,
    "weighted": weighted_objective,
    "agreement": agreement_objective,
}


def clean_logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (B, K) of clean images in eval mode, float32, without a graph."""
    with frozen(model), torch.no_grad():
        logits: Tensor = model(images).float()
    return logits


@dataclass(frozen=True)
class OwnCodeGoal:
    """Away from the query's own code.

    Yang, Liu, Deng, Tao, *Adversarial Examples for Hamming Space Search* (HAG), IEEE Transactions on Cybernetics 2020.

    Args:
        make_objective: how nearness is measured on logits.
    """

    make_objective: MakeObjective = margin_objective
    targeted = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:  # noqa: ARG002
        """Return the objective of images (B, 3, H, W); labels take no part."""
        logits = clean_logits_of(model, images)
        return self.make_objective(-sign_codes(logits), logits)


@dataclass(frozen=True)
class MainstayGoal:
    """Away from the mainstay code of the query's labels, or, targeted, toward that of the target's labels.

    Yuan, Zhang, Wang, Wu, *Semantic-Aware Adversarial Training for Reliable Deep Hashing Retrieval*, IEEE TIFS 2023.

    Args:
        bank: codes and labels of the train split under the attacked model.
        make_objective: how nearness is measured on logits.
        targeted: toward the mainstay code of `labels` (those of the target), instead of away from it.
    """

    bank: CodeBank
    make_objective: MakeObjective = margin_objective
    targeted: bool = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:
        """Return the objective of images (B, 3, H, W) with labels (B, C), at least one a row."""
        mainstay = mainstay_codes(self.bank, labels)
        return self.make_objective(mainstay if self.targeted else -mainstay, clean_logits_of(model, images))
