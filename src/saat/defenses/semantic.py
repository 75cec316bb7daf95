"""SAAT and CgAT: one minimax problem, guided by the semantic codes of the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from saat.attacks.goals import SemanticGoal
from saat.attacks.objectives import MakeObjective, agreement_objective
from saat.codes.bank import CodeBank
from saat.codes.semantic import SemanticCodes, mainstay_codes
from saat.defenses.inner import InnerAttack, train_logits
from saat.hamming import relaxed_codes, sign_codes
from saat.types import Batch, StepOutput, has_label


def alignment_loss(relaxed: Tensor, semantic: Tensor) -> Tensor:
    """Return minus the mean agreement of relaxed adversarial codes (B, K) with their semantic codes (B, K).

    >>> import torch
    >>> alignment_loss(torch.tensor([[1.0, 0.5]]), torch.tensor([[1, -1]]))  # -(1 - 0.5) / 2
    tensor(-0.2500)
    """
    return -(relaxed * semantic).mean()


def quantization_loss(relaxed: Tensor) -> Tensor:
    """Return the mean squared distance of relaxed codes (B, K) to their own signs.

    >>> import torch
    >>> quantization_loss(torch.tensor([[1.0, -0.5]]))  # (0 + 0.25) / 2
    tensor(0.1250)
    """
    return (relaxed - sign_codes(relaxed.detach())).square().mean()


class SaatStep(nn.Module):
    """The train step of SAAT, and, with center codes, of CgAT.

    Yuan, Zhang, Wang, Wu, *Semantic-Aware Adversarial Training for Reliable Deep Hashing Retrieval*, IEEE TIFS 2023:

        min over weights, max over the perturbation:
        hashing(clean) + adversarial_weight * alignment(adversarial, mainstay) + quantization_weight * quantization

    Wang, Lin, Li, *CgAT: Center-Guided Adversarial Training for Deep Hashing-Based Retrieval*, WWW 2023, is the same
    with `center_codes`, an adversarial weight of 1, and no quantization term.

    The bank follows the model: each batch puts its new clean codes there, after the inner attack and before the
    semantic codes of the loss. The model sees adversarial images before clean ones, which batch statistics remember.
    Both as released. *Differs from the released codes*: their bank shares its storage with the memory of the DPH loss,
    so that of images seen in earlier batches relaxed codes vote, where the papers and this have signs; rows without a
    label, which have no semantic code, take part in the hashing loss only; and unless `inner` has the mode `train`, it
    attacks in eval mode, as every attack of saat.

    Args:
        loss: the hashing loss that the model was trained with.
        bank: codes and labels of the train split.
        inner: the inner attack.
        semantic_codes: (bank, labels (B, C)) -> codes (B, K), what the adversarial codes are held to.
        make_objective: of the inner attack; the paper's is `agreement_objective`.
        adversarial_weight: of the alignment term.
        quantization_weight: of the quantization term.
        precision: of the forward passes; see `runtime.autocast`.
    """

    def __init__(
        self,
        loss: nn.Module,
        bank: CodeBank,
        inner: InnerAttack,
        *,
        semantic_codes: SemanticCodes = mainstay_codes,
        make_objective: MakeObjective = agreement_objective,
        adversarial_weight: float = 1.0,
        quantization_weight: float = 1e-4,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.loss = loss
        self.bank = bank
        self.inner = inner
        self.semantic_codes = semantic_codes
        self.goal = SemanticGoal(bank, semantic_codes, make_objective)
        self.adversarial_weight = adversarial_weight
        self.quantization_weight = quantization_weight
        self.precision = precision

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        labeled = has_label(batch.labels)
        relaxed = self._adversarial(model, batch.select(labeled)) if bool(labeled.any()) else None
        clean = train_logits(model, batch.images, precision=self.precision)
        self.bank.update_(batch.indices, sign_codes(clean.detach()))
        parts = {"hashing": self.loss(clean, batch.labels, batch.indices)}
        total = parts["hashing"]
        if relaxed is not None:
            semantic = self.semantic_codes(self.bank, batch.labels[labeled])
            parts |= {"alignment": alignment_loss(relaxed, semantic), "quantization": quantization_loss(relaxed)}
            total = total + self.adversarial_weight * parts["alignment"]
            total = total + self.quantization_weight * parts["quantization"]
        return StepOutput(total, {name: term.item() for name, term in parts.items()})

    def _adversarial(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return relaxed codes (B, K), with their graph, of the images of `batch` after the inner attack."""
        adversarial = self.inner(model, batch, self.goal(model, batch.images, batch.labels))
        return relaxed_codes(train_logits(model, adversarial, precision=self.precision))

    def get_extra_state(self) -> dict[str, Any]:
        """Return the codes of the bank, which training changes beside the loss."""
        return {"codes": self.bank.codes}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `get_extra_state` gave."""
        self.bank.restore_(state["codes"])
