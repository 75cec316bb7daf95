"""The attacker of a recipe: what is looked at, where to, and how to search, put together from options."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from saat.attacks.base import Attack
from saat.attacks.catalog import GOALS, GoalOptions, SearchOptions, Traits, find_search, make_search
from saat.attacks.generative import GENERATORS, fit_generator
from saat.attacks.objectives import OBJECTIVES, RELAXED
from saat.attacks.prototype import PrototypeGoal, prototype_codes
from saat.attacks.threat import ThreatModel
from saat.attacks.universal import fit_universal
from saat.attacks.views import EnsembleView, SearchView, nearest_ids, split_objective
from saat.recipes.outcome import SubjectCodes, encode_subject
from saat.recipes.subject import Subject
from saat.runtime import make_generator
from saat.types import CodeObjective, Goal, has_label

if TYPE_CHECKING:
    from saat.recipes.attack import AttackConfig
    from saat.recipes.outside import ServiceSearch

RETURNED = 100  # ids that a search service shows
TARGETS_AT_ONCE = 256  # queries, each with a chance for each item of the database
STEPPED_SIGMA = 0.03  # a smaller look at returned ids sees no difference in nine of ten directions

TRAINED: Mapping[str, Traits] = {"universal": Traits(), **dict.fromkeys(GENERATORS, Traits(step="chosen"))}
"""Searches that are trained on the train split first."""


def traits_of(search: str) -> Traits:
    """Return what goes with a search, trained or not."""
    return TRAINED[search] if search in TRAINED else find_search(search).traits


@dataclass(frozen=True)
class Attacker:
    """A search, ready for batches of queries.

    Args:
        model: what the search looks at: the attacked model, or surrogates.
        objective_of: images (B, 3, H, W) and labels (B, C), of the target if targeted -> objective.
        attack_on: labels (B, C) of the batch -> the attack to call.
        seconds: what training the attack took.
        service: what `model` asks, if that is a running service.
    """

    model: nn.Module
    objective_of: Callable[[Tensor, Tensor], CodeObjective]
    attack_on: Callable[[Tensor], Attack]
    seconds: float = 0.0
    service: ServiceSearch | None = None


def make_attacker(
    config: AttackConfig,
    subject: Subject,
    codes: SubjectCodes,
    targets: Tensor | None,
    device: torch.device,
    *,
    surrogates: Sequence[Subject] = (),
    service: ServiceSearch | None = None,
) -> Attacker:
    """Return the attacker of `config`; trained attacks are trained here.

    Args:
        config: the options.
        subject: the attacked model with its data.
        codes: of the subject's clean images.
        targets: (Q, C) labels of the targets of a targeted attack.
        device: where the models are.
        surrogates: of `config`, loaded; looked at in place of the subject.
        service: to ask, in place of a search with the subject's model.
    """
    began = time.perf_counter()
    seen = [(subject, codes)]  # what the search looks at
    if surrogates:
        seen = [(other, encode_subject(other, quiet=config.quiet)) for other in surrogates]
    models: list[nn.Module] = [one.view for one, _ in seen]
    lengths = [one.model.code_length for one, _ in seen]
    goals = [make_goal(config, one, its_codes, device) for one, its_codes in seen]
    model = models[0] if len(models) == 1 else EnsembleView(models)
    if GOALS[config.goal].from_outside:
        model = SearchView(service or nearest_ids(subject.model, codes.database.to(device), k=RETURNED))

    def objective_of(images: Tensor, labels: Tensor) -> CodeObjective:
        if len(goals) == 1:
            return goals[0](model, images, labels)
        parts = [goal(one, images, labels) for goal, one in zip(goals, models, strict=True)]
        return split_objective(parts, lengths)

    if config.search in TRAINED:
        attack_on = _train(config, subject, targets, goals[0], device)
        return Attacker(model, objective_of, attack_on, seconds=time.perf_counter() - began)
    outside = GOALS[config.goal].from_outside
    options = SearchOptions(
        threat=config.threat(),
        steps=config.steps,
        step_size=config.stride,
        restarts=config.restarts,
        samples=config.samples,
        schedule=config.schedule and (config.objective in RELAXED or config.goal == "relevant-codes"),
        keep_best=config.keeps_best,
        precision="float32" if outside else config.precision,  # as the service encodes
        **({"sigma": STEPPED_SIGMA} if outside else {}),
    )
    search = make_search(config.search, options)
    return Attacker(model, objective_of, lambda _: search, service=service)


def draw_targets(labels: Tensor, database_labels: Tensor, *, seed: int) -> Tensor:
    """Return for each query (Q, C) the labels of a random database item that shares none with it; no label if none can.

    >>> draw_targets(torch.tensor([[1, 0]]), torch.tensor([[1, 0], [0, 1]]), seed=0).tolist()
    [[0, 1]]
    """
    generator, found = make_generator(seed, "targets"), [database_labels[:0]]
    for some in torch.split(labels, TARGETS_AT_ONCE):
        disjoint = (some.float() @ database_labels.float().T == 0) & has_label(database_labels)
        chances = torch.rand(disjoint.shape, generator=generator) * disjoint
        found.append(database_labels[chances.argmax(1)] * disjoint.any(1, keepdim=True).to(database_labels.dtype))
    return torch.cat(found)


def make_goal(config: AttackConfig, subject: Subject, codes: SubjectCodes, device: torch.device) -> Goal:
    """Return the goal of `config` under one model."""
    bank = codes.bank(subject, device)
    objective = OBJECTIVES[config.objective]
    return GOALS[config.goal].make(GoalOptions(bank, objective, config.targeted, seed=config.seed, quiet=config.quiet))


def _train(
    config: AttackConfig,
    subject: Subject,
    targets: Tensor | None,
    goal: Goal,
    device: torch.device,
) -> Callable[[Tensor], Attack]:
    """Train the attack on the train split; return how to get the attack of a batch from its labels."""
    train = subject.splits.train
    labeled = has_label(train.labels)
    images, labels = train.images[labeled], train.labels[labeled]
    threat, precision = config.threat(), config.precision
    if config.search == "universal":
        universal = fit_universal(
            subject.view,
            images,
            labels,
            goal,
            threat,
            epochs=config.steps,
            step_size=config.stride,
            seed=config.seed,
            precision=precision,
            quiet=config.quiet,
        )
        return lambda _: universal
    assert targets is not None
    assert isinstance(threat, ThreatModel)
    assert isinstance(goal, PrototypeGoal)
    sets = torch.unique(targets[has_label(targets)], dim=0).to(device)
    generator = fit_generator(
        subject.view,
        images,
        labels,
        sets,
        prototype_codes(goal.net, sets),
        threat,
        replace(GENERATORS[config.search], epochs=config.steps),
        seed=config.seed,
        precision=precision,
        quiet=config.quiet,
    )
    return generator.toward
