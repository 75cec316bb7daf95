"""Goals: where an attack sends the code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saat.attacks.objectives import OF_AIM_ALONE, MakeObjective, flips_objective
from saat.codes.bank import CodeBank
from saat.codes.semantic import SemanticCodes, mainstay_codes
from saat.hamming import sign_codes
from saat.runtime import frozen
from saat.types import CodeObjective


def clean_logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (B, K) of clean images in eval mode, float32, without a graph."""
    with frozen(model), torch.no_grad():
        logits: Tensor = model(images).float()
    return logits


def objective_toward(aim: Tensor, make_objective: MakeObjective, model: nn.Module, images: Tensor) -> CodeObjective:
    """Return the objective of images (B, 3, H, W) with an aim (B, K), without clean logits where it needs none."""
    aim, needless = aim.to(images.device), make_objective in OF_AIM_ALONE
    return make_objective(aim, images.new_empty(0) if needless else clean_logits_of(model, images))


@dataclass(frozen=True)
class OwnCodeGoal:
    """Away from the query's own code.

    Yang, Liu, Deng, Tao, *Adversarial Examples for Hamming Space Search* (HAG), IEEE Transactions on Cybernetics 2020.

    Args:
        make_objective: how nearness is measured on logits.
    """

    make_objective: MakeObjective = flips_objective
    targeted = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:  # noqa: ARG002
        """Return the objective of images (B, 3, H, W); labels take no part."""
        logits = clean_logits_of(model, images)
        return self.make_objective(-sign_codes(logits), logits)


@dataclass(frozen=True)
class SemanticGoal:
    """Away from the semantic code of the query's labels, or, targeted, toward that of the target's labels.

    With mainstay codes this is the goal of SAAT: Yuan, Zhang, Wang, Wu, *Semantic-Aware Adversarial Training for
    Reliable Deep Hashing Retrieval*, IEEE TIFS 2023. With center codes, of CgAT; targeted with anchor codes, of DHTA.

    Args:
        bank: codes and labels of the train split under the attacked model.
        semantic_codes: (bank, labels (B, C)) -> codes (B, K).
        make_objective: how nearness is measured on logits.
        targeted: toward the semantic code of `labels` (those of the target), instead of away from it.
    """

    bank: CodeBank
    semantic_codes: SemanticCodes = mainstay_codes
    make_objective: MakeObjective = flips_objective
    targeted: bool = False

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:
        """Return the objective of images (B, 3, H, W) with labels (B, C), at least one a row."""
        code = self.semantic_codes(self.bank, labels)
        return objective_toward(code if self.targeted else -code, self.make_objective, model, images)


@dataclass(frozen=True)
class CodesGoal:
    """Toward given codes, one for each image of the batch, whatever its labels.

    Args:
        codes: (B, K) in {-1, +1}.
        make_objective: how nearness is measured on logits.
    """

    codes: Tensor
    make_objective: MakeObjective = flips_objective
    targeted = True

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:  # noqa: ARG002
        """Return the objective of images (B, 3, H, W); labels take no part."""
        return objective_toward(self.codes, self.make_objective, model, images)
