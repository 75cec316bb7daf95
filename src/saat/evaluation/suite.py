"""The suite: attacks without parameters to tune, of which each query's worst counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from saat.attacks.annealed import AnnealedPGD
from saat.attacks.autopgd import APGD
from saat.attacks.base import Attack, SearchCost, evaluations_an_image
from saat.attacks.blackbox import SquareAttack
from saat.attacks.catalog import GOALS, GoalOptions, SearchOptions, make_search
from saat.attacks.goals import CodesGoal, OwnCodeGoal, SemanticGoal, clean_logits_of
from saat.attacks.objectives import OBJECTIVES, flips_objective
from saat.attacks.papers import PAPERS
from saat.attacks.threat import ThreatModel
from saat.attacks.transfer import TransferPGD
from saat.attacks.views import EnsembleView, EotView, split_objective
from saat.codes.bank import CodeBank
from saat.errors import ArgumentError
from saat.evaluation.deployment import Deployment
from saat.evaluation.guides import RankingGoal, cheapest_clusters, flip_costs, worst_codes
from saat.hamming import sign_codes
from saat.models.hash_model import HashModel
from saat.runtime import derive_seed
from saat.types import Goal

CLUSTERS = 3  # wrong clusters that the multi-target member tries
EOT_SAMPLES = 8  # passes that `expectation` takes the mean of


@dataclass(frozen=True)
class SuiteBatch:
    """All that a member of the suite may know: an attacker who has the model, the train split and the database.

    Args:
        model: images -> logits.
        bank: codes and labels of the train split.
        deployment: the database.
        images: (B, 3, H, W), the clean queries.
        labels: (B, C), at least one a row.
        logits: (B, K), of the clean queries.
        best: (B, 3, H, W), of each query the image with the lowest average precision so far.
        threat: how far images may move.
        steps: gradient steps of a search; members may take a part or a multiple of them.
        precision: see `runtime.autocast`.
        seed: of all that is random.
        surrogates: other models with the bank of the train split under each, for transfer.
        universal: returns one change for all queries, trained on the train split when it is asked for.
    """

    model: nn.Module
    bank: CodeBank
    deployment: Deployment
    images: Tensor
    labels: Tensor
    logits: Tensor
    best: Tensor
    threat: ThreatModel
    steps: int = 100
    precision: str = "float32"
    seed: int = 0
    surrogates: Sequence[tuple[HashModel, CodeBank]] = ()
    universal: Callable[[], Attack] | None = None

    def run(self, attack: Attack, goal: Goal, *parts: int | str) -> tuple[Tensor, SearchCost]:
        """Return what `attack` finds, and its cost; `parts` tell one search from another in their random draws."""
        objective = goal(self.model, self.images, self.labels)
        before = replace(attack.cost)
        found = attack(self.model, self.images, objective, seed=derive_seed(self.seed, "suite", *parts))
        return found, attack.cost.since(before)

    def apgd(self, *, steps: int | None = None) -> APGD:
        """Return the search that most of the gradient members share."""
        return APGD(self.threat, steps=steps or self.steps, precision=self.precision)

    def lowest(self, found: list[Tensor]) -> Tensor:
        """Return of each query that one of several images with the lowest average precision."""
        values = torch.stack([self.average_precision(images) for images in found])
        choice = values.argmin(0)
        return torch.stack(found)[choice, torch.arange(len(choice), device=choice.device)]

    def average_precision(self, images: Tensor) -> Tensor:
        """Return the tie-aware average precision of images (B, 3, H, W) over the deployed database, float64 (B,)."""
        return self.deployment.average_precision(sign_codes(clean_logits_of(self.model, images)), self.labels)


Member = Callable[[SuiteBatch], tuple[Tensor, SearchCost]]
"""Batch -> adversarial images (B, 3, H, W), and what they cost."""


def away_from_mainstay(batch: SuiteBatch) -> tuple[Tensor, SearchCost]:
    """APGD on scale-free logit margins away from the mainstay code: the strongest single aim, if it can be reached."""
    goal = SemanticGoal(batch.bank, make_objective=flips_objective)
    return batch.run(batch.apgd(), goal, "mainstay")


def nearest_clusters(batch: SuiteBatch) -> tuple[Tensor, SearchCost]:
    """APGD toward each of the wrong clusters that are the best bargain; the lowest average precision counts."""
    clusters = cheapest_clusters(batch.bank, batch.deployment, batch.logits, batch.labels, count=CLUSTERS)
    found, cost = [], SearchCost()
    for number in range(CLUSTERS):
        goal = CodesGoal(clusters[:, number], flips_objective)
        images, used = batch.run(batch.apgd(steps=max(1, batch.steps // 2)), goal, "clusters", number)
        found.append(images)
        cost += used
    cost.model_evaluations += CLUSTERS * evaluations_an_image(batch.model) * len(batch.images)  # to compare them
    return batch.lowest(found), cost


def worst_code(batch: SuiteBatch) -> tuple[Tensor, SearchCost]:
    """APGD toward a code found by flipping the bits that cost most average precision for their price."""
    guide, _ = worst_codes(batch.deployment, sign_codes(batch.logits), batch.labels, costs=flip_costs(batch.logits))
    return batch.run(batch.apgd(), CodesGoal(guide, flips_objective), "worst-code")


def soft_ranking(batch: SuiteBatch) -> tuple[Tensor, SearchCost]:
    """Annealed PGD on the softened average precision itself, from the best image so far."""
    attack = AnnealedPGD(batch.threat, steps=batch.steps, start=batch.best, precision=batch.precision)
    return batch.run(attack, RankingGoal(batch.deployment), "ranking")


def square(batch: SuiteBatch) -> tuple[Tensor, SearchCost]:
    """Square attack on the scores: it sees no gradient, so it is not fooled by gradients that are masked."""
    attack = SquareAttack(batch.threat, queries=3 * batch.steps, precision=batch.precision)
    return batch.run(attack, SemanticGoal(batch.bank, make_objective=flips_objective), "square")


def own_code(batch: SuiteBatch) -> tuple[Tensor, SearchCost]:
    """APGD away from the query's own code: what an attacker can do who knows no labels."""
    return batch.run(batch.apgd(), OwnCodeGoal(flips_objective), "own-code")


def transfer(batch: SuiteBatch) -> tuple[Tensor, SearchCost]:
    """MI-FGSM on the surrogates alone: what an attacker can do who has never asked the model."""
    models = [model for model, _ in batch.surrogates]
    objectives = [
        SemanticGoal(bank, make_objective=flips_objective)(model, batch.images, batch.labels)
        for model, bank in batch.surrogates
    ]
    objective = split_objective(objectives, [model.code_length for model in models])
    attack = TransferPGD(batch.threat, steps=batch.steps, step_size=batch.threat.epsilon / 8, precision=batch.precision)
    found = attack(EnsembleView(models), batch.images, objective, seed=derive_seed(batch.seed, "suite", "transfer"))
    return found, attack.cost


def universal(batch: SuiteBatch) -> tuple[Tensor, SearchCost]:
    """One change for all queries, trained on the train split: what an attacker can do who has no time at the query."""
    if batch.universal is None:
        raise ArgumentError("`universal` is given for the member universal; got none")
    return batch.run(batch.universal(), OwnCodeGoal(flips_objective), "universal")


def expectation(batch: SuiteBatch) -> tuple[Tensor, SearchCost]:
    """APGD on the mean of several passes: for a model that draws at random, which single passes would mislead."""
    view = EotView(batch.model, lambda images, _: images, samples=EOT_SAMPLES, seed=batch.seed)
    seen = replace(batch, model=view, steps=max(1, batch.steps // EOT_SAMPLES))
    return seen.run(seen.apgd(), SemanticGoal(batch.bank, make_objective=flips_objective), "expectation")


def _published(paper: str) -> Member:
    """Return a member that runs a paper's attack: its goal, objective, search, tanh schedule, and last iterate."""
    names = PAPERS[paper]

    def member(batch: SuiteBatch) -> tuple[Tensor, SearchCost]:
        options = SearchOptions(
            batch.threat,
            steps=batch.steps,
            step_size=batch.threat.epsilon / 8,
            restarts=1,
            schedule=True,
            keep_best=False,
            precision=batch.precision,
        )
        goal = GOALS[names["goal"]].make(GoalOptions(batch.bank, OBJECTIVES[names.get("objective", "flips")]))
        return batch.run(make_search(names["search"], options), goal, "published")

    return member


MEMBERS: Mapping[str, Member] = {
    "away-from-mainstay": away_from_mainstay,
    "nearest-clusters": nearest_clusters,
    "worst-code": worst_code,
    "soft-ranking": soft_ranking,
    "square": square,
    "own-code": own_code,
    "transfer": transfer,
    "universal": universal,
    "expectation": expectation,
    "saat": _published("paper"),
    "hag": _published("hag"),
    "sdha": _published("sdha"),
    "cgat": _published("cgat"),
}
STANDARD = ("away-from-mainstay", "nearest-clusters", "worst-code", "soft-ranking", "square")
SUITES: Mapping[str, tuple[str, ...]] = {
    "fast": ("away-from-mainstay", "soft-ranking"),
    "standard": STANDARD,
    "paper": ("saat", "hag", "sdha", "cgat"),
    "full": (
        *("away-from-mainstay", "nearest-clusters", "worst-code", "own-code", "saat", "hag", "sdha", "cgat"),
        *("universal", "expectation", "soft-ranking", "transfer", "square"),
    ),
}
"""Suites by name: members in the order they run; `soft-ranking` starts from the best of those before it.

Black boxes come after it: starting from what one found, it would pass for as strong.
"""
BLACK_BOX = ("square", "transfer")


def check_gray_level(threat: ThreatModel) -> None:
    """Raise where `round_to_8_bits` would leave every image as it is.

    Raises:
        ArgumentError: the radius, in linf, is below one gray level.
    """
    if threat.norm == "linf" and threat.epsilon < 1 / 255:
        raise ArgumentError(
            f"`epsilon` in linf is at least 1/255 here, since images are saved in 8 bits; got {threat.epsilon:g}"
        )


def round_to_8_bits(images: Tensor, clean: Tensor, threat: ThreatModel) -> Tensor:
    """Return the images as a file of 8 bits a channel holds them, still within the threat model, uint8 (B, 3, H, W).

    Args:
        images: adversarial, (B, 3, H, W) in [0, 1].
        clean: uint8 (B, 3, H, W).
        threat: that of the attack. For linf the change is rounded, but to no more than the whole gray levels in
            epsilon; for l2 it is rounded too, and where that makes an image's change longer than epsilon, the values
            that were moved furthest away from zero go back one level, as few as it takes.
    """
    change = images * 255.0 - clean.float()
    if threat.norm == "linf":
        levels = int(threat.epsilon * 255.0 + 1e-4)
        change = change.round().clamp(-levels, levels)
    else:
        change = _round_within(change, threat.epsilon * 255.0)
    return (clean.float() + change).clamp(0, 255).to(torch.uint8)


def _round_within(change: Tensor, radius: float) -> Tensor:
    """Return the changes (B, 3, H, W), in gray levels, as whole levels of a length of at most `radius` in l2.

    >>> _round_within(torch.tensor([1.6, 0.7, -0.6, 0.2]).view(1, 1, 1, 4), 2.0).flatten().tolist()  # not 2, 1, -1, 0
    [1.0, 1.0, -1.0, 0.0]
    """
    rounded = change.round()
    flat = rounded.flatten(1).double()
    away = flat.abs() - change.flatten(1).abs()  # how far from zero rounding has moved each value
    saved = torch.where(away > 0, 2.0 * flat.abs() - 1.0, 0.0)  # of the squared length, by one level toward zero
    order = away.argsort(dim=1, descending=True)
    sorted_savings = saved.gather(1, order)
    saved_before = sorted_savings.cumsum(1) - sorted_savings
    excess = flat.square().sum(1, keepdim=True) - radius**2
    steps = torch.zeros_like(flat).scatter(1, order, ((saved_before < excess) & (sorted_savings > 0)).double())
    return (flat - flat.sign() * steps).view_as(change).float()
