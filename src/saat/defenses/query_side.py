"""Query-side adversarial training: the database keeps its codes, and only the model for queries is hardened."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saat.codes.bank import CodeBank
from saat.codes.semantic import mainstay_codes
from saat.defenses.inner import InnerAttack, train_logits
from saat.hamming import relaxed_codes
from saat.types import Batch, StepOutput, has_label


def query_side_losses(logits: Tensor, labels: Tensor, mainstay: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return both parts of the loss of each image, float (B,).

    The first is the bitwise cross entropy of the code to the mainstay code of the image's labels, BCE(sigmoid(2 logit),
    bit). The second is the cross entropy of the labels under a softmax over the relaxed code's products with the
    centers, divided by the square root of K; several labels share the probability evenly.

    Args:
        logits: (B, K).
        labels: (B, C) multi-hot, at least one a row.
        mainstay: (B, K) in {-1, +1}, of each row's labels.
        centers: (C, K) in {-1, +1}, the mainstay code of each label alone.

    >>> centers = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> query_side_losses(torch.zeros(1, 2), torch.tensor([[1, 0]]), centers[:1], centers)  # ln 2, both
    (tensor([0.6931]), tensor([0.6931]))
    """
    bits = F.softplus(-2.0 * logits * mainstay.float()).mean(1)
    scores = relaxed_codes(logits) @ centers.float().T / centers.shape[1] ** 0.5
    present = (labels > 0).float()
    similarity = F.cross_entropy(scores, present / present.sum(1, keepdim=True), reduction="none")
    return bits, similarity


class QuerySideStep(nn.Module):
    """The train step of query-side adversarial training, saat's own defense.

    An attacker chooses the query; the images of the database are the owner's. So the database can keep the codes of the
    model before hardening, which finds more because it gave nothing up for robustness, and only the model that encodes
    queries is hardened: toward the mainstay codes of those codes, which stand still. No image of the database has to be
    encoded again.

        min over weights, max over the perturbation: bitwise cross entropy to the mainstay code
                                                     + cross entropy over the similarities to all labels' mainstay codes

    The inner attack maximizes the same loss in eval mode; the model learns from adversarial images only. Rows without a
    label take no part. What it does not defend: an item that an attacker puts into the database is encoded by the model
    before hardening.

    Different functions for query and database, without an attacker: Shen et al., *Deep Asymmetric Pairwise Hashing*,
    ACM MM 2017; Jiang and Li, *Asymmetric Deep Supervised Hashing*, AAAI 2018.

    Args:
        bank: codes and labels of what is trained on, under the database's model.
        inner: the inner attack.
        precision: of the forward passes; see `runtime.autocast`.
    """

    def __init__(self, bank: CodeBank, inner: InnerAttack, *, precision: str = "float32") -> None:
        super().__init__()
        self.inner = inner
        self.bank = bank
        self.precision = precision
        self.known = (bank.labels > 0).any(0)  # a label that no item has, has no mainstay code
        each = torch.eye(len(self.known), dtype=bank.labels.dtype, device=bank.labels.device)
        self.centers = mainstay_codes(bank, each[self.known])

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        chosen = batch.select(has_label(batch.labels))
        labels = chosen.labels[:, self.known]
        if not len(labels):
            logits = train_logits(model, batch.images, precision=self.precision)
            return StepOutput(logits.sum() * 0.0, {"bits": 0.0, "similarity": 0.0})
        mainstay = mainstay_codes(self.bank, chosen.labels)

        def losses(logits: Tensor) -> tuple[Tensor, Tensor]:
            return query_side_losses(logits, labels, mainstay, self.centers)

        def objective(logits: Tensor) -> Tensor:
            bits, similarity = losses(logits)
            return -(bits + similarity)

        logits = train_logits(model, self.inner(model, chosen, objective), precision=self.precision)
        bits, similarity = (part.mean() for part in losses(logits))
        return StepOutput(bits + similarity, {"bits": bits.item(), "similarity": similarity.item()})
