"""The search of `saat attack`, batch by batch, so that one that was stopped goes on."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saat.attacks.base import SearchCost
from saat.attacks.catalog import GOALS
from saat.attacks.views import restart_draws
from saat.errors import ArgumentError
from saat.evaluation.trials import vanished_share
from saat.recipes.attacker import Attacker, traits_of
from saat.recipes.claims import claim_measurement
from saat.recipes.kept import batch_file, kept_tensors
from saat.recipes.outcome import SubjectCodes
from saat.recipes.subject import Subject
from saat.runtime import derive_seed, images_at_once, progress
from saat.types import has_label

if TYPE_CHECKING:
    from saat.recipes.attack import AttackConfig

FIRST = 100  # queries whose gradients are looked at before the search


def claim_attack(
    config: AttackConfig, subject: Subject, codes: SubjectCodes, surrogates: list[Subject], device: torch.device
) -> None:
    """Write down what the folder holds, so that no other run mixes its images with these.

    Raises:
        ArgumentError: the folder holds another run.
    """
    told = settings_of(config, subject.splits.query.images, device)
    told["surrogates"] = [other.checksum for other in surrogates]
    claim_measurement(config.out, "attack", told | {"service": config.service}, subject, codes)


def settings_of(config: AttackConfig, clean: Tensor, device: torch.device) -> dict[str, Any]:
    """Return the settings of an attack on images (Q, 3, S, S), as reports and claims have them."""
    return {
        **{name: getattr(config, name) for name in ("search", "goal", "targeted", "norm", "epsilon", "patch")},
        "objective": None if GOALS[config.goal].own_objective else config.objective,
        **dict(zip(("steps", "step_size"), config.pace(), strict=True)),
        "batch_size": config.batch_size or images_at_once(clean.shape[-1], device, most=250),
        **{name: getattr(config, name) for name in ("schedule", "samples", "restarts", "seed")},
        "last": not config.keeps_best,
        "precision": config.precision_on(device),  # of `auto`, another one elsewhere
    }


def search(
    config: AttackConfig, attacker: Attacker, clean: Tensor, labels: Tensor, device: torch.device
) -> tuple[Tensor, dict[str, Any]]:
    """Return adversarial queries, float (Q, 3, S, S), and how they were found. Queries without a label stay clean."""
    adversarial = clean.float() / 255.0
    rows = torch.arange(len(clean))[has_label(labels)]
    if not len(rows):
        needed = "items without any label of a query, as targets" if config.targeted else "queries with a label"
        raise ArgumentError(f"this attack needs {needed}; got none")
    settings = settings_of(config, clean, device)
    parts = torch.split(rows, settings["batch_size"])
    vanished = _vanished_at_start(config, attacker, adversarial[parts[0][:FIRST]], labels[parts[0][:FIRST]], device)
    cost, seconds, asked = SearchCost(), 0.0, torch.zeros(2, dtype=torch.int64)
    for number, part in enumerate(progress(parts, "attack", unit="batch", quiet=config.quiet)):
        make = partial(_search_batch, config, attacker, adversarial[part], labels[part], int(part[0]), device)
        found = kept_tensors(batch_file(config.out, number), make)
        adversarial[part] = found["images"]
        cost += SearchCost(**{name: int(found[name]) for name in vars(cost)})
        seconds += float(found["seconds"])
        asked += found["asked"]
    told: dict[str, Any] = {}
    if attacker.service is not None:
        attacker.service.requests, attacker.service.searches = asked.tolist()
        adversarial[rows], told = attacker.service.conclude(adversarial[rows], clean[rows], config.threat())
    sizes = [config.threat().size(adversarial[part], clean[part].float() / 255.0) for part in parts]
    return adversarial, {
        "name": config.search,
        **settings,
        "surrogate": [str(path) for path in config.surrogate or []],
        **told,
        "seconds": seconds,
        "seconds_of_training": attacker.seconds,
        **vars(cost),
        "vanished_at_start": vanished,
        "max_perturbation": float(torch.cat(sizes).max()),
    }


def _vanished_at_start(
    config: AttackConfig, attacker: Attacker, clean: Tensor, labels: Tensor, device: torch.device
) -> float:
    """Return the share of images whose gradient is zero before the search; 0 of a search that takes none."""
    if not traits_of(config.search).gradient:
        return 0.0
    images = clean.to(device)
    objective = attacker.objective_of(images, labels.to(device))
    restart_draws(attacker.model, config.seed, "first look")
    return vanished_share(attacker.model, images, objective)


def _search_batch(
    config: AttackConfig, attacker: Attacker, clean: Tensor, labels: Tensor, first: int, device: torch.device
) -> dict[str, Tensor]:
    """Return the adversarial images of a batch, and what they cost; `first` is the row of its first query."""
    began, service = time.perf_counter(), attacker.service
    before = (service.requests, service.searches) if service else (0, 0)
    images, wanted = clean.to(device), labels.to(device)
    run = attacker.attack_on(wanted)
    cost = SearchCost(**vars(run.cost))
    restart_draws(attacker.model, config.seed, "attack", first)
    objective = attacker.objective_of(images, wanted)
    found = run(attacker.model, images, objective, seed=derive_seed(config.seed, first))
    after = (service.requests, service.searches) if service else (0, 0)
    return {
        "images": found.cpu().contiguous(),
        **{name: torch.tensor(value) for name, value in vars(run.cost.since(cost)).items()},
        "seconds": torch.tensor(time.perf_counter() - began, dtype=torch.float64),
        "asked": torch.tensor(after) - torch.tensor(before),
    }
