"""Attack the queries of a model, and report clean, attacked and chance MAP together."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saat.attacks.base import SearchCost
from saat.attacks.catalog import GOALS, SEARCHES
from saat.attacks.objectives import OBJECTIVES
from saat.attacks.threat import PatchThreat, Threat, ThreatModel
from saat.attacks.transfer import joined_name
from saat.attacks.views import restart_draws
from saat.data.catalog import DataOptions
from saat.defenses.purification import PURIFIERS
from saat.errors import ArgumentError, check_at_least, check_choice
from saat.evaluation.report import write_report
from saat.evaluation.run_reports import check_name
from saat.evaluation.sanity import find_flags
from saat.evaluation.trials import vanished_share
from saat.hamming import sign_codes
from saat.models.checkpoint import read_card
from saat.models.hash_model import encode_logits
from saat.recipes.attack_rules import check_goal, check_search, check_trained
from saat.recipes.attacker import TRAINED, Attacker, draw_targets, make_attacker, traits_of
from saat.recipes.outcome import Outcome, SubjectCodes, encode_subject
from saat.recipes.outside import ServiceSearch, check_service, running_service
from saat.recipes.subject import Subject, check_train_labels, load_subject, name_of, purified
from saat.recipes.suite import FIRST_STATE
from saat.recipes.tables import print_flags, print_table
from saat.runtime import RunOptions, derive_seed, images_at_once, make_folder, progress
from saat.types import has_label

FIRST = 100  # queries whose gradients are looked at before the search


@dataclass(frozen=True, kw_only=True)
class AttackConfig(RunOptions):
    """Attack the queries of a model. Writes adversarial images, codes, report.json, and a page under page/.

    Args:
        out: folder of the results.
        checkpoint: folder of a checkpoint.
        model: your own model: package.module:factory.
        data: other data than that of the checkpoint; without `data.name`, the options given change a part of that.
        purifier: in front of the model, for queries and database: jpeg, bit-depth, resize-pad, total-variation or
            comdefend. The attack goes through it.
        goal: where to: away from mainstay (the code of the query's labels), center (CgAT's), relevant-codes (SDHA's),
            own-code (the query's own) or returned-ids (what the service returned, seeing only ids; with square or
            nes); targeted: toward mainstay, center, relevant-codes, anchor (DHTA), point (P2P) or prototype (THA).
        objective: how nearness is measured: margin or flips (on logits, scale-free), or the papers' on relaxed codes:
            weighted (SAAT), weighted-targeted, agreement or hag.
        targeted: toward the code of a label set drawn for each query, disjoint from its own labels.
        search: pgd, fgsm, bim, apgd, annealed, adam, sgd, ngd; for transfer mi, ni, si-ni, vmi, di, ti, or several
            joined by +, such as di+ti+si-ni; black box square, nes; trained on the train split universal (one change
            for all queries), generator and published-generator (ProS-GAN).
        surrogate: checkpoints on which the images are made, instead of the attacked model; several at once.
        service: address of a running `saat serve`, which returned-ids asks instead of the attacked model.
        token_file: file with the token that the service needs.
        norm: linf or l2.
        epsilon: radius, as a fraction of the pixel range, such as 8/255; for l2 a length over all pixels, such as 0.5.
        patch: share of the image's area that a square patch covers, instead of norm and epsilon; 0 is none.
        steps: gradient steps, or queries of a black-box search, or epochs of a trained one.
        step_size: length of a step, in the units of epsilon; if left out an eighth of that, or of the pixel range for a
            patch. sgd needs it as a rate, ngd as an l2 length.
        schedule: with an objective on relaxed codes, soften tanh at first as the papers do; if not, its slope stays 1.
        samples: how many places each step looks at, beside its own with vmi, on both sides of it with nes; if left
            out 20 and 25, as published.
        restarts: searches from as many random starts; the best is kept.
        last: return the last iterate, as published code does, not the best; away from relevant-codes, always.
        batch_size: queries at a time; if left out 250, and fewer of large images on a CPU. What a search draws at
            random depends on it, as on the seed.
        name: what reports call this model; the name of the checkpoint's folder if left out.
    """

    out: Path
    checkpoint: Path | None = None
    model: str | None = None
    data: DataOptions | None = None
    purifier: str | None = None
    goal: str = "mainstay"
    objective: str = "flips"
    targeted: bool = False
    search: str = "pgd"
    surrogate: list[Path] | None = None
    service: str | None = None
    token_file: Path | None = None
    norm: str = "linf"
    epsilon: float = 8 / 255
    patch: float = 0.0
    steps: int = 100
    step_size: float | None = None
    schedule: bool = True
    samples: int | None = None
    restarts: int = 1
    last: bool = False
    batch_size: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        self.threat()  # the ranges of norm, epsilon and patch are its rules
        check_name(name_of(self.name, self.checkpoint))
        if self.purifier is not None:
            check_choice("purifier", self.purifier, PURIFIERS)
        check_choice("goal", self.goal, GOALS)
        check_choice("objective", self.objective, OBJECTIVES)
        if "+" in self.search:
            object.__setattr__(self, "search", joined_name(self.search))  # what can be joined is its rule
        else:
            check_choice("search", self.search, (*SEARCHES, *TRAINED))
        check_at_least("steps", self.steps, 2 if self.search == "square" else 1)
        if self.step_size is not None and not 0.0 <= self.step_size < math.inf:
            raise ArgumentError(f"`step_size` is at least 0.0, and finite; got {self.step_size}")
        check_at_least("samples", 1 if self.samples is None else self.samples, 1)
        check_at_least("restarts", self.restarts, 1)
        check_at_least("batch_size", 1 if self.batch_size is None else self.batch_size, 1)
        check_goal(self)
        check_service(self)
        check_search(self)
        check_trained(self)

    @property
    def keeps_best(self) -> bool:
        """Whether the best iterate is returned, not the last."""
        return not self.last and (self.targeted or not GOALS[self.goal].last_only)

    def pace(self) -> tuple[int, float | None]:
        """Return how many steps are taken, and their length; none where the search chooses it."""
        epsilon = self.threat().epsilon
        if self.search == "fgsm":
            return 1, epsilon
        return self.steps, None if traits_of(self.search).step == "chosen" else self.stride

    @property
    def stride(self) -> float:
        """The length of a step."""
        return self.threat().epsilon / 8 if self.step_size is None else self.step_size

    def threat(self) -> Threat:
        """Return how far images may move."""
        if not 0.0 <= self.patch <= 1.0:  # its own argument has another name
            raise ArgumentError(f"`patch` is a share of the image's area, 0 to 1; got {self.patch}")
        return PatchThreat(self.patch) if self.patch else ThreatModel(self.norm, self.epsilon)


def attack(config: AttackConfig) -> dict[str, Any]:
    """Attack by `config`; write everything to `config.out`, print a table, and return the report."""
    device = config.start()
    if (config.out / FIRST_STATE).exists():
        raise ArgumentError(f"`out` is a folder without a suite, whose report.json it would replace; got {config.out}")
    make_folder(config.out)  # before the search, which would be lost
    for path in config.surrogate or []:
        read_card(path)  # they are loaded once the subject is encoded, which may take long
    subject = load_subject(config.checkpoint, config.model, config.data, device=device, quiet=config.quiet)
    if GOALS[config.goal].of_train_labels:
        check_train_labels(subject, needed_by=f"`goal` {config.goal}, unlike own-code,")
    subject = purified(subject, config.purifier, seed=config.seed, quiet=config.quiet)
    with running_service(config, subject) as service:
        return attack_subject(config, subject, encode_subject(subject, quiet=config.quiet), device, service)


def attack_subject(
    config: AttackConfig,
    subject: Subject,
    codes: SubjectCodes,
    device: torch.device,
    service: ServiceSearch | None = None,
) -> dict[str, Any]:
    """Attack a subject that is loaded and encoded, as `attack` does.

    Args:
        config: the options; those of the subject and its data have been followed.
        subject: the model, on `device`, with its data.
        codes: of the subject's clean images.
        device: where to search.
        service: of `config`, open.
    """
    query, database = subject.splits.query, subject.splits.database
    targets = draw_targets(query.labels, database.labels, seed=config.seed) if config.targeted else None
    attacker = make_attacker(config, subject, codes, targets, device, service)
    adversarial, cost = search(config, attacker, query.images, query.labels if targets is None else targets, device)
    attacked = sign_codes(encode_logits(subject.model, adversarial, label="encode attacked", quiet=config.quiet))
    outcome = Outcome(subject, codes, adversarial, attacked, targets)
    clean, after = outcome.measure(sign_codes(codes.query_logits)), outcome.measure(attacked)
    flags = find_flags(
        clean,
        after,
        logits=codes.query_logits,
        overlap=subject.splits.overlap(),
        vanished=cost["vanished_at_start"],
    )
    name = name_of(config.name, config.checkpoint)
    report = outcome.write(
        config.out, name=name, attack=cost, flags=flags, seed=config.seed, clean=clean, attacked=after
    )
    page, _ = write_report([(name, config.out)], config.out / "page")
    if not config.quiet:
        print_attack(report, page)
    return report


def search(
    config: AttackConfig, attacker: Attacker, clean: Tensor, labels: Tensor, device: torch.device
) -> tuple[Tensor, dict[str, Any]]:
    """Return adversarial queries, float (Q, 3, S, S), and how they were found. Queries without a label stay clean."""
    adversarial = clean.float() / 255.0
    rows = torch.arange(len(clean))[has_label(labels)]
    cost = SearchCost()
    if not len(rows):
        needed = "items without any label of a query, as targets" if config.targeted else "queries with a label"
        raise ArgumentError(f"this attack needs {needed}; got none")
    batch_size = config.batch_size or images_at_once(clean.shape[-1], device, most=250)
    first = rows[: min(FIRST, batch_size)]
    vanished = 0.0
    if traits_of(config.search).gradient:
        objective = attacker.objective_of(adversarial[first].to(device), labels[first].to(device))
        restart_draws(attacker.model, config.seed, "first look")
        vanished = vanished_share(attacker.model, adversarial[first].to(device), objective)
    began = time.perf_counter()
    for part in progress(torch.split(rows, batch_size), "attack", unit="batch", quiet=config.quiet):
        images, wanted = adversarial[part].to(device), labels[part].to(device)
        run = attacker.attack_on(wanted)
        before = SearchCost(**vars(run.cost))
        restart_draws(attacker.model, config.seed, "attack", int(part[0]))
        objective = attacker.objective_of(images, wanted)
        found = run(attacker.model, images, objective, seed=derive_seed(config.seed, int(part[0])))
        adversarial[part] = found.cpu()
        cost += run.cost.since(before)
    told: dict[str, Any] = {}
    if attacker.service is not None:
        adversarial[rows], told = attacker.service.conclude(adversarial[rows], clean[rows], config.threat())
    change = config.threat().size(adversarial, clean.float() / 255.0)
    return adversarial, {
        "name": config.search,
        **{name: getattr(config, name) for name in ("search", "goal", "targeted", "norm", "epsilon", "patch")},
        "objective": None if GOALS[config.goal].own_objective else config.objective,
        **dict(zip(("steps", "step_size"), config.pace(), strict=True)),
        "batch_size": batch_size,
        **{name: getattr(config, name) for name in ("schedule", "samples", "restarts", "precision", "seed")},
        "last": not config.keeps_best,
        "surrogate": [str(path) for path in config.surrogate or []],
        **told,
        "seconds": time.perf_counter() - began,
        "seconds_of_training": attacker.seconds,
        **vars(cost),
        "vanished_at_start": vanished,
        "max_perturbation": float(change.max()),
    }


def print_attack(report: Mapping[str, Any], page: Path) -> None:
    """Print the flags, then MAP and the bit-flip rate with chance, and where the page lies."""
    print_flags(report["flags"])
    columns = {"model": "name", "clean MAP": "clean_map", "attacked MAP": "attacked_map", "chance MAP": "chance_map"}
    columns |= {"bit flip rate": "bit_flip_rate", "chance bit flip rate": "bit_flip_rate_chance"}
    if "t_map_attacked" in report:
        columns |= {"t-MAP clean": "t_map_clean", "t-MAP attacked": "t_map_attacked", "t-MAP chance": "t_map_chance"}
    values = [report[key] for key in columns.values()]
    row = tuple(value if isinstance(value, str) else f"{value:.3f}" for value in values)
    print_table("Attack", tuple(columns), [row])
    if "service" in (done := report["attack"]):
        print(f"{done['service']} still returns {done['returned_share']:.0%} of its results, weighted by rank")
    print(f"report: {page}")
