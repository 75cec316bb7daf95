"""Distillation: the codes of a clean teacher are the targets on adversarial images. It needs no label."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from saat.attacks.goals import CodesGoal
from saat.attacks.objectives import MakeObjective, flips_objective
from saat.defenses.inner import InnerAttack, train_logits
from saat.hamming import sign_codes
from saat.losses.central import csq_loss
from saat.types import Batch, StepOutput


class DistillationStep(nn.Module):
    """The train step of robust distillation: adversarial images keep the codes that a teacher gives the clean ones.

    Goldblum, Fowl, Feizi, Goldstein, *Adversarially Robust Distillation*, AAAI 2020:

        min over weights: bitwise cross entropy of the codes of adversarial images to teacher codes of clean images

    No label takes part, so that images without one harden a model too.
    *Differs from the paper*: the teacher is the model before hardening, which is not robust; the targets are its codes,
    not its class probabilities; the inner attack leaves the teacher's code; and there is no term on clean images.

    Args:
        teacher: images (B, 3, H, W) -> logits (B, K) without a graph, the same in each call; it is no part of the
            resume state.
        inner: the inner attack.
        make_objective: of the inner attack.
        precision: of the student's forward pass; see `runtime.autocast`.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor], Tensor],
        inner: InnerAttack,
        *,
        make_objective: MakeObjective = flips_objective,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.inner = inner
        self.make_objective = make_objective
        self.precision = precision

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        target = sign_codes(self.teacher(batch.images))
        objective = CodesGoal(-target, self.make_objective)(model, batch.images, batch.labels)
        logits = train_logits(model, self.inner(model, batch, objective), precision=self.precision)
        distillation = csq_loss(logits, target, quantization_weight=0.0)
        return StepOutput(distillation, {"distillation": distillation.item()})
