"""Calibrate a detector of adversarial queries, and measure it against attacks that do not know it and that do."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from saat import __version__
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.data.catalog import DataOptions
from saat.data.splits import Splits
from saat.defenses.detection import NEAREST, Detector, fit_detector
from saat.errors import ArgumentError, check_at_least
from saat.evaluation.metrics import evaluate_retrieval
from saat.evaluation.ranking import average_precision, count_by_distance
from saat.evaluation.roc import GRID, area_under_curve, detection_rates, roc_chart
from saat.evaluation.sanity import entries_of, find_flags
from saat.evaluation.suite import check_gray_level
from saat.hamming import sign_codes
from saat.models.hash_model import encode_logits
from saat.recipes.claims import measurement_folder
from saat.recipes.detect_search import attack_knowing, claim_detection
from saat.recipes.kept import drop_batches
from saat.recipes.outcome import encode_subject
from saat.recipes.subject import Subject, check_train_labels, load_subject
from saat.recipes.tables import print_flags, print_table
from saat.runtime import (
    RunOptions,
    atomic_write,
    device_of,
    write_text,
)
from saat.types import has_label

log = logging.getLogger(__name__)

WEIGHTS = (0.1, 0.25, 0.5, 1.0, 2.0)  # of the detector in the adaptive attacker's objective
RATES = (0.01, 0.05)  # of false alarms
KEPT_SHARE = 0.8  # of the MAP that the standard attack takes, which an adaptive attack must take too to count


@dataclass(frozen=True, kw_only=True)
class DetectConfig(RunOptions):
    """Calibrate a detector of adversarial queries, and measure it against standard and adaptive attacks.

    Args:
        out: folder for report.json, roc.svg, the attacked queries and the detector. A run that was stopped goes on.
        checkpoint: folder of a checkpoint.
        model: your own model: package.module:factory.
        data: other data than that of the checkpoint; without `data.name`, the options given change a part of that.
        norm: of the attacks, linf or l2.
        epsilon: radius of the attacks, as a fraction of the pixel range, at least 1/255, such as 8/255; for l2 a
            length, such as 0.5.
        steps: gradient steps of each attack.
        batch_size: queries at a time; if left out 125, and fewer of large images on a CPU.
    """

    out: Path
    checkpoint: Path | None = None
    model: str | None = None
    data: DataOptions | None = None
    norm: str = "linf"
    epsilon: float = 8 / 255
    steps: int = 50
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_gray_level(self.threat())  # the ranges of norm and epsilon are rules of the threat
        check_at_least("steps", self.steps, 1)
        check_at_least("batch_size", 1 if self.batch_size is None else self.batch_size, 1)

    def threat(self) -> ThreatModel:
        """Return how far images may move."""
        return ThreatModel(self.norm, self.epsilon)


@dataclass(frozen=True)
class Scored:
    """Queries as they reach the detector.

    Args:
        images: uint8 (Q, 3, S, S).
        scores: float32 (Q,) in [0, 1].
        average_precision: float64 (Q,).
    """

    images: Tensor
    scores: Tensor
    average_precision: Tensor

    @property
    def map(self) -> float:
        """MAP, over all of these queries."""
        return float(self.average_precision.mean())

    def at(self, threshold: float) -> dict[str, Any]:
        """Return the share that is above a threshold, and the MAP of the others; none if all are above."""
        passed = self.average_precision[self.scores <= threshold]
        above = 1.0 - len(passed) / len(self.scores)
        return {"detected": above, "passed": len(passed), "map": float(passed.mean()) if len(passed) else None}


def detect(config: DetectConfig) -> dict[str, Any]:
    """Calibrate and measure by `config`; write everything to `config.out`, print a table, and return the report."""
    device = config.start()
    measurement_folder(config.out, "detect")
    subject = load_subject(config.checkpoint, config.model, config.data, device=device, quiet=config.quiet)
    check_train_labels(subject, needed_by="the attack on a detector")
    query = subject.splits.query
    rows = torch.nonzero(has_label(query.labels)).flatten()
    if not len(rows):
        raise ArgumentError(f"a measurement needs queries with a label; none of {len(query)} has one")
    codes = encode_subject(subject, quiet=config.quiet)
    claim_detection(config, subject, codes, device)
    detector = fit_detector(
        subject.model,
        subject.splits.train.images,
        codes_without_train(subject.splits, codes.database),
        seed=config.seed,
    )
    warn_of_few(detector)
    detector.save(config.out / "detector")
    database = CodeBank(codes.database, subject.splits.database.labels)
    clean = score(subject.model, detector, database, query.images[rows], query.labels[rows])
    attacked = {}
    for weight in (0.0, *WEIGHTS):
        images = attack_knowing(config, subject, codes, detector, rows, weight)
        attacked[weight] = score(subject.model, detector, database, images, query.labels[rows])
    found = evaluate_retrieval(
        sign_codes(codes.query_logits[rows]), query.labels[rows], codes.database, subject.splits.database.labels
    )
    flags = find_flags(found, None, logits=codes.query_logits[rows], overlap=subject.splits.overlap())
    report = entries_of(flags) | measure(config, subject, detector, clean, attacked)
    report |= {name: getattr(found, name) for name in ("chance_map", "distinct_codes", "bit_entropy")}
    best = attacked[report["adaptive"]["weight"]]
    with atomic_write(config.out / "attacked.safetensors") as file:
        file.write(
            safetensors.torch.save({"rows": rows, "standard": attacked[0.0].images, "adaptive": best.images.clone()})
        )
    curves = {name: report[name]["roc"] for name in ("standard", "adaptive")}
    write_text(config.out / "roc.svg", roc_chart(curves))
    write_text(config.out / "report.json", json.dumps(report, indent=2) + "\n")
    drop_batches(config.out)
    if not config.quiet:
        print_detection(report)
    return report


def warn_of_few(detector: Detector) -> None:
    """Say for which false-alarm rates there are too few images of the calibration to raise an alarm at all."""
    if too_low := [f"{rate:g}" for rate in RATES if rate < detector.lowest_rate()]:
        log.warning(
            f"{len(detector.calibration)} train images calibrate the detector, too few for a false-alarm rate of "
            f"{' or '.join(too_low)}: nothing is an alarm there; rates from {detector.lowest_rate():.3g} on are (give "
            "more train images, --data.train_size)"
        )


def codes_without_train(splits: Splits, database_codes: Tensor) -> Tensor:
    """Return the codes of the database items that are not in the train split, or all where hardly any is left.

    Train images calibrate the detector; those in the database would be at distance 0 from themselves.
    """
    train = set(splits.train.digests)
    others = torch.tensor([digest not in train for digest in splits.database.digests])
    return database_codes[others] if int(others.sum()) >= NEAREST else database_codes


def score(model: nn.Module, detector: Detector, database: CodeBank, images: Tensor, labels: Tensor) -> Scored:
    """Score and search with images (Q, 3, S, S), uint8."""
    codes = sign_codes(encode_logits(model, images, quiet=True))
    counts = count_by_distance(codes, labels, database.codes, database.labels)
    return Scored(images, detector.score(images), average_precision(counts))


def choose_weight(clean: Scored, attacked: Mapping[float, Scored]) -> float:
    """Return the weight whose attack is hardest to detect, among those that still take MAP.

    An attack must take at least `KEPT_SHARE` of what the standard one, of weight 0, takes; that one always counts.
    """
    needed = KEPT_SHARE * (clean.map - attacked[0.0].map)
    enough = [weight for weight, found in attacked.items() if weight == 0.0 or clean.map - found.map >= needed]
    return min(enough, key=lambda weight: area_under_curve(clean.scores, attacked[weight].scores))


def measure(
    config: DetectConfig,
    subject: Subject,
    detector: Detector,
    clean: Scored,
    attacked: Mapping[float, Scored],
) -> dict[str, Any]:
    """Return the report."""
    adaptive = choose_weight(clean, attacked)
    thresholds = {f"{rate:g}": detector.threshold(rate) for rate in RATES}

    def about(found: Scored) -> dict[str, Any]:
        return {
            "auc": area_under_curve(clean.scores, found.scores),
            "map": found.map,
            "roc": detection_rates(clean.scores, found.scores),
            "at_false_alarm_rate": {rate: found.at(threshold) for rate, threshold in thresholds.items()},
        }

    return {
        "saat": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": subject.data_entry(),
        "model": subject.about | {"checksum": subject.checksum},
        **{name: getattr(config, name) for name in ("norm", "epsilon", "steps", "seed")},
        "precision": config.precision_on(device_of(subject.model)),
        "queries": len(clean.scores),
        "calibration_images": len(detector.calibration),
        "false_alarm_grid": list(GRID),
        "thresholds": thresholds,
        "clean": {
            "map": clean.map,
            "at_false_alarm_rate": {rate: clean.at(threshold) for rate, threshold in thresholds.items()},
        },
        "standard": about(attacked[0.0]),
        "adaptive": {"weight": adaptive, **about(attacked[adaptive])},
        "weights": {
            f"{weight:g}": {"auc": area_under_curve(clean.scores, found.scores), "map": found.map}
            for weight, found in attacked.items()
        },
    }


def print_detection(report: Mapping[str, Any]) -> None:
    """Print the adaptive attack first: what a detector is worth; before it, why it may not count."""
    print_flags(report["flags"])
    columns = ["queries", "AUC", "MAP"]
    for rate in report["thresholds"]:
        columns += [f"detected, {rate}", f"MAP passed, {rate}"]
    rows = []
    for name in ("adaptive", "standard", "clean"):
        found = report[name]
        row = [name, f"{found['auc']:.3f}" if "auc" in found else "-", f"{found['map']:.3f}"]
        for rate in report["thresholds"]:
            at = found["at_false_alarm_rate"][rate]
            row += [f"{at['detected']:.3f}", "-" if at["map"] is None else f"{at['map']:.3f}"]
        rows.append(row)
    print_table("Detection, at asked false-alarm rates", columns, rows)
    print(f"adaptive weight {report['adaptive']['weight']:g}; chance MAP {report['chance_map']:.3f}")
