"""ATRDH: adversarial training with images that are sent toward random prototype codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saat.attacks.goals import CodesGoal
from saat.attacks.objectives import MakeObjective, agreement_objective
from saat.attacks.prototype import PrototypeNet, prototype_loss
from saat.codes.bank import CodeBank
from saat.defenses.inner import InnerAttack, train_logits
from saat.hamming import relaxed_codes, sign_codes
from saat.losses.pairwise import dph_loss, pairwise_similarity
from saat.runtime import make_generator
from saat.types import Batch, StepOutput, has_label

PROTOTYPE_RATE = 1e-4  # of Adam, as released


class AtrdhStep(nn.Module):
    """The train step of ATRDH, the defense beside the targeted attack THA.

    Wang, Zhang, Lu, Xu, *Targeted Attack and Defense for Deep Hashing*, SIGIR 2021:

        hashing(clean) + adversarial_weight * mean over (i, j) of (relaxed_adv_i . memory_j / K - similarity_ij)^2

    Each image is sent toward the prototype of a label set, drawn at even odds. The network of the prototypes is trained
    along, a step of Adam a batch, so that they follow the codes of the train split, as the model changes these. The
    memory holds the last relaxed clean code of each train item, at first its code under the model before hardening; the
    similarity is +1 for a shared label and -1 for none.

    *Differs from the released code*: the network is trained already when hardening begins, and the memory holds codes,
    where those are random and zeros there; the network's rate stays, where it falls twice there; label sets are those
    of the train split, there of the database; `prototype_loss` takes all pairs; rows without a label take part in the
    hashing loss only; and unless `inner` has the mode `train`, it attacks in eval mode.

    Args:
        loss: the hashing loss that the model was trained with.
        inner: the inner attack.
        net: of the prototypes, trained on `bank`.
        bank: codes and labels of the train split under the model before hardening; it follows the model.
        make_objective: of the inner attack; the paper's is `agreement_objective`.
        adversarial_weight: of the second term; 2 as released.
        precision: of the forward passes; see `runtime.autocast`.
        seed: of the label sets drawn.
    """

    sets: Tensor
    labels: Tensor
    labeled: Tensor
    memory: Tensor

    def __init__(
        self,
        loss: nn.Module,
        inner: InnerAttack,
        *,
        net: PrototypeNet,
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
        self.bank, self.net = bank, net.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=PROTOTYPE_RATE, betas=(0.5, 0.999))
        sets = bank.set_labels[has_label(bank.set_labels)].float()
        self.register_buffer("sets", sets, persistent=False)
        self.register_buffer("labeled", torch.nonzero(has_label(bank.labels)).flatten(), persistent=False)
        self.register_buffer("labels", bank.labels[self.labeled].float(), persistent=False)  # of these items
        self.register_buffer("memory", bank.codes.float())

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`."""
        clean = train_logits(model, batch.images, precision=self.precision)
        hashing = self.loss(clean, batch.labels, batch.indices)
        self.memory = self.memory.index_copy(0, batch.indices, relaxed_codes(clean.detach()))
        self.bank.update_(batch.indices, sign_codes(clean.detach()))
        labeled = has_label(batch.labels)
        if not bool(labeled.any()):
            return StepOutput(hashing, {"hashing": hashing.item()})
        chosen = batch.select(labeled)
        goal = CodesGoal(self._prototypes(self._targets(len(chosen.images))), self.make_objective)
        adversarial = self.inner(model, chosen, goal(model, chosen.images, chosen.labels))
        relaxed = relaxed_codes(train_logits(model, adversarial, precision=self.precision))
        wanted = pairwise_similarity(chosen.labels, self.labels)
        similarity = dph_loss(relaxed, self.memory[self.labeled], wanted)
        parts = {"hashing": hashing.item(), "similarity": similarity.item()}
        return StepOutput(hashing + self.adversarial_weight * similarity, parts)

    def _targets(self, count: int) -> Tensor:
        """Draw `count` label sets; the draw of each batch depends on the seed and on how many came before it."""
        generator = make_generator(self.seed, "targets", int(self.inner.calls))
        drawn = torch.randint(len(self.sets), (count,), generator=generator)
        return self.sets[drawn.to(self.sets.device)]

    def _prototypes(self, labels: Tensor) -> Tensor:
        """Return the prototype codes (B, K) of label sets (B, C), and take a step that teaches the network these."""
        relaxed = self.net(labels)
        codes = self.bank.codes[self.labeled].float()
        loss = prototype_loss(relaxed, labels, codes, self.labels, torch.ones(len(codes), device=codes.device))
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        return sign_codes(relaxed.detach())

    def get_extra_state(self) -> dict[str, Any]:
        """Return what training changes beside the loss, the memory and the network."""
        return {"codes": self.bank.codes, "optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `get_extra_state` gave."""
        self.bank.restore_(state["codes"])
        self.optimizer.load_state_dict(state["optimizer"])
