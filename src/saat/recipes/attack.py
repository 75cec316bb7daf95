"""Attack the queries of a model, and report clean, attacked and chance MAP together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saat.attacks.catalog import GOALS, SEARCHES
from saat.attacks.objectives import OBJECTIVES
from saat.attacks.threat import PatchThreat, Threat, ThreatModel
from saat.attacks.transfer import joined_name
from saat.data.catalog import DataOptions
from saat.defenses.purification import PURIFIERS
from saat.errors import ArgumentError, check_at_least, check_choice
from saat.evaluation.report import write_report
from saat.evaluation.run_reports import check_name
from saat.evaluation.sanity import find_flags
from saat.hamming import sign_codes
from saat.models.checkpoint import read_card
from saat.models.hash_model import encode_logits
from saat.recipes.attack_rules import check_goal, check_search, check_trained
from saat.recipes.attack_search import claim_attack, search
from saat.recipes.attacker import TRAINED, draw_targets, make_attacker, traits_of
from saat.recipes.claims import measurement_folder
from saat.recipes.kept import drop_batches
from saat.recipes.outcome import Outcome, SubjectCodes, encode_subject, measure
from saat.recipes.outside import ServiceSearch, check_service, running_service
from saat.recipes.subject import Subject, check_train_labels, load_subject, load_surrogates, name_of, purified
from saat.recipes.tables import print_flags, print_table
from saat.runtime import RunOptions


@dataclass(frozen=True, kw_only=True)
class AttackConfig(RunOptions):
    """Attack the queries of a model. Writes adversarial images, codes, report.json, and a page under page/.

    Args:
        out: folder of the results. An attack that was stopped goes on there.
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
    measurement_folder(config.out, "attack")
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
    surrogates = load_surrogates(config.surrogate or [], subject, config.data, quiet=config.quiet)
    claim_attack(config, subject, codes, surrogates, device)
    attacker = make_attacker(config, subject, codes, targets, device, surrogates=surrogates, service=service)
    adversarial, cost = search(config, attacker, query.images, query.labels if targets is None else targets, device)
    attacked = sign_codes(encode_logits(subject.model, adversarial, label="encode attacked", quiet=config.quiet))
    outcome = Outcome(subject, codes, adversarial, attacked, targets)
    clean, after = (measure(subject, codes, each) for each in (sign_codes(codes.query_logits), attacked))
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
    drop_batches(config.out)
    if not config.quiet:
        print_attack(report, page)
    return report


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
