"""Robustness to what was not trained for: other radii, l2, a patch, images made on another model, corruptions.

python benchmarks/bench_threats.py [--dataset cifar10] [--models plain saat-as-released ...] [--seeds 0] [--quick]

Attacks are APGD away from the mainstay code with 20 steps (MI-FGSM where the images are made on another model), so that
a figure here says how models compare, not how low a strong attack goes. Starts from the checkpoints of bench_cifar10.py
and bench_defenses.py. One result file a model and seed, results/threats/DATASET-MODEL-seedN.json.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

from bench_protocol import RESULTS, encoded_subject, reported
from provenance import heading

from saat.models.checkpoint import read_card
from saat.recipes.attack import AttackConfig, attack_subject
from saat.recipes.evaluate import measure_corruptions
from saat.runtime import write_text

STEPS = 20
SURROGATES = {"plain": "saat-as-released"}  # of the others it is the plain model
THREATS: dict[str, dict[str, Any]] = {
    **{f"linf {radius}/255": {"epsilon": radius / 255} for radius in (2, 4, 8, 12, 16)},
    **{f"l2 {radius}": {"norm": "l2", "epsilon": radius} for radius in (0.25, 0.5, 1.0)},
    "patch of 5 %": {"patch": 0.05},
    "linf 8/255, made on another model": {"search": "mi", "surrogate": True},
}


def run_model(dataset: str, model: str, *, seed: int, work: Path, quick: bool) -> dict[str, Any]:
    """Measure one model of one seed under every threat; write its result file, and return its MAP by threat."""
    folder = work / f"{dataset}-seed{seed}"
    encoded = cache(lambda: encoded_subject(folder / model))
    found: dict[str, float] = {}
    report: dict[str, Any] = {}
    for name, options in THREATS.items():
        settings = {"search": "apgd", "steps": 2 if quick else STEPS} | options
        if settings.get("surrogate"):
            settings["surrogate"] = [folder / SURROGATES.get(model, "plain")]
        slug = name.replace(" ", "-").replace("/", "-").replace(",", "").replace("%", "percent")
        out = folder / "threats" / f"{model}-{slug}{'-quick' if quick else ''}"
        config = AttackConfig(out=out, checkpoint=folder / model, seed=seed, name=model, **settings)
        report = reported(config, lambda config=config: attack_subject(config, *encoded()))
        found[name] = report["attacked_map"]
    subject, codes, _ = encoded()
    found |= {name: metrics.map for name, metrics in measure_corruptions(subject, codes).items()}
    row = {"dataset": dataset, "model": model, "seed": seed}
    row |= {"clean_map": report["clean_map"], "chance_map": report["chance_map"], "map": found}
    path = RESULTS / "threats" / f"{dataset}-{model}{'-quick' if quick else ''}-seed{seed}.json"
    write_text(path, json.dumps(heading() | {"row": row}, indent=2) + "\n")
    return row


def main() -> None:
    """Measure from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10", choices=("cifar10", "corel5k"))
    models = ["plain", "saat-as-released", "query-side"]
    parser.add_argument("--models", nargs="+", default=models, help="folders of checkpoints")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="where the checkpoints are")
    parser.add_argument("--quick", action="store_true", help="2 steps each")
    options = parser.parse_args()
    pairs = [(seed, model) for seed in options.seeds for model in options.models]
    for seed, model in pairs:
        read_card(options.work / f"{options.dataset}-seed{seed}" / model)  # says what is missing, before hours of work
    headline = {}
    for seed, model in pairs:
        row = run_model(options.dataset, model, seed=seed, work=options.work, quick=options.quick)
        headline[f"{model}, {seed}"] = {name: round(value, 4) for name, value in row["map"].items()}
    print(json.dumps(headline))


if __name__ == "__main__":
    main()
