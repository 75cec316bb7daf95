"""ATRDH: adversarial training with images that are sent toward random prototype codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saat.attacks.goals import CodesGoal
from saat.attacks.objectives import MakeObjective, agreement_objective
from saat.codes.bank import CodeBank
from saat.codes.semantic import has_label
from saat.defenses.inner import InnerAttack, train_logits
from saat.hamming import relaxed_codes
from saat.losses.pairwise import dph_loss, pairwise_similarity
from saat.runtime import make_generator
from saat.types import Batch, StepOutput


class AtrdhStep(nn.Module):
    """The train step of ATRDH, the defense beside the targeted attack THA.

    Wang, Zhang, Lu, Xu, *Targeted Attack and Defense for Deep Hashing*, SIGIR 2021:

        hashing(clean) + adversarial_weight * mean over (i, j) of (relaxed_adv_i . memory_j / K - similarity_ij)^2

    Each image is sent toward the prototype of a label set, drawn at even odds. The memory holds the last relaxed clean
    code of each train item, at first its code under the model before hardening; the similarity is +1 for a shared label
    and -1 for none.

    *Differs from the released code*: the prototypes are learned once, from the codes of the model before hardening,
    where that trains their network along with the model; the memory holds zeros there at first; rows without a label
    take part in the hashing loss only; and unless `inner` has the mode `train`, it attacks in eval mode.

    Args:
        loss: the hashing loss that the model was trained with.
        inner: the inner attack.
        prototypes: (U, K) in {-1, +1}, what images are sent toward.
        bank: codes and labels of the train split under the model before hardening.
        make_objective: of the inner attack; the paper's is `agreement_objective`.
        adversarial_weight: of the second term; 2 as released.
        precision: of the forward passes; see `runtime.autocast`.
        seed: of the prototypes drawn.
    """

    prototypes: Tensor
    labels: Tensor
    labeled: Tensor
    memory: Tensor

    def __init__(
        self,
        loss: nn.Module,
        inner: InnerAttack,
        *,
        prototypes: Tensor,
        bank: CodeBank,
        make_objective: MakeObjective = agreement_objective,
        adversarial_weight: float = 2.0,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.inner = inner
        self.make_objective = make_objective
        self.adversarial_weight = adversarial_weight
        self.precision, self.seed = precision, seed
        self.register_buffer("prototypes", prototypes)
        self.register_buffer("labeled", torch.nonzero(has_label(bank.labels)).flatten(), persistent=False)
        self.register_buffer("labels", bank.labels[self.labeled].float(), persistent=False)  # of these items
        self.register_buffer("memory", bank.codes.float())

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        clean = train_logits(model, batch.images, precision=self.precision)
        hashing = self.loss(clean, batch.labels, batch.indices)
        self.memory = self.memory.index_copy(0, batch.indices, relaxed_codes(clean.detach()))
        labeled = has_label(batch.labels)
        if not bool(labeled.any()):
            return StepOutput(hashing, {"hashing": hashing.item()})
        chosen = batch.select(labeled)
        goal = CodesGoal(self._targets(len(chosen.images)), self.make_objective)
        adversarial = self.inner(model, chosen, goal(model, chosen.images, chosen.labels))
        relaxed = relaxed_codes(train_logits(model, adversarial, precision=self.precision))
        wanted = pairwise_similarity(chosen.labels, self.labels)
        similarity = dph_loss(relaxed, self.memory[self.labeled], wanted)
        parts = {"hashing": hashing.item(), "similarity": similarity.item()}
        return StepOutput(hashing + self.adversarial_weight * similarity, parts)

    def _targets(self, count: int) -> Tensor:
        """Draw `count` prototypes; the draw of each batch depends on the seed and on how many came before it."""
        generator = make_generator(self.seed, "targets", int(self.inner.calls))
        drawn = torch.randint(len(self.prototypes), (count,), generator=generator)
        return self.prototypes[drawn.to(self.prototypes.device)]
