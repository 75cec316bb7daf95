"""The curve from clean to robust: query-side training and SAAT, at several values of `--robustness`.

python benchmarks/bench_curve.py [--defenses query-side saat] [--robustness 0.5 1.0 1.5] [--seed 0] [--quick]

Starts from the plain model that bench_cifar10.py trained; the models at 1 are those of bench_defenses.py. One result
file a point, results/curve/, so that a run that was stopped goes on; docs/clean-robust.svg is drawn anew after each.
The worst case is that of the suite `fast`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
from bench_defenses import DEFENSES, FOLDERS
from bench_protocol import RESULTS, reported, trained
from folders import folder_of
from matplotlib.figure import Figure
from provenance import heading

from saat.recipes.evaluate import EvaluateConfig, evaluate
from saat.recipes.harden import HardenConfig, harden
from saat.runtime import atomic_write, write_text

PICTURE = Path(__file__).parents[1] / "docs" / "clean-robust.svg"
CURVES = ("query-side", "saat")
COLORS = ("#0072B2", "#D55E00", "#009E73")


def run_point(defense: str, robustness: float, *, seed: int, work: Path, quick: bool) -> dict[str, Any]:
    """Train and measure one point, and write its result file."""
    folder = work / f"cifar10-seed{seed}"
    options = DEFENSES[defense]
    if quick:
        options = options | {"fit": replace(options["fit"], epochs=1)}
    model = FOLDERS["cifar10"].get(defense, folder_of(defense))
    name = f"{model}-{robustness:g}{'-quick' if quick else ''}"
    out = folder / model if robustness == 1.0 and not quick else folder / "curve" / name
    config = HardenConfig(checkpoint=folder / "plain", out=out, seed=seed, robustness=robustness, **options)
    card = trained(config.out, lambda: harden(config))
    suite = EvaluateConfig(
        checkpoint=config.out,
        suite="fast",
        out=out.parent / f"{out.name}-fast",
        steps=2 if quick else 50,
        seed=seed,
        name=defense,
    )
    report = reported(suite, lambda: evaluate(suite))
    row = {
        "defense": defense,
        "robustness": robustness,
        "seed": seed,
        "clean_map": report["clean_map"],
        "worst_case_map": report["attacked_map"],
        "chance_map": report["chance_map"],
        "train_seconds": card.training["seconds"],
        "flags": [flag["name"] for flag in report["flags"]],
    }
    path = RESULTS / "curve" / f"cifar10-{name}-seed{seed}.json"
    write_text(path, json.dumps(heading() | {"row": row}, indent=2) + "\n")
    return row


def known_points(seed: int) -> list[dict[str, Any]]:
    """Return the points that have been measured, in this run or an earlier one."""
    files = sorted((RESULTS / "curve").glob(f"cifar10-*-seed{seed}.json"))
    return [json.loads(file.read_text())["row"] for file in files if "-quick" not in file.name]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw clean against worst-case MAP, a line a defense, with the robustness at each point."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "saat", "font.family": "sans-serif"}):
        figure = Figure(figsize=(6.0, 4.2), layout="constrained")
        axes = figure.subplots()
        for color, defense in zip(COLORS, sorted({row["defense"] for row in rows}), strict=False):
            mine = sorted((row for row in rows if row["defense"] == defense), key=lambda row: row["robustness"])
            clean, worst = ([row[key] for row in mine] for key in ("clean_map", "worst_case_map"))
            axes.plot(clean, worst, "o-", color=color, label=defense)
            for row in mine:
                place = row["clean_map"], row["worst_case_map"]
                axes.annotate(f"{row['robustness']:g}", place, textcoords="offset points", xytext=(6, 4))
        axes.axhline(rows[0]["chance_map"], color="gray", linestyle=":", label="chance")
        axes.margins(0.08)  # room for the numbers at the points
        axes.set(xlabel="clean MAP", ylabel="worst-case MAP (suite fast)")
        figure.legend(loc="outside lower center", ncols=3)
        with atomic_write(path) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})


def main() -> None:
    """Run from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--defenses", nargs="+", default=CURVES, choices=CURVES)
    parser.add_argument("--robustness", type=float, nargs="+", default=[0.5, 1.0, 1.5])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="checkpoints; resumes from there")
    parser.add_argument("--quick", action="store_true", help="an epoch and 2 steps each; draws nothing")
    options = parser.parse_args()
    rows = []
    for robustness in options.robustness:
        for defense in options.defenses:
            rows.append(run_point(defense, robustness, seed=options.seed, work=options.work, quick=options.quick))
            if not options.quick:
                draw(known_points(options.seed), PICTURE)
    points = {f"{row['defense']} {row['robustness']:g}": (row["clean_map"], row["worst_case_map"]) for row in rows}
    print(json.dumps({name: [round(value, 4) for value in pair] for name, pair in points.items()}))


if __name__ == "__main__":
    main()
