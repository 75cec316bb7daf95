"""Write docs/results.md and results/attacks.json from the JSON files in benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_tables import markdown, spread
from published_tables import published_sections

from saat.runtime import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "results.md"
ROW_KEYS = (
    *("dataset", "model", "seed", "attack", "norm", "epsilon", "model_evaluations"),
    *("map", "map_paper", "chance_map", "flags"),
)
METRICS_NOTE = """\
MAP@5000 of 1,000 queries over 59,000 items, 21 labels, against a float sort for each query, one thread each.
The aim was 100: NumPy's vectorized sort leaves the loop too little to lose for that."""
ATTACKS_NOTE = """\
Evaluations a second, and time to the MAP at which 100 steps of the published loop end, on the hardened CIFAR-10
model of seed 0 (100 queries) and a random AlexNet with a trained hash layer (8 queries). The aims were 3 and 20. On
AlexNet the last digit decides: `tried` in the file has the MAP and time of fewer steps."""
DEFENSES = (
    *(
        "undefended",
        "constant",
        "pgd-at",
        "trades",
        "distill",
        "atrdh",
        "cgat",
        "saat, as released",
        "saat",
        "saat, database of plain",
    ),
    *("query-side", "query-side, unlabeled"),
)
EQUAL_NOTE = """\
MAP, tie-aware. Each attack shows the model an image about as often ({}); a gradient counts as one, and training a
universal change or a generator counts its images. `fgsm` has one step by nature. The attacks of the papers are those of
the presets, shortened."""
DEFENSE_NOTE = """\
MAP, tie-aware; chance {}. `SAAT attack` and `HAG` are the papers' 100 steps; `worst case` is the suite `standard`;
`kept` is the share of the gap between clean and chance that is left in the worst case. Seconds are wall time of a
machine that had other work: for the cost see below. `saat, as released` has no momentum, `saat` 0.9. `constant` has
one code for all images: no attack moves it, and it finds nothing. `saat, database of plain` shows what the database's
codes alone are worth."""
HARDENING_NOTE = """\
Time of query-side training over that of SAAT for 8 epochs, as the published loop runs it (float32, the inner attack in
training mode, gradients of the weights too) and as ours does, measured in turns in one run."""
INTRODUCTION = """\
# Results

Made by `benchmarks/make_results.py` from the files in `benchmarks/results/`. Clean, attacked and chance MAP stand
together: a model at or under chance is not robust. MAP is tie-aware over the whole ranking; MAP@5000 is the papers'
convention. Figures are means over seeds, with the smallest and the largest in parentheses where there are several. One
attack is an upper bound on robustness; `suite standard` is the worst case of each query over five.

The published functions, on the CIFAR-10 protocol here with one seed on CPU, gave: clean MAP@5000 0.833; 0.0002 under
their PGD-100 mainstay attack, 0.0014 under HAG; after SAAT clean 0.325, attacked 0.184 (chance 0.10), with 641 s of
hardening. Their hardening has no momentum; ours has 0.9. Ours took 562 s on two cores, the one time that it ran alone
(CIFAR-10, seed 0); the other times are those of a machine at work.

The CIFAR ResNet weights that the models start from were trained on the labels of all 50,000 CIFAR-10 training images,
so they have seen the labels of the database: fine for comparing defenses, not a fair claim of clean accuracy.
"""


def protocol_tables(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return one section for each data set: models and attacks, over seeds."""
    rows = [row for result in results for row in result["rows"]]
    parts = []
    for dataset in sorted({row["dataset"] for row in rows}):
        mine = [result for result in results if result["rows"] and result["rows"][0]["dataset"] == dataset]
        sizes = ", ".join(f"{size:,} {name}" for name, size in mine[0]["data"]["sizes"].items())
        table = []
        for model in ("plain", "hardened"):
            chosen = [row for row in rows if row["dataset"] == dataset and row["model"] == model]
            if not chosen:
                continue
            clean = list({row["seed"]: row for row in chosen}.values())
            table.append(
                [
                    model,
                    "none",
                    "",
                    *(spread([row[key] for row in clean]) for key in ("clean_map", "clean_map_paper")),
                    "",
                ]
            )
            names = list(dict.fromkeys(row["attack"] for row in chosen))
            for name in names:
                same = [row for row in chosen if row["attack"] == name]
                flags = sorted({flag for row in same for flag in row["flags"]})
                table.append(
                    [
                        model,
                        name,
                        ", ".join(flags),
                        spread([row["map"] for row in same]),
                        spread([row["map_paper"] for row in same]),
                        f"{same[0]['model_evaluations']:,}",
                    ]
                )
        columns = ("model", "attack", "flags", "MAP", "MAP@5000", "model evaluations")
        chance = spread([row["chance_map"] for row in rows if row["dataset"] == dataset][:1])
        seconds = {
            name: spread([result["train_seconds"][name] for result in mine], 0) for name in mine[0]["train_seconds"]
        }
        machine = mine[0]["machine"]
        times = ", ".join(f"{name} {value} s" for name, value in seconds.items())
        seeds = ", ".join(str(result["rows"][0]["seed"]) for result in mine)
        parts.append(f"## {dataset}\n\n{markdown(columns, table, text_columns=3)}\n")
        parts.append(
            f"Seeds {seeds}; {sizes}; chance MAP {chance}. Training: {times}, on {machine['cores']} cores that "
            "other work had a share in.\n"
        )
    return parts


def equal_table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the section of all attacks at equal evaluations: a row an attack, a column a data set and model."""
    rows = [row for result in results for row in result["rows"]]
    if not rows:
        return []
    pairs = sorted({(row["dataset"], row["model"]) for row in rows}, reverse=True)
    table = []
    for name in dict.fromkeys(row["attack"] for row in rows):
        cells = []
        for pair in pairs:
            same = [row for row in rows if (row["dataset"], row["model"], row["attack"]) == (*pair, name)]
            cells.append(spread([row["map"] for row in same]) if same else "")
        norm = next(f"{row['norm']} {row['epsilon']:.3g}" for row in rows if row["attack"] == name)
        table.append([name, norm, *cells])
    budgets = {result["rows"][0]["dataset"]: result["evaluations_an_image"] for result in results}
    note = EQUAL_NOTE.format(", ".join(f"{dataset}: {times} times" for dataset, times in sorted(budgets.items())))
    columns = ("attack", "within", *(f"{dataset}, {model}" for dataset, model in pairs))
    return [f"## Every attack at equal evaluations\n\n{note}\n\n{markdown(columns, table, text_columns=2)}\n"]


def defense_tables(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return a section for each data set: every defense, over seeds."""
    parts = []
    for dataset in sorted({run["row"]["dataset"] for run in runs}):
        rows = [run["row"] for run in runs if run["row"]["dataset"] == dataset]
        names = sorted({row["defense"] for row in rows}, key=lambda name: DEFENSES.index(name))
        table = []
        for name in names:
            same = [row for row in rows if row["defense"] == name]
            keys = ("clean_map", "paper_attack_map", "hag_map", "worst_case_map")
            kept = [
                (row["worst_case_map"] - row["chance_map"]) / (row["clean_map"] - row["chance_map"])
                for row in same
                if row["clean_map"] - row["chance_map"] > 0.001
            ]
            table.append(
                [
                    name,
                    ", ".join(sorted({flag for row in same for flag in row["flags"]})),
                    str(len(same)),
                    *(spread([row[key] for row in same], 3) for key in keys),
                    spread(kept, 2) if kept else "",
                    spread([row["train_seconds"] for row in same], 0),
                ]
            )
        columns = ("defense", "flags", "seeds", "clean MAP", "SAAT attack", "HAG", "worst case", "kept", "seconds")
        chance = f"{rows[0]['chance_map']:.3f}"
        parts.append(
            f"## Defenses on {dataset}\n\n{DEFENSE_NOTE.format(chance)}\n\n{markdown(columns, table, text_columns=2)}\n"
        )
    return parts


def speed_table(name: str, title: str, keys: Sequence[str], note: str) -> list[str]:
    """Return a section of headline figures from one file, if it is there."""
    path = RESULTS / name
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    lines = "\n".join(f"- `{key}`: {result[key]:.3g}" for key in keys if key in result)
    return [f"## {title}\n\n{note}\n\n{lines}\n\nFile: `{name}`.\n"]


def main() -> None:
    read = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*-seed*.json"))}
    every = [result for name, result in read.items() if "-every-" in name]
    results = [result for name, result in read.items() if "-every-" not in name]
    runs = [json.loads(path.read_text()) for path in sorted((RESULTS / "defenses").glob("*.json"))]
    rows = sorted(
        ({key: row[key] for key in ROW_KEYS if key in row} for result in [*results, *every] for row in result["rows"]),
        key=lambda row: (row["dataset"], row["model"], row["attack"], row["model_evaluations"], row["seed"]),
    )
    write_text(RESULTS / "defenses.json", json.dumps({"rows": [run["row"] for run in runs]}, indent=1) + "\n")
    write_text(RESULTS / "attacks.json", json.dumps({"rows": rows}, indent=1) + "\n")
    parts = [INTRODUCTION, *protocol_tables(results), *equal_table(every), *defense_tables(runs)]
    parts += speed_table("metrics.json", "Speed of the metrics", ("speedup", "peak_mb"), METRICS_NOTE)
    speeds = ("throughput_ratio", "time_to_map_ratio", "throughput_ratio_alexnet", "time_to_map_ratio_alexnet")
    parts += speed_table("attack_speed.json", "Speed of attacks", speeds, ATTACKS_NOTE)
    parts += speed_table(
        "hardening.json", "Time of hardening", ("time_over_published", "time_over_saat"), HARDENING_NOTE
    )
    parts += published_sections()
    write_text(PAGE, "\n".join(parts))


if __name__ == "__main__":
    main()
