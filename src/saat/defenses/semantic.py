"""SAAT: semantic-aware adversarial training, one minimax problem guided by mainstay codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saat.attacks.base import Attack
from saat.attacks.goals import SemanticGoal
from saat.attacks.objectives import MakeObjective, agreement_objective
from saat.codes.bank import CodeBank
from saat.codes.semantic import has_label, mainstay_codes
from saat.hamming import relaxed_codes, sign_codes
from saat.runtime import autocast, derive_seed
from saat.types import Batch, StepOutput


def alignment_loss(relaxed: Tensor, mainstay: Tensor) -> Tensor:
    """Return minus the mean agreement of relaxed adversarial codes (B, K) with their mainstay codes (B, K).

    >>> alignment_loss(torch.tensor([[1.0, 0.5]]), torch.tensor([[1, -1]]))  # -(1 - 0.5) / 2
    tensor(-0.2500)
    """
    return -(relaxed * mainstay).mean()


def quantization_loss(relaxed: Tensor) -> Tensor:
    """Return the mean squared distance of relaxed codes (B, K) to their own signs.

    >>> quantization_loss(torch.tensor([[1.0, -0.5]]))  # (0 + 0.25) / 2
    tensor(0.1250)
    """
    return (relaxed - sign_codes(relaxed.detach())).square().mean()


class SaatStep(nn.Module):
    """The train step of SAAT.

    Yuan, Zhang, Wang, Wu, *Semantic-Aware Adversarial Training for Reliable Deep Hashing Retrieval*, IEEE TIFS 2023:

        min over weights, max over the perturbation:
        hashing(clean) + adversarial_weight * alignment(adversarial, mainstay) + quantization_weight * quantization

    The bank follows the model: each batch puts its new clean codes there before its mainstay codes are computed.
    *Differs from the paper*: the inner attack runs in eval mode (as every attack of saat), and rows without a label,
    which have no mainstay code, take part in the hashing loss only.

    Args:
        loss: the hashing loss that the model was trained with.
        bank: codes and labels of the train split.
        attack: the inner attack.
        make_objective: of the inner attack; the paper's is `agreement_objective`.
        adversarial_weight: of the alignment term.
        quantization_weight: of the quantization term.
        precision: of the forward passes; see `runtime.autocast`.
        seed: of the inner attack's random starts.
    """

    def __init__(
        self,
        loss: nn.Module,
        bank: CodeBank,
        attack: Attack,
        *,
        make_objective: MakeObjective = agreement_objective,
        adversarial_weight: float = 1.0,
        quantization_weight: float = 1e-4,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.bank = bank
        self.attack = attack
        self.goal = SemanticGoal(bank, make_objective=make_objective)
        self.adversarial_weight = adversarial_weight
        self.quantization_weight = quantization_weight
        self.precision = precision
        self.seed = seed
        self.batches_seen = 0

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        clean = self._logits(model, batch.images)
        hashing = self.loss(clean, batch.labels, batch.indices)
        self.bank.update_(batch.indices, sign_codes(clean.detach()))
        self.batches_seen += 1
        labeled = has_label(batch.labels)
        if not bool(labeled.any()):
            return StepOutput(hashing, {"hashing": hashing.item()})
        images, labels = batch.images[labeled], batch.labels[labeled]
        objective = self.goal(model, images, labels)
        adversarial = self.attack(model, images, objective, seed=derive_seed(self.seed, "inner", self.batches_seen))
        relaxed = relaxed_codes(self._logits(model, adversarial))
        alignment = alignment_loss(relaxed, mainstay_codes(self.bank, labels))
        quantization = quantization_loss(relaxed)
        total = hashing + self.adversarial_weight * alignment + self.quantization_weight * quantization
        parts = {"hashing": hashing, "alignment": alignment, "quantization": quantization}
        return StepOutput(total, {name: term.item() for name, term in parts.items()})

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        with autocast(self.precision, images.device):
            logits: Tensor = model(images)
        return logits.float()

    def get_extra_state(self) -> dict[str, Any]:
        """Return what training changes beside the loss: the bank's codes and the number of batches seen."""
        return {"codes": self.bank.codes, "batches_seen": self.batches_seen}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `get_extra_state` gave."""
        everything = torch.arange(len(self.bank), device=self.bank.codes.device)
        self.bank.update_(everything, state["codes"].to(self.bank.codes.device))
        self.batches_seen = state["batches_seen"]
