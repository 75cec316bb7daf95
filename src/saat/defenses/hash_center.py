"""HCAT: hash-center adversarial training, toward codes that are fixed and far apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saat.attacks.base import Attack
from saat.attacks.goals import CodesGoal
from saat.attacks.objectives import MakeObjective, flips_objective
from saat.codes.semantic import has_label
from saat.defenses.inner import InnerAttack, train_logits
from saat.hamming import relaxed_codes
from saat.losses.central import center_of_labels, csq_loss, hash_centers
from saat.runtime import make_generator
from saat.types import Batch, StepOutput


def similarity_loss(logits: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Return the cross entropy of the labels under a softmax over the relaxed codes' products with all centers.

    The products are divided by the square root of K; several labels share the probability evenly.

    Args:
        logits: (B, K).
        labels: (B, C) multi-hot, at least one a row.
        centers: (C, K) in {-1, +1}.

    >>> centers = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> similarity_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), centers)  # ln 2
    tensor(0.6931)
    """
    scores = relaxed_codes(logits) @ centers.float().T / centers.shape[1] ** 0.5
    present = (labels > 0).float()
    return F.cross_entropy(scores, present / present.sum(1, keepdim=True))


class HashCenterStep(nn.Module):
    """The train step of hash-center adversarial training, saat's own defense.

    Each label set has a fixed hash center (those of CSQ; Yuan et al., CVPR 2020): far from the others from the first
    step on, where mainstay codes drift with the codes that they are computed from. The model sees adversarial images
    only, made in eval mode by an attack on scale-free logits away from the center, and learns

        bitwise cross entropy to the center + cross entropy over the similarities to all centers.

    Rows without a label take no part.

    Args:
        num_classes: C.
        code_length: K, in bits.
        attack: the inner attack.
        make_objective: of the inner attack.
        precision: of the forward passes; see `runtime.autocast`.
        seed: of the inner attack's random starts.
    """

    centers: Tensor
    tie_break: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        code_length: int,
        attack: Attack,
        make_objective: MakeObjective = flips_objective,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.inner = InnerAttack(attack, seed=seed)
        self.make_objective = make_objective
        self.precision = precision
        self.register_buffer("centers", hash_centers(num_classes, code_length))
        draw = torch.randint(0, 2, (code_length,), generator=make_generator("tie break"))
        self.register_buffer("tie_break", (draw * 2 - 1).to(torch.int8))

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        labeled = has_label(batch.labels)
        images, labels = batch.images[labeled], batch.labels[labeled]
        if not len(images):
            return StepOutput(model(batch.images).sum() * 0.0, {"center": 0.0, "similarity": 0.0})
        target = center_of_labels(self.centers, labels, self.tie_break)
        objective = CodesGoal(-target, self.make_objective)(model, images, labels)
        logits = train_logits(model, self.inner(model, images, objective), precision=self.precision)
        center = csq_loss(logits, target, quantization_weight=0.0)
        similarity = similarity_loss(logits, labels, self.centers)
        return StepOutput(center + similarity, {"center": center.item(), "similarity": similarity.item()})
