"""Prototype codes: the code that stands for a label set, learned by a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saat.attacks.goals import objective_toward
from saat.attacks.objectives import MakeObjective, flips_objective
from saat.codes.bank import CodeBank
from saat.errors import ArgumentError, check_at_least
from saat.hamming import relaxed_codes, sign_codes
from saat.runtime import derive_seed, device_of, make_generator, progress
from saat.types import CodeObjective, has_label

QUANTIZATION_WEIGHT = 1e-4


class PrototypeNet(nn.Module):
    """A network from labels to relaxed prototype codes: labels -> ReLU -> embedding -> tanh.

    Wang, Zhang, Lu, Xu, *Targeted Attack and Defense for Deep Hashing*, SIGIR 2021.

    Args:
        classes: C, the width of the labels.
        code_length: K, in bits.
        widths: of the hidden layer and of the embedding.
    """

    def __init__(self, *, classes: int, code_length: int, widths: tuple[int, int] = (4096, 512)) -> None:
        super().__init__()
        self.classes = classes
        hidden, embedding = widths
        self.layers = nn.Sequential(
            nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, embedding), nn.Linear(embedding, code_length)
        )

    def forward(self, labels: Tensor) -> Tensor:
        """Map labels (B, C), multi-hot, to relaxed codes (B, K) in [-1, 1]."""
        return relaxed_codes(self.layers((labels > 0).float()))


def circle_loss(similarity: Tensor, relevant: Tensor, counts: Tensor) -> Tensor:
    """Return the circle loss of prototypes against codes: high similarity to relevant ones, low to the others.

    Sun et al., *Circle Loss: A Unified Perspective of Pair Similarity Optimization*, CVPR 2020, as the released code
    of THA has it, without margins and without the 1 inside the logarithm, at a scale of 1:

        log sum_{relevant} c exp(-(2 - s) s) + log sum_{others} c exp((2 + s) s)

    where the factors (2 - s) and (2 + s) take no gradient: the pairs farthest from their aim weigh most. A term
    without a pair drops out.

    Args:
        similarity: s, float (B, P) in [-1, 1], with a graph.
        relevant: bool (B, P).
        counts: c, float (P,), how many items each column stands for.

    >>> similarity = torch.tensor([[1.0, -1.0]])  # at their aims: -(2 - 1) 1 + (2 - 1) (-1)
    >>> circle_loss(similarity, torch.tensor([[True, False]]), torch.ones(2))
    tensor(-2.)
    """
    toward = counts.log() - (2.0 - similarity.detach()) * similarity
    away = counts.log() + (2.0 + similarity.detach()) * similarity
    terms = [pairs.logsumexp(0) for pairs in (toward[relevant], away[~relevant]) if len(pairs)]
    return torch.stack(terms).sum()


def prototype_loss(relaxed: Tensor, labels: Tensor, item_codes: Tensor, item_labels: Tensor, counts: Tensor) -> Tensor:
    """Return the scalar loss of prototypes: their circle loss against the codes of items, and their quantization.

    The similarity of the circle loss is agreement / K, and an item is relevant when it shares a label; the
    quantization is 1e-4 times the sum of (relaxed - sign)^2.

    Args:
        relaxed: prototypes (B, K) in [-1, 1], with a graph.
        labels: (B, C) multi-hot, those of the prototypes, float.
        item_codes: (P, K) in {-1, +1}, float.
        item_labels: (P, C) multi-hot, float.
        counts: float (P,), how many items each row stands for.
    """
    similarity = relaxed @ item_codes.T / relaxed.shape[1]
    quantization = (relaxed - relaxed.detach().sign()).square().sum()
    return circle_loss(similarity, labels @ item_labels.T > 0, counts) + QUANTIZATION_WEIGHT * quantization


def fit_prototypes(
    bank: CodeBank,
    *,
    widths: tuple[int, int] = (4096, 512),
    steps: int = 200,
    batch_size: int = 64,
    learning_rate: float = 3e-4,
    seed: int = 0,
    quiet: bool = False,
) -> PrototypeNet:
    """Train a PrototypeNet on the label sets of a bank, by Adam, and return it in eval mode on the bank's device.

    Wang, Zhang, Lu, Xu, *Targeted Attack and Defense for Deep Hashing*, SIGIR 2021. The loss of a batch of label sets
    is `prototype_loss`.

    *Differs from the released code*: it takes the upper triangle of the matrix of label sets by train items, which
    keeps a part of the pairs that depends on their order; here all pairs take part, equal items as one with a count.
    It takes 30,000 steps at a rate of 1e-4; the defaults here take a few seconds on one core with 10 classes and 5,000
    codes. Data with thousands of label sets need more steps.

    Args:
        bank: codes and labels of the train split under the attacked model.
        widths: see `PrototypeNet`.
        steps: of Adam.
        batch_size: distinct label sets a step.
        learning_rate: of Adam.
        seed: of the first weights and the order.
        quiet: show no bar.

    Raises:
        ArgumentError: an option is out of range, or the bank has no item with a label.
    """
    check_at_least("steps", steps, 1)
    check_at_least("batch_size", batch_size, 1)
    check_at_least("learning_rate", learning_rate, 0.0)
    sets = bank.set_labels[has_label(bank.set_labels)].float()
    if not len(sets):
        raise ArgumentError(f"`bank` has items with a label; got none among {len(bank)}")
    classes, code_length, device = sets.shape[1], bank.code_length, bank.codes.device
    item_labels, item_codes, counts = _distinct_items(bank)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "fit_prototypes"))
        net = PrototypeNet(classes=classes, code_length=code_length, widths=widths).to(device)
    generator = make_generator(seed, "fit_prototypes")
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate, betas=(0.5, 0.999))
    for _ in progress(range(steps), "fit prototypes", unit="step", quiet=quiet):
        labels = sets[torch.randperm(len(sets), generator=generator)[:batch_size].to(device)]
        loss = prototype_loss(net(labels), labels, item_codes, item_labels, counts)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return net.eval().requires_grad_(False)


def _distinct_items(bank: CodeBank) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct pairs of labels (P, C) and codes (P, K) of a bank, and their counts (P,), all float."""
    items = torch.cat([(bank.labels > 0).to(bank.codes), bank.codes], 1)
    distinct, counts = torch.unique(items, dim=0, return_counts=True)
    labels, codes = distinct.float().split([bank.labels.shape[1], bank.code_length], 1)
    return labels, codes, counts.float()


def prototype_codes(net: PrototypeNet, labels: Tensor) -> Tensor:
    """Return the prototype code of each label set, int8 (B, K) in {-1, +1}, on the net's device.

    Args:
        net: a trained PrototypeNet.
        labels: (B, C) multi-hot, at least one label a row.

    Raises:
        ArgumentError: the label widths differ, or a row has no label.
    """
    if labels.ndim != 2 or labels.shape[1] != net.classes:
        raise ArgumentError(f"`labels` is (B, C) with C = {net.classes} as in the net; got {tuple(labels.shape)}")
    if not bool(has_label(labels).all()):
        raise ArgumentError("`labels` has a label in every row; got a row without one, which has no prototype code")
    with torch.no_grad():
        return sign_codes(net(labels.to(device_of(net))))


@dataclass(frozen=True)
class PrototypeGoal:
    """Toward the prototype code of the target's labels.

    Wang, Zhang, Lu, Xu, *Targeted Attack and Defense for Deep Hashing* (THA), SIGIR 2021. With `agreement_objective`
    it is the paper's.

    Args:
        net: the trained PrototypeNet; see `fit_prototypes`.
        make_objective: how nearness is measured on logits.
    """

    net: PrototypeNet
    make_objective: MakeObjective = flips_objective
    targeted = True

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:
        """Return the objective of images (B, 3, H, W) toward labels (B, C), those of the target."""
        return objective_toward(prototype_codes(self.net, labels), self.make_objective, model, images)
