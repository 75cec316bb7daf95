"""Every defense under the same judge: clean, the papers' attacks, the worst case of the suite, chance, time, flags.

python benchmarks/bench_defenses.py [--dataset cifar10] [--defenses saat query-side ...] [--seeds 0] [--quick]

Starts from the plain models that bench_cifar10.py or bench_corel5k.py trained, and takes over their figures of SAAT.
One result file a run, results/defenses/DATASET-DEFENSE-seedN.json, so that the table grows over days; a run that was
stopped goes on where it was. `train_seconds` is wall time. `python benchmarks/make_results.py` joins the runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from bench_protocol import PRECISIONS, RESULTS, encoded_subject, paper_fit, reported, trained
from folders import folder_of
from provenance import heading

from saat.attacks.papers import PRESETS as ATTACKS
from saat.defenses.papers import PRESETS
from saat.models.checkpoint import (
    DATABASE_FOLDER,
    Card,
    load_checkpoint,
    read_card,
    save_checkpoint,
    weights_checksum,
)
from saat.recipes.attack import AttackConfig, attack_subject
from saat.recipes.evaluate import EvaluateConfig, evaluate
from saat.recipes.harden import HardenConfig, harden
from saat.runtime import write_text
from saat.training import FitOptions

EPOCHS = 8  # of 7 gradient steps each, as SAAT has on this protocol; of query-side below
PAPER_ATTACKS = {"paper_attack_map": ("saat-paper", "paper"), "hag_map": ("hag", "hag")}
FOLDERS = {
    "cifar10": {"undefended": "plain", "saat": "hardened"},
    "corel5k": {"undefended": "plain", "saat, no momentum": "hardened"},
}
"""Models that the protocol's benchmark has trained."""
QUERY_SIDE: dict[str, Any] = PRESETS["query-side"]
DEFENSES: dict[str, dict[str, Any]] = {
    "saat, as released": PRESETS["paper"] | {"fit": replace(paper_fit(EPOCHS), momentum=0.0)},
    "saat, no momentum": PRESETS["saat"] | {"fit": replace(paper_fit(EPOCHS), momentum=0.0)},
    "saat": PRESETS["saat"] | {"fit": paper_fit(EPOCHS)},
    "pgd-at": PRESETS["pgd-at"] | {"fit": paper_fit(EPOCHS)},
    "atrdh": PRESETS["atrdh"] | {"fit": paper_fit(EPOCHS)},
    "cgat": PRESETS["cgat"] | {"fit": FitOptions(**PRESETS["cgat"]["fit"] | {"epochs": EPOCHS})},
    "trades": PRESETS["trades"] | {"fit": paper_fit(EPOCHS)},
    "distill": PRESETS["distill"] | {"fit": paper_fit(EPOCHS)},
    "query-side": QUERY_SIDE | {"fit": FitOptions(**QUERY_SIDE["fit"])},
    "query-side, rate 0.05": QUERY_SIDE | {"fit": FitOptions(**QUERY_SIDE["fit"] | {"learning_rate": 0.05})},
    "query-side, unlabeled": QUERY_SIDE | {"unlabeled": True, "fit": FitOptions(**QUERY_SIDE["fit"] | {"epochs": 15})},
}
NAMES = ("undefended", "constant", *DEFENSES, "saat, database of plain")


def run_defense(dataset: str, defense: str, *, seed: int, work: Path, quick: bool) -> dict[str, Any]:
    """Run one defense with one seed; write its result file, and return its row."""
    folder = work / f"{dataset}-seed{seed}"
    name = FOLDERS[dataset].get(defense, folder_of(defense)) + ("-quick" if quick else "")
    card = trained(folder / name, lambda: MAKERS.get(defense, hardened)(folder, folder / name, defense, seed, quick))
    steps = 5 if quick else 100
    encoded = cache(lambda: encoded_subject(folder / name))  # once for all attacks, if one is to run
    row: dict[str, Any] = {"dataset": dataset, "defense": defense, "seed": seed}
    for key, (short, preset) in PAPER_ATTACKS.items():
        config = AttackConfig(
            out=folder / f"{name}-{short}",
            checkpoint=folder / name,
            seed=seed,
            name=defense,
            **ATTACKS[preset] | {"steps": steps},
        )
        report = reported(config, lambda config=config: attack_subject(config, *encoded()))
        row |= {"clean_map": report["clean_map"], "chance_map": report["chance_map"], key: report["attacked_map"]}
        row |= {f"{key}_paper": report["attacked_map_paper"], "clean_map_paper": report["clean_map_paper"]}
    suite = EvaluateConfig(
        checkpoint=folder / name,
        suite="standard",
        out=folder / f"{name}-suite",
        steps=steps,
        seed=seed,
        name=defense,
    )
    report = reported(suite, lambda: evaluate(suite))
    row |= {
        "worst_case_map": report["attacked_map"],
        "worst_case_map_interval": report["attacked"]["map_interval"],
        "members": {member: value["map"] for member, value in report["attack"]["members"].items()},
        "train_seconds": card.training["seconds"] if card.defense else 0.0,
        "train_model_evaluations": card.training["model_evaluations"] if card.defense else 0,
        "flags": [flag["name"] for flag in report["flags"]],
    }
    path = RESULTS / "defenses" / f"{dataset}-{name}-seed{seed}.json"
    write_text(path, json.dumps(heading() | {"training": card.training, "row": row}, indent=2) + "\n")
    print(json.dumps(row), flush=True)
    return row


def hardened(folder: Path, out: Path, defense: str, seed: int, quick: bool) -> Card:
    """Harden the plain model."""
    options = DEFENSES[defense]
    if quick:
        options = options | {"fit": replace(options["fit"], epochs=1)}
    precision = PRECISIONS.get(folder.name.partition("-seed")[0], "auto")
    return harden(HardenConfig(checkpoint=folder / "plain", out=out, seed=seed, precision=precision, **options))


def constant(folder: Path, out: Path, defense: str, seed: int, quick: bool) -> Card:  # noqa: ARG001
    """Make a model of one code for all images, which no attack can change and which finds nothing."""
    model, card = load_checkpoint(folder / "plain")
    with torch.no_grad():
        for weight in model.hash_layer.parameters():
            weight.zero_()
    save_checkpoint(out, model, card)
    return card


def saat_beside_plain(folder: Path, out: Path, defense: str, seed: int, quick: bool) -> Card:  # noqa: ARG001
    """Join the model hardened by SAAT with the database codes of the plain one, which it was not trained toward."""
    model, card = load_checkpoint(folder / "hardened")
    plain, plain_card = load_checkpoint(folder / "plain")
    card = replace(card, database_model=weights_checksum(plain))
    save_checkpoint(out / DATABASE_FOLDER, plain, plain_card)
    save_checkpoint(out, model, card)
    return card


MAKERS: dict[str, Callable[[Path, Path, str, int, bool], Card]] = {
    "constant": constant,
    "saat, database of plain": saat_beside_plain,
}


def main() -> None:
    """Run from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10", choices=("cifar10", "corel5k"))
    parser.add_argument("--defenses", nargs="+", default=NAMES, choices=NAMES, help="those to run, in this order")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="checkpoints; resumes from there")
    parser.add_argument("--quick", action="store_true", help="an epoch and 5 steps each")
    options = parser.parse_args()
    for seed in options.seeds:
        read_card(
            options.work / f"{options.dataset}-seed{seed}" / "plain"
        )  # says what is missing, before hours of work
    rows = [
        run_defense(options.dataset, defense, seed=seed, work=options.work, quick=options.quick)
        for seed in options.seeds
        for defense in options.defenses
    ]
    keys = ("clean_map", "paper_attack_map", "worst_case_map", "train_seconds")
    print(json.dumps({f"{row['defense']}, {row['seed']}": {key: round(row[key], 4) for key in keys} for row in rows}))


if __name__ == "__main__":
    main()
