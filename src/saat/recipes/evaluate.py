"""Measure the retrieval of a model, on clean queries and, with a suite, in the worst case of each query."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saat.attacks.threat import ThreatModel
from saat.data.catalog import DataOptions
from saat.defenses.purification import PURIFIERS
from saat.errors import ArgumentError, check_at_least, check_choice, check_default
from saat.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from saat.evaluation.metrics import RetrievalMetrics
from saat.evaluation.report import write_report
from saat.evaluation.result_card import RESULT_FILE, result_card
from saat.evaluation.run_reports import check_name
from saat.evaluation.sanity import find_flags
from saat.evaluation.suite import SUITES, check_gray_level
from saat.evaluation.trials import instability
from saat.hamming import sign_codes
from saat.models.hash_model import encode_logits
from saat.recipes.claims import measurement_folder
from saat.recipes.outcome import Outcome, SubjectCodes, encode_subject, measure
from saat.recipes.subject import (
    Subject,
    check_train_labels,
    load_subject,
    load_surrogates,
    name_of,
    purified,
)
from saat.recipes.suite import TRIAL_QUERIES, SuiteOptions, SuiteResult, claim_folder, run_suite
from saat.recipes.tables import print_flags, print_metrics, print_table
from saat.runtime import RunOptions, images_at_once, make_folder, write_text


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(RunOptions):
    """Measure the retrieval of a model; with a suite, also the worst case of each query over its attacks.

    Args:
        checkpoint: folder of a checkpoint.
        model: your own model: package.module:factory.
        data: other data than that of the checkpoint; without `data.name`, the options given change a part of that.
        purifier: in front of the model, for queries and database: jpeg, bit-depth, resize-pad, total-variation or
            comdefend. A suite attacks through it.
        suite: fast, standard, paper (the published attacks) or full (all of them); none measures clean queries only.
        surrogate: checkpoints of other models, for the member `transfer` of the suite full.
        norm: of the suite, linf or l2.
        epsilon: radius of the suite, as a fraction of the pixel range, such as 8/255; for l2 a length, such as 0.5.
        corruptions: measure queries with noise, blur and JPEG compression too, of three severities each.
        steps: gradient steps of a search of the suite; some members take fewer, and square three times as many queries.
        batch_size: queries of the suite at a time; if left out 125, and fewer of large images on a CPU.
        out: folder for metrics.json, and for images, page, report.json and result.json (its result card) of a suite. A
            suite that was stopped goes on.
        name: what the reports of a suite call this model; the name of the checkpoint's folder if left out.
    """

    checkpoint: Path | None = None
    model: str | None = None
    data: DataOptions | None = None
    purifier: str | None = None
    suite: str | None = None
    surrogate: list[Path] | None = None
    corruptions: bool = False
    norm: str = "linf"
    epsilon: float = 8 / 255
    steps: int = 100
    batch_size: int | None = None
    out: Path | None = None
    name: str = ""

    def __post_init__(self) -> None:
        threat = ThreatModel(self.norm, self.epsilon)  # the ranges of norm and epsilon are its rules
        check_at_least("steps", self.steps, 1)
        check_at_least("batch_size", 1 if self.batch_size is None else self.batch_size, 1)
        if self.purifier is not None:
            check_choice("purifier", self.purifier, PURIFIERS)
        if self.surrogate and self.suite != "full":
            raise ArgumentError(f"`surrogate` is for `suite` full, whose member transfer uses it; got {self.suite}")
        if self.suite is None:
            for name in ("norm", "epsilon", "steps", "batch_size", "name"):
                check_default(self, name, of="a `suite`")
        else:
            check_choice("suite", self.suite, SUITES)
            check_gray_level(threat)
            check_name(name_of(self.name, self.checkpoint))
            if self.out is None:
                raise ArgumentError("`suite` needs `out`, a folder for what it finds; got none")


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure by `config`; print tables, write files if asked, and return the metrics, or the report of the suite."""
    device = config.start()
    if config.out is not None:
        measurement_folder(config.out, "suite") if config.suite else make_folder(config.out)
    subject = load_subject(config.checkpoint, config.model, config.data, device=device, quiet=config.quiet)
    if config.suite is not None:
        check_train_labels(subject, needed_by=f"`suite` {config.suite}")
    subject = purified(subject, config.purifier, seed=config.seed, quiet=config.quiet)
    options = suite_options(config, subject, device)
    codes = encode_subject(subject, quiet=config.quiet)
    if options is not None:
        claim_folder(options, subject, codes)
    clean_codes = sign_codes(codes.query_logits)
    clean = measure(subject, codes, clean_codes)
    corrupted = measure_corruptions(subject, codes) if config.corruptions else {}
    if options is None:
        report, flags = None, clean_flags(subject, codes, clean, device)
    else:
        report = write_suite(config, options, subject, codes, clean, run_suite(options, subject, codes, device))
        flags = report["flags"]
    metrics: dict[str, Any] = {"unreliable": bool(flags), "flags": flags, **clean.to_json()}
    if corrupted:
        metrics["corruptions"] = {name: found.to_json() for name, found in corrupted.items()}
    if config.out is not None:
        write_text(config.out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    if report is not None and options is not None:
        page, _ = write_report([(report["name"], options.out)], options.out / "page")
    if not config.quiet:
        print_flags(flags)
        print_metrics({str(config.checkpoint or config.model): clean} | corrupted)
        if report is not None:
            print_suite(report)
            print(f"report: {page}")
    return metrics if report is None else report


def clean_flags(
    subject: Subject, codes: SubjectCodes, clean: RetrievalMetrics, device: torch.device
) -> list[dict[str, str]]:
    """Return the flags that need no attack, ready for `json.dumps`."""
    first = subject.splits.query.images[:TRIAL_QUERIES].float().to(device) / 255.0
    overlap, unstable = subject.splits.overlap(), instability(subject.model, first)
    flags = find_flags(clean, None, logits=codes.query_logits, overlap=overlap, instability=unstable)
    return [vars(flag) for flag in flags]


def measure_corruptions(subject: Subject, codes: SubjectCodes) -> dict[str, RetrievalMetrics]:
    """Return the metrics of corrupted queries, by corruption and severity."""
    found = {}
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            images = corrupt(subject.splits.query.images, name, severity=severity)
            corrupted = sign_codes(encode_logits(subject.model, images, quiet=True))
            found[f"{name} {severity}"] = measure(subject, codes, corrupted)
    return found


def suite_options(config: EvaluateConfig, subject: Subject, device: torch.device) -> SuiteOptions | None:
    """Return what the suite needs to know; nothing without a suite."""
    if config.suite is None or config.out is None:
        return None
    image_size = subject.splits.query.images.shape[-1]
    return SuiteOptions(
        suite=config.suite,
        threat=ThreatModel(config.norm, config.epsilon),
        steps=config.steps,
        batch_size=config.batch_size or images_at_once(image_size, device, most=125),
        precision=config.precision_on(device),  # of `auto`, another one elsewhere
        seed=config.seed,
        out=config.out,
        quiet=config.quiet,
        surrogates=tuple(load_surrogates(config.surrogate or [], subject, config.data, quiet=config.quiet)),
    )


def write_suite(
    config: EvaluateConfig,
    options: SuiteOptions,
    subject: Subject,
    codes: SubjectCodes,
    clean: RetrievalMetrics,
    result: SuiteResult,
) -> dict[str, Any]:
    """Write the report of a suite and its result card to its folder, and return the report."""
    outcome = Outcome(subject, codes, result.images.float() / 255.0, result.codes)
    worst = measure(subject, codes, result.codes)
    white, black = result.by_kind()
    flags = find_flags(
        clean,
        worst,
        logits=codes.query_logits,
        overlap=subject.splits.overlap(),
        trials=result.trials,
        white=white,
        black=black,
        before_rounding=result.before_rounding(),
    )
    members = {
        name: {
            "map": member.metrics.map,
            "map_paper": member.metrics.map_paper,
            "map_interval": list(member.metrics.map_interval),
            "map_paper_interval": list(member.metrics.map_paper_interval),
            "map_before_rounding": member.before_rounding.mean().item(),
            "model_evaluations": member.model_evaluations,
            "seconds": member.seconds,
        }
        for name, member in result.members.items()
    }
    attack = {
        "name": f"suite {config.suite}",
        "suite": config.suite,
        "norm": config.norm,
        "epsilon": config.epsilon,
        "steps": config.steps,
        "surrogate": [str(path) for path in config.surrogate or []],
        "surrogate_weights": options.surrogate_weights(),
        "precision": options.precision,
        "batch_size": options.batch_size,
        "seed": config.seed,
        "members": members,
        "trials": result.trials.to_json(),
        "any_code_map": result.any_code_map,
        "seconds": sum(member.seconds for member in result.members.values()),
        "model_evaluations": sum(member.model_evaluations for member in result.members.values()),
        "max_perturbation": result.largest_change,
    }
    name = name_of(config.name, config.checkpoint)
    report = outcome.write(
        options.out, name=name, attack=attack, flags=flags, seed=config.seed, clean=clean, attacked=worst
    )
    write_text(options.out / RESULT_FILE, json.dumps(result_card(report), indent=2) + "\n")
    return report


def print_suite(report: Mapping[str, Any]) -> None:
    """Print every member and the worst case."""
    attack = report["attack"]
    rows = [("clean", f"{report['clean_map']:.3f}", f"{report['clean_map_paper']:.3f}", "", "")]
    rows += [
        (
            name,
            f"{member['map']:.3f}",
            f"{member['map_paper']:.3f}",
            f"{member['model_evaluations']:,}",
            f"{member['seconds']:.0f}",
        )
        for name, member in attack["members"].items()
    ]
    rows.append(
        ("worst case of each query", f"{report['attacked_map']:.3f}", f"{report['attacked_map_paper']:.3f}", "", "")
    )
    rows.append(("chance", f"{report['chance_map']:.3f}", f"{report['chance_map_paper']:.3f}", "", ""))
    rows.append(("any code at all", f"{attack['any_code_map']:.3f}", "", "", ""))
    print_table(f"Suite {attack['suite']}", ("", "MAP", "MAP@5000 (papers)", "model evaluations", "seconds"), rows)
