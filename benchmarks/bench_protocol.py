"""The published procedure end to end on one protocol: train, attack, harden by SAAT, attack again.

Each seed's figures go to a result file of their own; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saat.data.catalog import DataOptions
from saat.recipes.attack import PRESETS, AttackConfig, attack
from saat.recipes.harden import HardenConfig, harden
from saat.recipes.train import TrainConfig, train, versions
from saat.runtime import available_cores, write_text
from saat.training import FitOptions

RESULTS = Path(__file__).parent / "results"
ATTACKS: dict[str, dict[str, Any]] = {"saat-paper": PRESETS["paper"], "hag": PRESETS["hag"], "margin": {}}


@dataclass(frozen=True)
class Protocol:
    """What is run: data, first weights, and the two trainings of the papers."""

    name: str
    data: DataOptions
    weights: str
    train_fit: FitOptions
    harden_fit: FitOptions


def paper_fit(epochs: int, *, momentum: float) -> FitOptions:
    """Return the papers' way to train: SGD at 0.05 in batches of 32, x0.1 at 1/2 and 3/4, no augmentation."""
    return FitOptions(epochs=epochs, batch_size=32, momentum=momentum, schedule="multistep", augment=False)


def run_protocol(protocol: Protocol, *, seed: int, work: Path) -> dict[str, Any]:
    """Run one seed under `work`; write `results/NAME-seedN.json` and return its content."""
    folder = work / f"{protocol.name}-seed{seed}"
    plain = TrainConfig(
        out=folder / "plain", data=protocol.data, weights=protocol.weights, fit=protocol.train_fit, seed=seed
    )
    hardened = HardenConfig(checkpoint=plain.out, out=folder / "hardened", fit=protocol.harden_fit, seed=seed)
    cards = {"plain": train(plain), "hardened": harden(hardened)}
    rows = []
    for model in cards:
        for name, preset in ATTACKS.items():
            out = folder / f"{model}-{name}"
            report = attacked(AttackConfig(out=out, checkpoint=folder / model, seed=seed, name=model, **preset))
            rows.append(row_of(protocol.name, model, name, seed, report))
            print(json.dumps(rows[-1]), flush=True)
    result = {
        "machine": {"processor": platform.machine(), "cores": available_cores(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "data": {key: value for key, value in cards["plain"].manifest.items() if key in ("sizes", "checksums")},
        "train_seconds": {name: card.training["seconds"] for name, card in cards.items()},
        "rows": rows,
    }
    write_text(RESULTS / f"{protocol.name}-seed{seed}.json", json.dumps(result, indent=2) + "\n")
    return result


def attacked(config: AttackConfig) -> dict[str, Any]:
    """Return the report of the attack, run now unless it was run before."""
    path = config.out / "report.json"
    return dict(json.loads(path.read_text())) if path.exists() else attack(config)


def row_of(dataset: str, model: str, name: str, seed: int, report: dict[str, Any]) -> dict[str, Any]:
    """Return one row of the table of results."""
    cost = report["attack"]
    return {
        "dataset": dataset,
        "model": model,
        "seed": seed,
        "attack": name,
        "epsilon": cost["epsilon"],
        "model_evaluations": cost["model_evaluations"],
        "seconds": cost["seconds"],
        "clean_map": report["clean_map"],
        "clean_map_paper": report["clean_map_paper"],
        "map": report["attacked_map"],
        "map_paper": report["attacked_map_paper"],
        "chance_map": report["chance_map"],
        "flags": [flag["name"] for flag in report["flags"]],
    }


def arguments(description: str) -> argparse.Namespace:
    """Parse what every protocol takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--weights", required=True, help="state file of a ResNet-20, or random")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one result file each")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="checkpoints; resumes from there")
    parser.add_argument("--quick", action="store_true", help="one epoch each on a tenth of the data: a smoke test")
    return parser.parse_args()


def headline(results: list[dict[str, Any]]) -> str:
    """Return the mean figures over seeds as one JSON line."""
    figures: dict[str, float] = {}
    for result in results:
        for row in result["rows"]:
            for key in ("clean_map_paper", "map_paper"):
                name = f"{row['model']}_{key}" + (f"_{row['attack']}" if key == "map_paper" else "")
                share = 1 / len(results) / (len(ATTACKS) if key == "clean_map_paper" else 1)
                figures[name] = figures.get(name, 0.0) + row[key] * share
    return json.dumps({name: round(value, 4) for name, value in figures.items()})
