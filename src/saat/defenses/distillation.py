"""Distillation: codes and features of a clean teacher are the targets on adversarial images. It needs no label."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

from saat.attacks.goals import CodesGoal, clean_logits_of
from saat.attacks.objectives import MakeObjective, flips_objective
from saat.defenses.inner import InnerAttack, train_logits
from saat.hamming import sign_codes
from saat.losses.central import csq_loss
from saat.models.hash_model import HashModel
from saat.types import Batch, StepOutput


class DistillationStep(nn.Module):
    """The train step of robust distillation: adversarial images keep what a teacher makes of the clean ones.

    Goldblum, Fowl, Feizi, Goldstein, *Adversarially Robust Distillation*, AAAI 2020, for the codes; Romero et al.,
    *FitNets: Hints for Thin Deep Nets*, ICLR 2015, for the features, which the hash layer is given:

        min over weights: bitwise cross entropy of the codes of adversarial images to teacher codes of clean images
                          + 1 - cosine of the features of adversarial images and the teacher's of clean images

    No label takes part, so that images without one harden a model too. Of a model without a hash layer, only the codes
    are held.
    *Differs from the papers*: the teacher is the model before hardening, which is not robust; the targets are its
    codes, not its class probabilities; the inner attack leaves the teacher's code; there is no term on clean images;
    and features are compared by direction, so that no layer has to map them and no weight has to be tuned.

    Args:
        teacher: images (B, 3, H, W) -> logits (B, K), used in eval mode; it is no part of the resume state.
        inner: the inner attack.
        make_objective: of the inner attack.
        precision: of the student's forward pass; see `runtime.autocast`.
    """

    def __init__(
        self,
        teacher: nn.Module,
        inner: InnerAttack,
        *,
        make_objective: MakeObjective = flips_objective,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.teachers = (teacher,)  # in a tuple, so that its weights are not saved with the step
        self.inner = inner
        self.make_objective = make_objective
        self.precision = precision

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        (teacher,) = self.teachers
        with hash_layer_inputs(teacher) as wanted:
            target = sign_codes(clean_logits_of(teacher, batch.images))
        objective = CodesGoal(-target, self.make_objective)(model, batch.images, batch.labels)
        adversarial = self.inner(model, batch, objective)
        with hash_layer_inputs(model) as found:
            logits = train_logits(model, adversarial, precision=self.precision)
        loss = csq_loss(logits, target, quantization_weight=0.0)
        parts = {"distillation": loss.item()}
        if wanted and found:
            features = 1.0 - F.cosine_similarity(found[0][: len(target)].float(), wanted[0].float()).mean()
            loss, parts["features"] = loss + features, features.item()
        return StepOutput(loss, parts)


@contextmanager
def hash_layer_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """Give a list of what the hash layer of a HashModel is given inside the block, (B, D) a call; none of others."""
    kept: list[Tensor] = []
    if not isinstance(model, HashModel) or isinstance(model.hash_layer, nn.Identity):
        yield kept
        return
    handle = model.hash_layer.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    try:
        yield kept
    finally:
        handle.remove()
