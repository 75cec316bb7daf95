"""The published procedure end to end on one protocol: train, attack, harden by SAAT, attack again, worst case.

Each seed's figures go to a result file of their own; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from saat.data.catalog import DataOptions
from saat.models.checkpoint import CARD_FILE, Card, read_card
from saat.recipes.attack import PRESETS, AttackConfig, attack_subject
from saat.recipes.evaluate import EvaluateConfig, evaluate
from saat.recipes.harden import HardenConfig, harden
from saat.recipes.outcome import SubjectCodes, encode_subject
from saat.recipes.subject import Subject, load_subject
from saat.recipes.train import TrainConfig, train, versions
from saat.runtime import RunOptions, available_cores, write_text
from saat.training import FitOptions

RESULTS = Path(__file__).parent / "results"
ESSENTIAL: dict[str, dict[str, Any]] = {"saat-paper": PRESETS["paper"], "hag": PRESETS["hag"], "pgd": {}}
OTHER_MODEL = "other model"
# Each at about 100 evaluations of the model an image; a gradient counts as one.
EVERY: dict[str, dict[str, Any]] = {
    **ESSENTIAL,
    "pgd, margin": {"objective": "margin"},
    "fgsm": {"search": "fgsm"},
    "bim": {"search": "bim"},
    "apgd": {"search": "apgd"},
    "apgd, own code": {"search": "apgd", "goal": "own-code"},
    "apgd, l2 of 0.5": {"search": "apgd", "norm": "l2", "epsilon": 0.5},
    "adam": {"search": "adam"},
    "mi-fgsm": {"search": "mi"},
    "ni-fgsm": {"search": "ni"},
    "si-ni-fgsm": {"search": "si-ni", "steps": 20, "step_size": 2 / 255},
    "vmi-fgsm": {"search": "vmi", "steps": 5, "step_size": 2 / 255},
    "di-fgsm": {"search": "di"},
    "ti-fgsm": {"search": "ti"},
    "square": {"search": "square"},
    "nes": {"search": "nes", "steps": 2, "step_size": 4 / 255},
    "sdha": PRESETS["sdha"],
    "cgat": PRESETS["cgat"],
    "pga": PRESETS["pga"],
    "saat, targeted": PRESETS["paper-targeted"],
    "p2p": PRESETS["p2p"],
    "dhta": PRESETS["dhta"],
    "tha": PRESETS["tha"],
    "pros-gan": PRESETS["pros-gan"] | {"steps": 10},  # epochs over the train split, as many images as 100 steps
    "universal": {"search": "universal", "steps": 10},  # likewise
    "patch of 5 %": {"patch": 0.05, "step_size": 0.1},
    "square, returned ids": {"search": "square", "goal": "returned-ids"},
    "mi-fgsm, from the other model": {"search": "mi", "surrogate": OTHER_MODEL},
}
MakeData = Callable[[Path, int], DataOptions]
"""(folder of the data set, divisor of its sizes) -> data options."""


@dataclass(frozen=True)
class Protocol:
    """What is run: data, first weights, the two trainings of the papers, and the attacks."""

    name: str
    data: DataOptions
    weights: str
    train_fit: FitOptions
    harden_fit: FitOptions
    attacks: dict[str, dict[str, Any]]
    steps: int = 100


def paper_fit(epochs: int) -> FitOptions:
    """Return the papers' way to train: SGD at 0.05 in batches of 32, x0.1 at 1/2 and 3/4, no augmentation."""
    return FitOptions(epochs=epochs, batch_size=32, schedule="multistep", augment=False)


def run_protocol(protocol: Protocol, *, seed: int, work: Path) -> dict[str, Any]:
    """Run one seed under `work`; write `results/NAME-seedN.json` and return its content."""
    folder = work / f"{protocol.name}-seed{seed}"
    plain = TrainConfig(
        out=folder / "plain", data=protocol.data, weights=protocol.weights, fit=protocol.train_fit, seed=seed
    )
    hardened = HardenConfig(checkpoint=plain.out, out=folder / "hardened", fit=protocol.harden_fit, seed=seed)
    cards = {
        "plain": trained(plain.out, lambda: train(plain)),
        "hardened": trained(hardened.out, lambda: harden(hardened)),
    }
    result: dict[str, Any] = {
        "machine": {"processor": platform.machine(), "cores": available_cores(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "data": {key: value for key, value in cards["plain"].manifest.items() if key in ("sizes", "checksums")},
        "train_seconds": {name: card.training["seconds"] for name, card in cards.items()},
        "rows": [],
    }
    for model, other in zip(cards, reversed(cards), strict=True):
        encoded = cache(lambda model=model: encoded_subject(folder / model))  # once for all attacks, if one is to run
        for name, options in protocol.attacks.items():
            settings = options | {"steps": min(options.get("steps", protocol.steps), protocol.steps)}
            if settings.get("surrogate") == OTHER_MODEL:
                settings["surrogate"] = [folder / other]
            out = folder / f"{model}-{name.replace(' ', '-').replace(',', '').replace('%', 'percent')}"
            config = AttackConfig(out=out, checkpoint=folder / model, seed=seed, name=model, **settings)
            run = lambda config=config, encoded=encoded: attack_subject(config, *encoded())  # noqa: E731
            add_row(result, protocol.name, model, name, seed, reported(config, run))
            write_text(RESULTS / f"{protocol.name}-seed{seed}.json", json.dumps(result, indent=2) + "\n")
    for model in reversed(cards):  # suites last: they take longest
        suite = EvaluateConfig(
            checkpoint=folder / model, suite="standard", out=folder / f"{model}-suite", steps=protocol.steps, seed=seed
        )
        add_row(
            result, protocol.name, model, "suite standard", seed, reported(suite, lambda suite=suite: evaluate(suite))
        )
        write_text(RESULTS / f"{protocol.name}-seed{seed}.json", json.dumps(result, indent=2) + "\n")
    return result


def encoded_subject(checkpoint: Path) -> tuple[Subject, SubjectCodes, torch.device]:
    """Load a checkpoint with its data, and encode these."""
    device = RunOptions().start()
    subject = load_subject(checkpoint, None, None, device=device, quiet=True)
    return subject, encode_subject(subject, quiet=True), device


def trained(out: Path, run: Callable[[], Card]) -> Card:
    """Return the card of the training, run now unless it was finished before."""
    return read_card(out) if (out / CARD_FILE).exists() else run()


def reported(config: AttackConfig | EvaluateConfig, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the report of the attack or suite, run now unless it was run before."""
    path = Path(str(config.out)) / "report.json"
    return dict(json.loads(path.read_text())) if path.exists() else run()


def add_row(result: dict[str, Any], dataset: str, model: str, name: str, seed: int, report: dict[str, Any]) -> None:
    """Add one row to the table of results, and print it."""
    cost = report["attack"]
    row = {
        "dataset": dataset,
        "model": model,
        "seed": seed,
        "attack": name,
        "norm": cost["norm"],
        "epsilon": cost["epsilon"],
        "model_evaluations": cost["model_evaluations"],
        "seconds": cost["seconds"],
        "clean_map": report["clean_map"],
        "clean_map_paper": report["clean_map_paper"],
        "map": report["attacked_map"],
        "map_paper": report["attacked_map_paper"],
        "map_interval": report["attacked"]["map_interval"],
        "chance_map": report["chance_map"],
        "flags": [flag["name"] for flag in report["flags"]],
    }
    row |= {key: report[key] for key in ("t_map_clean", "t_map_attacked") if key in report}
    if "members" in cost:
        row |= {"members": {key: value["map"] for key, value in cost["members"].items()}}
        row |= {"any_code_map": cost["any_code_map"], "trials": cost["trials"]}
    result["rows"].append(row)
    print(json.dumps(row), flush=True)


def main(description: str, name: str, make_data: MakeData) -> None:
    """Run a protocol from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--weights", required=True, help="state file of a ResNet-20, or random")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one result file each")
    parser.add_argument("--every", action="store_true", help="every attack of the literature, not the essential ones")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="checkpoints; resumes from there")
    parser.add_argument("--quick", action="store_true", help="an epoch and 5 steps each on a tenth of the data")
    options = parser.parse_args()
    protocol = Protocol(
        name=f"{name}-quick" if options.quick else name,
        data=make_data(options.data, 10 if options.quick else 1),
        weights=options.weights,
        train_fit=paper_fit(1 if options.quick else 12),
        harden_fit=paper_fit(1 if options.quick else 8),
        attacks=EVERY if options.every else ESSENTIAL,
        steps=5 if options.quick else 100,
    )
    print(headline([run_protocol(protocol, seed=seed, work=options.work) for seed in options.seeds]))


def headline(results: list[dict[str, Any]]) -> str:
    """Return the mean figures over seeds as one JSON line."""
    figures: dict[str, list[float]] = {}
    for result in results:
        for row in result["rows"]:
            figures.setdefault(f"{row['model']}, clean", []).append(row["clean_map_paper"])
            figures.setdefault(f"{row['model']}, {row['attack']}", []).append(row["map_paper"])
    return json.dumps({name: round(sum(values) / len(values), 4) for name, values in figures.items()})
