"""What each ingredient of query-side training is worth: left out of it, alone on top of SAAT, and others that it lacks.

python benchmarks/bench_ablation.py [--runs "query-side, no average" ...] [--seeds 0] [--quick]

Every training shows the model about as many images: SAAT 8 epochs of 7 steps, query-side training the epochs of its
preset, and fewer with more steps or images, more with fewer. The worst case is that of the suite `fast`. Starts from
the plain models that bench_cifar10.py trained. One result file a run and plain model, results/ablation/, so that the
table grows over days; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_defenses import DEFENSES, EPOCHS, saat_beside_plain
from bench_protocol import RESULTS, paper_fit, reported, trained
from folders import folder_of
from ingredients import with_early_stopping, with_strong_finish, with_weight_perturbation
from provenance import heading

from saat.defenses.papers import PRESETS
from saat.models.checkpoint import DATABASE_FOLDER, Card, load_checkpoint, save_checkpoint
from saat.recipes.evaluate import EvaluateConfig, evaluate
from saat.recipes.harden import HardenConfig, harden
from saat.runtime import write_text
from saat.training import FitOptions

WHOLE = DEFENSES["query-side"]
WHOLE_FIT: FitOptions = WHOLE["fit"]
SAAT = PRESETS["saat"] | {"fit": paper_fit(EPOCHS)}
TRAINED: dict[str, dict[str, Any]] = {
    "saat": SAAT,
    "saat, augmented": SAAT | {"fit": replace(SAAT["fit"], augment=True)},
    "saat, averaged": SAAT | {"fit": replace(SAAT["fit"], average=WHOLE_FIT.average)},
    "saat, one-cycle": SAAT
    | {"fit": replace(SAAT["fit"], batch_size=128, learning_rate=0.4, weight_decay=5e-4, schedule="one-cycle")},
    "saat, margin": SAAT | {"objective": "margin"},
    "saat, carried": SAAT | {"carry": True, "steps": 2, "step_size": 6 / 255, "fit": replace(SAAT["fit"], epochs=18)},
    "saat, unlabeled": SAAT | {"unlabeled": True, "fit": replace(SAAT["fit"], epochs=2)},
    "distill": DEFENSES["distill"],
    "query-side": WHOLE,
    "query-side, no warmup": WHOLE | {"epsilon_warmup": 0.0},
    "query-side, no augmentation": WHOLE | {"fit": replace(WHOLE_FIT, augment=False)},
    "query-side, no average": WHOLE | {"fit": replace(WHOLE_FIT, average=0.0)},
    "query-side, rate and batches of saat": WHOLE
    | {"fit": replace(paper_fit(WHOLE_FIT.epochs), augment=True, average=WHOLE_FIT.average)},
    "query-side, rate 0.1": WHOLE | {"fit": replace(WHOLE_FIT, learning_rate=0.1)},
    "query-side, radius 8/255": WHOLE | {"epsilon": 8 / 255, "step_size": 8 / 255},
    "query-side, 2 steps": WHOLE | {"steps": 2, "step_size": 6 / 255, "fit": replace(WHOLE_FIT, epochs=27)},
    "query-side, 7 steps": WHOLE | {"steps": 7, "step_size": 2.5 / 255, "fit": replace(WHOLE_FIT, epochs=10)},
    "query-side, weight perturbation": WHOLE | {"fit": replace(WHOLE_FIT, epochs=27)},
    "query-side, carried": WHOLE | {"carry": True},
    "query-side, strong finish": WHOLE | {"carry": True, "fit": replace(WHOLE_FIT, epochs=31)},
    "query-side, early stopping": WHOLE,
}
"""How each is trained; those below take a trained model and change how it is used."""


def mirrored(folder: Path, out: Path, of: str, mirror: bool) -> Card:
    """Copy a trained model, with or without the mirror image at its side."""
    source = run_folder(folder, of)
    model, card = load_checkpoint(source)
    model.mirror = mirror
    card = replace(card, mirror=mirror)
    if card.database_model:
        save_checkpoint(out / DATABASE_FOLDER, *load_checkpoint(source / DATABASE_FOLDER))
    save_checkpoint(out, model, card)
    return card


def own_database(folder: Path, out: Path) -> Card:
    """Copy the model of query-side training, and let it encode the database too."""
    model, card = load_checkpoint(run_folder(folder, "query-side"))
    card = replace(card, database_model=None)
    save_checkpoint(out, model, card)
    return card


MADE: dict[str, Callable[[Path, Path], Card]] = {
    "saat, mirrored": lambda folder, out: mirrored(folder, out, "saat", True),
    "saat, database of plain": lambda folder, out: saat_beside_plain(folder, out, "", 0, False),
    "query-side, not mirrored": lambda folder, out: mirrored(folder, out, "query-side", False),
    "query-side, database of its own": own_database,
}
TRIED: dict[str, Callable[[HardenConfig], Card]] = {
    "query-side, weight perturbation": with_weight_perturbation,
    "query-side, strong finish": with_strong_finish,
    "query-side, early stopping": with_early_stopping,
}
"""Of the trained ones, those with something that query-side training does not have."""
RUNS = (*TRAINED, *MADE)


def run_folder(folder: Path, name: str) -> Path:
    """Return the checkpoint of a run; SAAT and query-side training are those of bench_defenses.py."""
    known = {"saat": folder / "hardened", "query-side": folder / "query-side"}
    return known.get(name, folder / "ablation" / folder_of(name))


def run(name: str, *, seed: int, work: Path, quick: bool) -> dict[str, Any]:
    """Train and measure one run; write its result file, and return its row."""
    folder = work / f"cifar10-seed{seed}"
    out = run_folder(folder, name)
    options = TRAINED.get(name, {})
    if quick:
        out = folder / "ablation-quick" / out.name
        options = options | {"fit": replace(options["fit"], epochs=1)} if options else options
    config = HardenConfig(checkpoint=folder / "plain", out=out, seed=seed, **options)
    card = trained(out, lambda: MADE[name](folder, out) if name in MADE else TRIED.get(name, harden)(config))
    suite = EvaluateConfig(
        checkpoint=out,
        suite="fast",
        out=out.parent / f"{out.name}-fast",
        steps=2 if quick else 50,
        seed=seed,
        name=name,
    )
    report = reported(suite, lambda: evaluate(suite))
    row = {
        "run": name,
        "seed": seed,
        "clean_map": report["clean_map"],
        "worst_case_map": report["attacked_map"],
        "chance_map": report["chance_map"],
        "train_seconds": card.training["seconds"],
        "train_model_evaluations": card.training["model_evaluations"],
        "flags": [flag["name"] for flag in report["flags"]],
    }
    start = card.training["parent_weights"][:6]  # a seed gives another plain model on another machine
    path = RESULTS / "ablation" / f"cifar10-{out.name}{'-quick' if quick else ''}-seed{seed}-{start}.json"
    write_text(path, json.dumps(heading() | {"training": card.training, "row": row}, indent=2) + "\n")
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Run from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=RUNS, choices=RUNS, help="those to run, in this order")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="checkpoints; resumes from there")
    parser.add_argument("--quick", action="store_true", help="an epoch and 2 steps each")
    options = parser.parse_args()
    rows = [
        run(name, seed=seed, work=options.work, quick=options.quick) for seed in options.seeds for name in options.runs
    ]
    print(json.dumps({f"{row['run']}, {row['seed']}": [row["clean_map"], row["worst_case_map"]] for row in rows}))


if __name__ == "__main__":
    main()
