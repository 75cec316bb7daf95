"""PGD-AT and TRADES for hashing: the inner attack leaves the image's own code."""

from __future__ import annotations

from torch import Tensor, nn

from saat.attacks.goals import OwnCodeGoal
from saat.attacks.objectives import MakeObjective, flips_objective
from saat.defenses.inner import InnerAttack, train_logits
from saat.hamming import relaxed_codes
from saat.types import Batch, StepOutput


class PgdStep(nn.Module):
    """The train step of plain adversarial training: the hashing loss, on adversarial images.

    Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018:

        min over weights: hashing(adversarial)

    *Differs from the paper*: its inner attack raises the training loss itself. Hashing losses look at pairs of images,
    or at the codes of all others, so the attack here leaves the own code of each image, which needs no label.

    Args:
        loss: a hashing loss.
        inner: the inner attack.
        make_objective: of the inner attack.
        precision: of the forward passes; see `runtime.autocast`.
    """

    def __init__(
        self,
        loss: nn.Module,
        inner: InnerAttack,
        *,
        make_objective: MakeObjective = flips_objective,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.loss = loss
        self.inner = inner
        self.goal = OwnCodeGoal(make_objective)
        self.precision = precision

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        adversarial = self.inner(model, batch, self.goal(model, batch.images, batch.labels))
        logits = train_logits(model, adversarial, precision=self.precision)
        hashing = self.loss(logits, batch.labels, batch.indices)
        return StepOutput(hashing, {"hashing": hashing.item()})


def divergence_loss(relaxed: Tensor, clean: Tensor) -> Tensor:
    """Return the mean squared difference of relaxed adversarial and relaxed clean codes, both (B, K).

    >>> import torch
    >>> divergence_loss(torch.tensor([[1.0, 0.5]]), torch.tensor([[1.0, -0.5]]))  # (0 + 1) / 2
    tensor(0.5000)
    """
    return (relaxed - clean).square().mean()


class TradesStep(nn.Module):
    """The train step of TRADES on codes: good clean codes, and adversarial codes near to the clean ones.

    Zhang et al., *Theoretically Principled Trade-off between Robustness and Accuracy*, ICML 2019:

        min over weights, max over the perturbation:
        hashing(clean) + adversarial_weight * mean((relaxed_adv - relaxed_clean)^2)

    The gradient goes through both codes. Rows without a label take part in the second term.
    *Differs from the paper*: the squared difference of relaxed codes takes the place of the divergence of class
    probabilities, and the inner attack leaves the own code instead of raising it.

    Args:
        loss: a hashing loss.
        inner: the inner attack.
        make_objective: of the inner attack.
        adversarial_weight: of the second term; the paper's 1 / lambda, which is 1 to 6 there.
        precision: of the forward passes; see `runtime.autocast`.
    """

    def __init__(
        self,
        loss: nn.Module,
        inner: InnerAttack,
        *,
        make_objective: MakeObjective = flips_objective,
        adversarial_weight: float = 1.0,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.loss = loss
        self.inner = inner
        self.goal = OwnCodeGoal(make_objective)
        self.adversarial_weight = adversarial_weight
        self.precision = precision

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        clean = train_logits(model, batch.images, precision=self.precision)
        hashing = self.loss(clean, batch.labels, batch.indices)
        adversarial = self.inner(model, batch, self.goal(model, batch.images, batch.labels))
        relaxed = relaxed_codes(train_logits(model, adversarial, precision=self.precision))
        divergence = divergence_loss(relaxed, relaxed_codes(clean))
        parts = {"hashing": hashing.item(), "divergence": divergence.item()}
        return StepOutput(hashing + self.adversarial_weight * divergence, parts)
