"""Objectives: how nearness to an aim is measured on logits. Lower is nearer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from saat.hamming import logit_scale, relaxed_codes
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

    >>> import torch
    >>> weighted_objective(torch.tensor([[-1.0, -1.0]]), torch.empty(0))(torch.tensor([[99.0, -99.0]]))  # (1 + 2) * 1
    tensor([3.])
    """
    opposite = -aim.float()

    def objective(logits: Tensor) -> Tensor:
        agreement = relaxed_codes(logits) * opposite
        active = (agreement > -0.5).float()
        return (active * (agreement + 2.0) * agreement).sum(1) / active.sum(1).clamp(min=1.0)

    return objective


def weighted_targeted_objective(aim: Tensor, clean_logits: Tensor) -> CodeObjective:  # noqa: ARG001
    """Return the objective of the SAAT paper's targeted attack, on relaxed codes, for reproduction.

    With s = aim * relaxed in [-1, 1]: minus the mean of (s + 2) s over the bits with s < 0.5, those that do not reach
    the target firmly. Bits near it weigh most. It *differs from the paper*, and is no measure of success, as
    `weighted_objective`.

    >>> import torch
    >>> weighted_targeted_objective(torch.tensor([[1.0, 1.0]]), torch.empty(0))(torch.tensor([[99.0, -99.0]]))
    tensor([1.])
    """
    target = aim.float()

    def objective(logits: Tensor) -> Tensor:
        agreement = relaxed_codes(logits) * target
        active = (agreement < 0.5).float()
        return -(active * (agreement + 2.0) * agreement).sum(1) / active.sum(1).clamp(min=1.0)

    return objective


def agreement_objective(aim: Tensor, clean_logits: Tensor) -> CodeObjective:  # noqa: ARG001
    """Return the mean disagreement of relaxed codes with the aim: what the papers' inner attacks in training use.

    >>> import torch
    >>> agreement_objective(torch.tensor([[-1.0, -1.0]]), torch.empty(0))(torch.tensor([[99.0, -99.0]]))
    tensor([0.])
    """
    opposite = -aim.float()
    return lambda logits: (relaxed_codes(logits) * opposite).mean(1)


def margin_objective(aim: Tensor, clean_logits: Tensor) -> CodeObjective:
    """Return a scale-free objective on logits: the mean hinge over the bits that have not yet flipped firmly.

    With m = -aim * logits / mean |clean logits| of the same image, the mean of max(m, -0.5) over bits. Growing all
    logits changes nothing, and no bit that is still to be flipped has a vanishing gradient.

    >>> import torch
    >>> margin_objective(torch.tensor([[-1.0, -1.0]]), torch.tensor([[30.0, 10.0]]))(torch.tensor([[20.0, -20.0]]))
    tensor([0.2500])
    """
    opposite = -aim.float() / logit_scale(clean_logits)

    def objective(logits: Tensor) -> Tensor:
        return (logits * opposite).clamp(min=-0.5).mean(1)

    return objective


FLIP_SHARPNESS = 4.0  # of 1, 2 and 4, the one whose attack took most on a hardened model


def flips_objective(aim: Tensor, clean_logits: Tensor) -> CodeObjective:
    """Return a scale-free objective that stands for the number of bits still to flip.

    With m as in `margin_objective`, the mean over bits of tanh(4 m) + max(m, -0.5) / 10. The first term counts: it
    gives up bits that are out of reach for those near zero, and does not pay for flipping a bit twice over. The second
    keeps a gradient where tanh has none.

    >>> import torch
    >>> flips_objective(torch.tensor([[-1.0, -1.0]]), torch.tensor([[30.0, 10.0]]))(torch.tensor([[400.0, -20.0]]))
    tensor([0.9753])
    """
    opposite = -aim.float() / logit_scale(clean_logits)

    def objective(logits: Tensor) -> Tensor:
        margins = logits * opposite
        return (relaxed_codes(margins, FLIP_SHARPNESS) + margins.clamp(min=-0.5) / 10).mean(1)

    return objective


def hag_objective(aim: Tensor, clean_logits: Tensor) -> CodeObjective:
    """Return the objective of HAG, on relaxed codes, for reproduction.

    Yang, Liu, Deng, Tao, *Adversarial Examples for Hamming Space Search*, IEEE Transactions on Cybernetics 2020. Over
    the M bits that have not yet flipped firmly, those with s = -aim * relaxed > -0.5,

        (sum of relaxed * own / M + 1)^2 + (sum of relaxed / K)^2,   own = -aim * |relaxed clean code|:

    the first term drives the agreement to -1, the second keeps the bits balanced.

    >>> import torch
    >>> aim, clean = torch.tensor([[-1.0, -1.0]]), torch.tensor([[99.0, 99.0]])
    >>> hag_objective(aim, clean)(torch.tensor([[99.0, -99.0]]))  # (1 / 1 + 1)^2 + (1 / 2)^2
    tensor([4.2500])
    """
    opposite = -aim.float()
    own = opposite * relaxed_codes(clean_logits).abs()

    def objective(logits: Tensor) -> Tensor:
        relaxed = relaxed_codes(logits)
        active = (relaxed * opposite > -0.5).float()
        agreement = (active * relaxed * own).sum(1) / active.sum(1).clamp(min=1.0)
        return (agreement + 1.0).square() + (active * relaxed).mean(1).square()

    return objective


OBJECTIVES: Mapping[str, MakeObjective] = {
    "flips": flips_objective,
    "margin": margin_objective,
    "weighted": weighted_objective,
    "weighted-targeted": weighted_targeted_objective,
    "agreement": agreement_objective,
    "hag": hag_objective,
}

OF_AIM_ALONE = (weighted_objective, weighted_targeted_objective, agreement_objective)
"""Those that do not look at the clean logits."""

RELAXED = ("weighted", "weighted-targeted", "agreement", "hag")
"""Objectives on relaxed codes, which the papers sharpen over the search."""
