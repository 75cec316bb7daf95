"""Attack the queries of a model, and report clean, attacked and chance MAP together."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from saat import __version__
from saat.attacks.goals import OBJECTIVES, MainstayGoal, OwnCodeGoal
from saat.attacks.gradient import PAPER_SHARPNESS, PGD
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.codes.semantic import has_label
from saat.data.catalog import DataOptions
from saat.errors import ArgumentError, check_at_least, check_choice
from saat.evaluation.examples import choose_queries, write_examples
from saat.evaluation.metrics import RetrievalMetrics, evaluate_retrieval
from saat.evaluation.report import write_report
from saat.evaluation.sanity import find_flags
from saat.hamming import sign_codes
from saat.models.hash_model import encode_logits
from saat.recipes.subject import Subject, load_subject
from saat.recipes.tables import print_table
from saat.runtime import RunOptions, atomic_write, derive_seed, make_generator, progress, write_text
from saat.types import Goal

GOALS = ("mainstay", "own-code")
PRESETS: Mapping[str, dict[str, Any]] = {
    "paper": {"goal": "mainstay", "objective": "weighted", "steps": 100, "step_size": 1 / 255},
    "hag": {"goal": "own-code", "objective": "weighted", "steps": 100, "step_size": 1 / 255},
}
"""Published settings: start from these; options given beside them win."""


@dataclass(frozen=True, kw_only=True)
class AttackConfig(RunOptions):
    """Attack the queries of a model. Writes adversarial images, codes, report.json, report.md and report.html.

    Args:
        out: folder of the results.
        checkpoint: folder of a checkpoint.
        model: your own model: package.module:factory.
        data: other data than that of the checkpoint.
        goal: mainstay (away from the mainstay code of the query's labels) or own-code (away from its own code).
        objective: how nearness is measured: margin (scale-free, on logits), weighted (the SAAT paper's) or agreement.
        targeted: toward the mainstay code of a label set drawn for each query, disjoint from its own labels.
        norm: linf or l2.
        epsilon: radius, as a fraction of the pixel range, such as 8/255.
        steps: gradient steps.
        step_size: length of a step, as a fraction of the pixel range.
        restarts: searches from as many random starts; the best is kept.
        batch_size: queries at a time.
        name: what reports call this model.
    """

    out: Path
    checkpoint: Path | None = None
    model: str | None = None
    data: DataOptions | None = None
    goal: str = "mainstay"
    objective: str = "margin"
    targeted: bool = False
    norm: str = "linf"
    epsilon: float = 8 / 255
    steps: int = 100
    step_size: float = 1 / 255
    restarts: int = 1
    batch_size: int = 250
    name: str = "model"

    def __post_init__(self) -> None:
        ThreatModel(self.norm, self.epsilon)  # the ranges of norm and epsilon are its rules
        check_choice("goal", self.goal, GOALS)
        check_choice("objective", self.objective, OBJECTIVES)
        check_at_least("steps", self.steps, 1)
        if self.targeted and self.goal != "mainstay":
            raise ArgumentError(f"`targeted` needs `goal` mainstay; got {self.goal}")


@dataclass(frozen=True)
class Codes:
    """Codes of a subject, int8 in {-1, +1}, with the logits of the clean queries."""

    query_logits: Tensor
    train: Tensor
    database: Tensor


def attack(config: AttackConfig) -> dict[str, Any]:
    """Attack by `config`; write everything to `config.out`, print a table, and return the report."""
    device = config.start()
    subject = load_subject(config.checkpoint, config.model, config.data, device=device, quiet=config.quiet)
    splits, quiet = subject.splits, config.quiet
    query_logits, train_logits, database_logits = (
        encode_logits(subject.model, split.images, label=f"encode {split.name}", quiet=quiet)
        for split in (splits.query, splits.train, splits.database)
    )
    codes = Codes(query_logits, sign_codes(train_logits), sign_codes(database_logits))
    targets = draw_targets(splits.query.labels, splits.database.labels, seed=config.seed) if config.targeted else None
    adversarial, cost = search(config, subject, codes, targets, device)
    attacked_codes = sign_codes(encode_logits(subject.model, adversarial, label="encode attacked", quiet=quiet))
    save_images(config.out / "adversarial.safetensors", adversarial, attacked_codes, targets)
    report = summarize(config, subject, codes, adversarial, attacked_codes, targets) | {"attack": cost}
    write_text(config.out / "report.json", json.dumps(report, indent=2) + "\n")
    page = write_report([(config.name, config.out)], config.out / "page")
    if not quiet:
        print_attack(report, page)
    return report


def search(
    config: AttackConfig, subject: Subject, codes: Codes, targets: Tensor | None, device: torch.device
) -> tuple[Tensor, dict[str, Any]]:
    """Return adversarial queries, float (Q, 3, S, S), and how they were found. Queries without a label stay clean."""
    make_objective = OBJECTIVES[config.objective]
    bank = CodeBank(codes.train.to(device), subject.splits.train.labels.to(device))
    goal: Goal = (
        MainstayGoal(bank, make_objective, targeted=config.targeted)
        if config.goal == "mainstay"
        else OwnCodeGoal(make_objective)
    )
    pgd = PGD(
        ThreatModel(config.norm, config.epsilon),
        steps=config.steps,
        step_size=config.step_size,
        restarts=config.restarts,
        sharpness=PAPER_SHARPNESS if config.objective == "weighted" else (1.0,),
        precision=config.precision,
    )
    query = subject.splits.query
    labels = query.labels if targets is None else targets
    adversarial = query.images.float() / 255.0
    rows = torch.arange(len(query))[has_label(labels)]
    began = time.perf_counter()
    for part in progress(torch.split(rows, config.batch_size), "attack", unit="batch", quiet=config.quiet):
        images = adversarial[part].to(device)
        objective = goal(subject.model, images, labels[part].to(device))
        found = pgd(subject.model, images, objective, seed=derive_seed(config.seed, int(part[0])))
        adversarial[part] = found.cpu()
    change = pgd.threat.size(adversarial, query.images.float() / 255.0)
    settings = ("goal", "objective", "targeted", "norm", "epsilon", "steps", "step_size", "restarts", "seed")
    return adversarial, {
        "name": "pgd",
        **{name: getattr(config, name) for name in settings},
        "seconds": time.perf_counter() - began,
        "model_evaluations": pgd.model_evaluations,
        "max_perturbation": float(change.max()),
    }


def draw_targets(labels: Tensor, database_labels: Tensor, *, seed: int) -> Tensor:
    """Return for each query (Q, C) the labels of a random database item that shares none with it; no label if none can.

    >>> draw_targets(torch.tensor([[1, 0]]), torch.tensor([[1, 0], [0, 1]]), seed=0).tolist()
    [[0, 1]]
    """
    disjoint = (labels.float() @ database_labels.float().T == 0) & has_label(database_labels)
    chances = torch.rand(disjoint.shape, generator=make_generator(seed, "targets")) * disjoint
    return database_labels[chances.argmax(1)] * disjoint.any(1, keepdim=True).to(database_labels.dtype)


def save_images(path: Path, adversarial: Tensor, codes: Tensor, targets: Tensor | None) -> None:
    """Write adversarial images (float32, exact), their codes, and the target labels, if any."""
    content = {"images": adversarial.contiguous(), "codes": codes}
    if targets is not None:
        content["target_labels"] = targets.contiguous()
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(content))


def summarize(
    config: AttackConfig,
    subject: Subject,
    codes: Codes,
    adversarial: Tensor,
    attacked_codes: Tensor,
    targets: Tensor | None,
) -> dict[str, Any]:
    """Measure before and after, raise flags, and write example pictures."""
    splits, clean_codes = subject.splits, sign_codes(codes.query_logits)

    def measured(query_codes: Tensor, labels: Tensor) -> RetrievalMetrics:
        return evaluate_retrieval(query_codes, labels, codes.database, splits.database.labels)

    clean, attacked = measured(clean_codes, splits.query.labels), measured(attacked_codes, splits.query.labels)
    flags = find_flags(clean, attacked, logits=codes.query_logits, overlap=splits.overlap())
    examples = write_examples(
        config.out,
        queries=choose_queries(splits.query.labels, 8, seed=config.seed),
        clean=splits.query.images.float() / 255.0,
        adversarial=adversarial,
        database=splits.database.images,
        clean_codes=clean_codes,
        adversarial_codes=attacked_codes,
        database_codes=codes.database,
        query_labels=splits.query.labels,
        database_labels=splits.database.labels,
        class_names=splits.class_names,
    )
    report = {
        "saat": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "name": config.name,
        "data": {"name": subject.data.name} | splits.manifest(),
        "model": subject.about,
        "clean_map": clean.map,
        "attacked_map": attacked.map,
        "clean_map_paper": clean.map_paper,
        "attacked_map_paper": attacked.map_paper,
        "chance_map": clean.chance_map,
        "clean": clean.to_json(),
        "attacked": attacked.to_json(),
        "flags": [{"name": flag.name, "message": flag.message} for flag in flags],
        "examples": examples,
    }
    if targets is not None:
        report["t_map_clean"] = measured(clean_codes, targets).map
        report["t_map_attacked"] = measured(attacked_codes, targets).map
    return report


def print_attack(report: Mapping[str, Any], page: Path) -> None:
    """Print clean, attacked and chance MAP, and where the page lies."""
    rows = [(report["name"], *(f"{report[key]:.3f}" for key in ("clean_map", "attacked_map", "chance_map")))]
    print_table("Attack", ("model", "clean MAP", "attacked MAP", "chance MAP"), rows)
    for flag in report["flags"]:
        print(f"unreliable: {flag['name']}: {flag['message']}")
    print(f"report: {page}")
