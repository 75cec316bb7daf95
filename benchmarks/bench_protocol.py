"""The published procedure end to end on one protocol: train, attack, harden by SAAT, attack again, worst case.

Each seed's figures go to a result file of their own; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from every_attack import ESSENTIAL, EVERY, OTHER_MODEL, equal_settings
from provenance import heading

from saat.data.catalog import DataOptions
from saat.models.checkpoint import CARD_FILE, Card, read_card
from saat.recipes.attack import AttackConfig, attack_subject
from saat.recipes.evaluate import EvaluateConfig, evaluate
from saat.recipes.harden import HardenConfig, harden
from saat.recipes.outcome import SubjectCodes, encode_subject
from saat.recipes.subject import Subject, load_subject
from saat.recipes.train import TrainConfig, train
from saat.runtime import RunOptions, write_text
from saat.training import FitOptions

RESULTS = Path(__file__).parent / "results"
PRECISIONS = {"corel5k": "float32"}
"""Of training, by data set, where not `auto`: the depthwise convolutions of its network train faster in float32."""
MakeData = Callable[[Path, int], DataOptions]
"""(folder of the data set, divisor of its sizes) -> data options."""


@dataclass(frozen=True)
class Protocol:
    """What is run: data, first weights, the two trainings of the papers, and the attacks."""

    name: str
    data: DataOptions
    backbone: str
    weights: str
    train_fit: FitOptions
    harden_fit: FitOptions
    attacks: dict[str, dict[str, Any]]
    steps: int = 100
    precision: str = "auto"


def paper_fit(epochs: int) -> FitOptions:
    """Return how SAAT hardens, and all train here: SGD at 0.05, batches of 32, x0.1 at 1/2 and 3/4, no augmentation."""
    return FitOptions(epochs=epochs, batch_size=32, schedule="multistep", augment=False)


def run_protocol(protocol: Protocol, *, seed: int, work: Path) -> dict[str, Any]:
    """Run one seed under `work`; write `results/NAME-seedN.json` and return its content."""
    folder = work / f"{protocol.name}-seed{seed}"
    plain = TrainConfig(
        out=folder / "plain",
        data=protocol.data,
        backbone=protocol.backbone,
        weights=protocol.weights,
        fit=protocol.train_fit,
        seed=seed,
        precision=protocol.precision,
    )
    hardened = HardenConfig(
        checkpoint=plain.out,
        out=folder / "hardened",
        fit=protocol.harden_fit,
        seed=seed,
        precision=protocol.precision,
    )
    cards = {
        "plain": trained(plain.out, lambda: train(plain)),
        "hardened": trained(hardened.out, lambda: harden(hardened)),
    }
    path = RESULTS / f"{protocol.name}-seed{seed}.json"
    result: dict[str, Any] = heading() | {
        "data": {key: value for key, value in cards["plain"].manifest.items() if key in ("sizes", "checksums")},
        "train_seconds": {name: card.training["seconds"] for name, card in cards.items()},
        "train_model_evaluations": {name: card.training["model_evaluations"] for name, card in cards.items()},
        "rows": [],
    }
    for model in cards:
        add_attacks(result, protocol, protocol.attacks, folder, model, seed, path)
    for model in reversed(cards):  # suites last: they take longest
        suite = EvaluateConfig(
            checkpoint=folder / model,
            suite="standard",
            out=folder / f"{model}-suite",
            steps=protocol.steps,
            seed=seed,
        )
        add_row(
            result, protocol.name, model, "suite standard", seed, reported(suite, lambda suite=suite: evaluate(suite))
        )
        write_text(path, json.dumps(result, indent=2) + "\n")
    return result


def run_every(
    protocol: Protocol, *, seed: int, work: Path, evaluations: int, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Run all attacks on the models of one seed at equal evaluations; write `results/NAME-every-seedN.json`.

    With `names` only these are run, and their rows take their places in the file.

    Raises:
        SystemExit: the file has rows at another number of evaluations.
    """
    folder, path = work / f"{protocol.name}-seed{seed}", RESULTS / f"{protocol.name}-every-seed{seed}.json"
    kept = kept_rows(json.loads(path.read_text()), names, evaluations) if names else []
    result = heading() | {"evaluations_an_image": evaluations, "rows": kept}
    sizes = read_card(folder / "plain").manifest["sizes"]
    attacks = {
        name: equal_settings(EVERY[name], evaluations, evaluations * sizes["query"] // sizes["train"])
        for name in names or EVERY
    }
    for model in ("hardened", "plain"):
        add_attacks(result, protocol, attacks, folder, model, seed, path, prefix=f"{model}-{evaluations}-")
    order = list(EVERY)
    result["rows"].sort(key=lambda row: (row["model"], order.index(row["attack"])))
    write_text(path, json.dumps(result, indent=2) + "\n")
    return result


def kept_rows(earlier: dict[str, Any], names: Sequence[str], evaluations: int) -> list[dict[str, Any]]:
    """Return the rows of other attacks than `names`, each with the commit that it comes from."""
    if earlier["evaluations_an_image"] != evaluations:
        found = f"{evaluations}, beside rows of {earlier['evaluations_an_image']}"
        raise SystemExit(f"rows of one file have one number of evaluations an image; got {found}")
    commit_of_file = {"commit": earlier.get("commit", "unknown")}
    return [commit_of_file | row for row in earlier["rows"] if row["attack"] not in names]


def add_attacks(
    result: dict[str, Any],
    protocol: Protocol,
    attacks: dict[str, dict[str, Any]],
    folder: Path,
    model: str,
    seed: int,
    path: Path,
    prefix: str | None = None,
) -> None:
    """Run attacks that have no report yet; add their rows, and write the result after each."""
    encoded = cache(lambda: encoded_subject(folder / model))  # once for all attacks, if one is to run
    for name, options in attacks.items():
        settings = {"steps": protocol.steps} | options
        settings["steps"] = min(settings["steps"], protocol.steps)
        if settings.get("surrogate") == OTHER_MODEL:
            settings["surrogate"] = [folder / ("plain" if model == "hardened" else "hardened")]
        slug = name.replace(" ", "-").replace(",", "").replace("%", "percent")
        out = folder / f"{prefix or model + '-'}{slug}"
        config = AttackConfig(out=out, checkpoint=folder / model, seed=seed, name=model, **settings)
        run = partial(run_attack, config, encoded)
        add_row(result, protocol.name, model, name, seed, reported(config, run))
        write_text(path, json.dumps(result, indent=2) + "\n")


def run_attack(
    config: AttackConfig, encoded: Callable[[], tuple[Subject, SubjectCodes, torch.device]]
) -> dict[str, Any]:
    return attack_subject(config, *encoded())


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
    patch = cost.get("patch", 0.0)  # a share of the area stands for norm and epsilon
    row = {
        "dataset": dataset,
        "model": model,
        "seed": seed,
        "attack": name,
        "norm": "patch" if patch else cost["norm"],
        "epsilon": patch or cost["epsilon"],
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
    others = ("chance_map_paper", "t_map_clean", "t_map_attacked", "t_map_chance")
    row |= {key: report[key] for key in others if key in report}
    if "members" in cost:
        row |= {"members": {key: value["map"] for key, value in cost["members"].items()}}
        row |= {"any_code_map": cost["any_code_map"], "trials": cost["trials"]}
    for other in result["rows"]:
        if other["model"] == model and other["clean_map"] != row["clean_map"]:
            raise SystemExit(f"rows of one model have one clean MAP; {name} has another than {other['attack']}")
    result["rows"].append(row)
    print(json.dumps(row), flush=True)


def main(
    description: str,
    name: str,
    make_data: MakeData,
    *,
    backbone: str,
    weights: str | None = None,
    epochs: int = 12,
    harden_momentum: float = 0.9,
) -> None:
    """Run a protocol from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--weights", required=weights is None, default=weights, help="state file, imagenet or random")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one result file each")
    parser.add_argument(
        "--every", type=int, metavar="N", help="every attack at N evaluations an image, on these models"
    )
    parser.add_argument("--attacks", nargs="+", choices=EVERY, help="of --every only these; other rows stay")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="checkpoints; resumes from there")
    parser.add_argument("--quick", action="store_true", help="an epoch and 5 steps each on a tenth of the data")
    options = parser.parse_args()
    protocol = Protocol(
        name=f"{name}-quick" if options.quick else name,
        data=make_data(options.data, 10 if options.quick else 1),
        backbone=backbone,
        weights=options.weights,
        train_fit=paper_fit(1 if options.quick else epochs),
        harden_fit=replace(paper_fit(1 if options.quick else 8), momentum=harden_momentum),
        attacks=ESSENTIAL,
        steps=5 if options.quick else 100,
        precision=PRECISIONS.get(name, "auto"),
    )
    every = partial(run_every, evaluations=options.every, names=options.attacks)
    run = every if options.every else run_protocol
    print(headline([run(protocol, seed=seed, work=options.work) for seed in options.seeds]))


def headline(results: list[dict[str, Any]]) -> str:
    """Return the mean figures over seeds as one JSON line."""
    figures: dict[str, list[float]] = {}
    for result in results:
        for row in result["rows"]:
            figures.setdefault(f"{row['model']}, clean", []).append(row["clean_map_paper"])
            figures.setdefault(f"{row['model']}, {row['attack']}", []).append(row["map_paper"])
    return json.dumps({name: round(sum(values) / len(values), 4) for name, values in figures.items()})
