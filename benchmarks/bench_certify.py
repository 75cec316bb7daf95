"""Certified MAP within l2 radii, and what attacks find there.

python benchmarks/bench_certify.py [--models plain query-side smoothing] [--sigma 0.25] [--seeds 0] [--quick]

Starts from the checkpoints of bench_cifar10.py and bench_defenses.py, and trains `smoothing` on
noise of the same sigma. One result file a model, sigma and seed, results/certified/, so that the table grows; a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_protocol import RESULTS, trained
from provenance import heading

from saat.defenses.papers import PRESETS
from saat.models.checkpoint import read_card
from saat.recipes.certify import CertifyConfig, certify
from saat.recipes.harden import HardenConfig, harden
from saat.runtime import write_text
from saat.training import FitOptions

SMOOTHING = PRESETS["smoothing"]
KEPT = ("certified_map", "attacked_map", "certified_bits", "violations", "smoothed_map", "base_map", "chance_map")
COUNTS = ("queries", "samples", "confidence", "confidence_of_all", "seconds", "attack_seconds")


def run_model(model: str, sigma: float, *, seed: int, work: Path, quick: bool) -> dict[str, Any]:
    """Certify one model of one seed; write its result file, and return its row."""
    folder = work / f"cifar10-seed{seed}"
    ending = "-quick" if quick else ""
    name = f"smoothing-{sigma:g}{ending}" if model == "smoothing" else model
    if model == "smoothing":
        fit = FitOptions(**SMOOTHING["fit"])
        options = SMOOTHING | {"noise": sigma, "fit": replace(fit, epochs=1) if quick else fit}
        config = HardenConfig(checkpoint=folder / "plain", out=folder / name, seed=seed, **options)
        trained(config.out, lambda: harden(config))
    report = certify(
        CertifyConfig(
            checkpoint=folder / name,
            out=folder / f"{name}-certified-{sigma:g}{ending}",
            sigma=sigma,
            radii=[0.25, 0.5],
            samples=500 if quick else 1000,
            queries=20 if quick else 500,
            seed=seed,
        )
    )
    row = {"dataset": "cifar10", "model": model, "sigma": sigma, "seed": seed}
    row |= {key: report[key] for key in (*KEPT, *COUNTS)}
    path = RESULTS / "certified" / f"cifar10-{model}-{sigma:g}{ending}-seed{seed}.json"
    write_text(path, json.dumps(heading() | {"row": row}, indent=2) + "\n")
    return row


def main() -> None:
    """Run from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smoothing", "query-side", "plain"], help="folders")
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="checkpoints; resumes from there")
    parser.add_argument("--quick", action="store_true", help="an epoch, 20 queries and 500 samples")
    options = parser.parse_args()
    pairs = [(seed, model) for seed in options.seeds for model in options.models]
    for seed, model in pairs:  # says what is missing, before hours of work
        read_card(options.work / f"cifar10-seed{seed}" / ("plain" if model == "smoothing" else model))
    headline = {}
    for seed, model in pairs:
        row = run_model(model, options.sigma, seed=seed, work=options.work, quick=options.quick)
        headline[f"{model}, {seed}"] = row["certified_map"]
    print(json.dumps(headline))


if __name__ == "__main__":
    main()
