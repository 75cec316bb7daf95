"""Certify a model behind gaussian noise: the MAP that no attack within an l2 radius can go below."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saat import __version__
from saat.attacks.autopgd import APGD
from saat.attacks.goals import SemanticGoal
from saat.attacks.objectives import flips_objective
from saat.attacks.threat import ThreatModel
from saat.attacks.views import EotView
from saat.codes.bank import CodeBank
from saat.data.catalog import DataOptions
from saat.errors import ArgumentError, check_at_least
from saat.evaluation.certificates import certified_radii, largest_radius
from saat.evaluation.metrics import evaluate_retrieval
from saat.evaluation.ranking import average_precision, count_by_distance
from saat.evaluation.sanity import entries_of, find_flags
from saat.evaluation.suite import EOT_SAMPLES
from saat.hamming import sign_codes
from saat.models.smoothing import add_noise, count_votes, majority_codes
from saat.recipes.certificates import by_radius, print_certificates
from saat.recipes.claims import claim_measurement, measurement_folder
from saat.recipes.kept import VOTES, kept_tensors
from saat.recipes.outcome import SubjectCodes, encode_subject
from saat.recipes.subject import Subject, check_train_labels, load_subject
from saat.runtime import RunOptions, derive_seed, device_of, make_generator, progress, write_text
from saat.types import has_label

SELECTION_SAMPLES = 100  # noisy copies that choose the value of a bit, as in the paper
ATTACK_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class CertifyConfig(RunOptions):
    """Certify the MAP of a model behind gaussian noise against every change within l2 radii.

    Args:
        out: folder for report.json and the votes. A run that was stopped goes on there.
        checkpoint: folder of a checkpoint.
        model: your own model: package.module:factory.
        data: other data than that of the checkpoint; without `data.name`, the options given change a part of that.
        sigma: standard deviation of the noise, in units of the pixel range [0, 1].
        samples: noisy copies of a query that bound its votes; 100 more choose the bits.
        radii: l2 radii of the flattened change, in units of the pixel range [0, 1].
        alpha: the chance that a certificate of a query is wrong.
        queries: how many queries are certified; drawn by the seed.
        batch_size: queries at a time.
    """

    out: Path
    checkpoint: Path | None = None
    model: str | None = None
    data: DataOptions | None = None
    sigma: float = 0.25
    samples: int = 1000
    radii: list[float] = field(default_factory=lambda: [0.1, 0.25, 0.5])
    alpha: float = 0.001
    queries: int = 500
    batch_size: int = 50

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0.0):
            raise ArgumentError(f"`sigma` is a finite standard deviation above 0; got {self.sigma}")
        if not self.radii or not all(math.isfinite(radius) and radius > 0.0 for radius in self.radii):
            raise ArgumentError(f"`radii` is a list of finite radii above 0; got {self.radii}")
        if len({f"{radius:.6g}" for radius in self.radii}) < len(self.radii):  # the keys of the report
            raise ArgumentError(f"`radii` differ from each other in six digits; got {self.radii}")
        if not 0.0 < self.alpha < 1.0:
            raise ArgumentError(f"`alpha` is a probability above 0 and below 1; got {self.alpha}")
        for name in ("samples", "queries", "batch_size"):
            check_at_least(name, getattr(self, name), 1)


def certify(config: CertifyConfig) -> dict[str, Any]:
    """Certify by `config`; write the votes and the report to `config.out`, print a table, and return the report.

    Queries are smoothed. The database stays as it is deployed, with the codes of the model without noise.
    """
    device = config.start()
    measurement_folder(config.out, "certify")
    subject = load_subject(config.checkpoint, config.model, config.data, device=device, quiet=config.quiet)
    check_train_labels(subject, needed_by="the attack beside a certificate")
    check_reach(config, subject.model.code_length)
    rows = draw_queries(subject.splits.query.labels, config)
    codes = encode_subject(subject, quiet=config.quiet)
    claim_folder(config, subject, codes, device)
    votes = collect_votes(config, subject, codes, rows, device)
    report = measure(config, subject, codes, rows, votes)
    write_text(config.out / "report.json", json.dumps(report, indent=2) + "\n")
    if not config.quiet:
        print_certificates(report)
    return report


def check_reach(config: CertifyConfig, code_length: int) -> None:
    """Raise where a radius is beyond what so many samples can certify, before hours are spent on it.

    Raises:
        ArgumentError: naming the largest radius, or how many samples certify anything at all.
    """
    fewest = math.floor(math.log2(code_length / config.alpha)) + 1  # 2^-samples < alpha / K
    if config.samples < fewest:
        rule = f"at least {fewest} for {code_length} bits at alpha {config.alpha:g}, since fewer votes certify nothing"
        raise ArgumentError(f"`samples` is {rule}; got {config.samples}")
    reach = largest_radius(code_length=code_length, samples=config.samples, sigma=config.sigma, alpha=config.alpha)
    if max(config.radii) >= reach:
        raise ArgumentError(
            f"`radii` are below {reach:.4g}, all that {config.samples} samples with sigma {config.sigma:g} can certify "
            f"for {code_length} bits; got {max(config.radii):g} (more samples or a larger sigma reach further)"
        )


def draw_queries(labels: Tensor, config: CertifyConfig) -> Tensor:
    """Return the rows (Q,) of the queries to certify, in ascending order, drawn among those with a label.

    Raises:
        ArgumentError: no query has a label.
    """
    rows = torch.nonzero(has_label(labels)).flatten()
    if not len(rows):
        raise ArgumentError(f"a certificate needs queries with a label; none of {len(labels)} has one")
    order = torch.randperm(len(rows), generator=make_generator(config.seed, "certify", "queries"))
    return rows[order[: config.queries]].sort().values


def claim_folder(config: CertifyConfig, subject: Subject, codes: SubjectCodes, device: torch.device) -> None:
    """Write down what the folder holds, so that no other run mixes its votes with these. Alpha changes no vote.

    Raises:
        ArgumentError: the folder holds another run.
    """
    names = ("sigma", "samples", "radii", "queries", "batch_size", "seed")
    told = {name: getattr(config, name) for name in names}
    told["precision"] = config.precision_on(device)  # of `auto`, another one elsewhere
    claim_measurement(config.out, "certify", told, subject, codes)


def collect_votes(
    config: CertifyConfig, subject: Subject, codes: SubjectCodes, rows: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """Return what `vote_on` gives for all queries, batch by batch, each from its file if it has run before."""
    bank = codes.bank(subject, device)
    found = []
    batches = torch.split(rows, config.batch_size)
    for number, part in enumerate(progress(batches, "certify", unit="batch", quiet=config.quiet)):
        path = config.out / VOTES / f"{number:05d}.safetensors"
        found.append(kept_tensors(path, partial(vote_on, config, subject, bank, part, device)))
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def vote_on(
    config: CertifyConfig, subject: Subject, bank: CodeBank, rows: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """Vote on one batch of queries, clean and attacked.

    Returns:
        How many noisy copies have each bit at +1, int64: `selection` (B, K), of `SELECTION_SAMPLES` copies of the clean
        queries; `clean` (B, K), of `samples` others; `attacked` (B, R, K), of `samples` copies of the images that were
        attacked within each of R radii. And `seconds` and `attack_seconds`, float32 (1,), of wall time.
    """
    query = subject.splits.query
    images, labels = (query.images[rows].float() / 255.0).to(device), query.labels[rows].to(device)
    count = partial(count_votes, subject.model, sigma=config.sigma, precision=config.precision)

    def voted(seen: Tensor, stage: str, samples: int) -> Tensor:
        noise = [make_generator(config.seed, "certify", stage, int(row), device=device) for row in rows]
        pairs = zip(seen, noise, strict=True)
        return torch.stack([count(image, samples=samples, generator=generator) for image, generator in pairs])

    began = time.perf_counter()
    selection, clean = voted(images, "selection", SELECTION_SAMPLES), voted(images, "clean", config.samples)
    between = time.perf_counter()
    attacked = [
        voted(
            attack_smoothed(config, subject, bank, images, labels, radius, first=int(rows[0])),
            f"attacked {radius!r}",
            config.samples,
        )
        for radius in config.radii
    ]
    return {
        "selection": selection,
        "clean": clean,
        "attacked": torch.stack(attacked, dim=1),
        "seconds": torch.tensor([between - began]),
        "attack_seconds": torch.tensor([time.perf_counter() - between]),
    }


def attack_smoothed(
    config: CertifyConfig,
    subject: Subject,
    bank: CodeBank,
    images: Tensor,
    labels: Tensor,
    radius: float,
    *,
    first: int,
) -> Tensor:
    """Return images (B, 3, H, W) within the radius whose logits, in the mean over noise, leave their mainstay code.

    Random starts and noise follow from the seed, the radius and the number of the `first` query.
    """
    noise = partial(add_noise, sigma=config.sigma)
    seed = derive_seed(config.seed, "certify", "attack", first, repr(radius))
    view = EotView(subject.model, noise, samples=EOT_SAMPLES, seed=seed)
    objective = SemanticGoal(bank, make_objective=flips_objective)(view, images, labels)
    attack = APGD(ThreatModel("l2", radius), steps=ATTACK_STEPS, precision=config.precision)
    return attack(view, images, objective, seed=seed)


def measure(
    config: CertifyConfig, subject: Subject, codes: SubjectCodes, rows: Tensor, votes: dict[str, Tensor]
) -> dict[str, Any]:
    """Return the report: what is certified at each radius, and what the attacks found there."""
    labels, database_labels = subject.splits.query.labels[rows], subject.splits.database.labels
    smoothed = majority_codes(votes["selection"] + votes["clean"], samples=SELECTION_SAMPLES + config.samples)
    clean = evaluate_retrieval(smoothed, labels, codes.database, database_labels)
    base_codes = sign_codes(codes.query_logits[rows])
    base = average_precision(count_by_distance(base_codes, labels, codes.database, database_labels))
    radii = certified_radii(
        votes["selection"],
        votes["clean"],
        selection_samples=SELECTION_SAMPLES,
        samples=config.samples,
        sigma=config.sigma,
        alpha=config.alpha,
    )
    overlap = subject.splits.overlap()
    flags = find_flags(clean, None, logits=codes.query_logits[rows], codes=smoothed, overlap=overlap)
    return {
        **entries_of(flags),
        "saat": __version__,
        "data": subject.data_entry(),
        "model": subject.about | {"checksum": subject.checksum},
        "sigma": config.sigma,
        "samples": config.samples,
        "selection_samples": SELECTION_SAMPLES,
        "precision": config.precision_on(device_of(subject.model)),
        "seed": config.seed,
        "queries": len(rows),
        "confidence": 1.0 - config.alpha,
        "confidence_of_all": max(0.0, 1.0 - config.alpha * len(rows)),
        "base_map": base.mean().item(),
        "smoothed_map": clean.map,
        "chance_map": clean.chance_map,
        "distinct_codes": clean.distinct_codes,
        "bit_entropy": clean.bit_entropy,
        **by_radius(config, CodeBank(codes.database, database_labels), smoothed, radii, votes["attacked"], labels),
        "code_length": subject.model.code_length,
        "seconds": votes["seconds"].sum().item(),
        "attack_seconds": votes["attack_seconds"].sum().item(),
    }
