"""Write docs/results.md and results/attacks.json from the JSON files in benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attack_tables import equal_table, protocol_tables
from defense_tables import ablation_table, certified_table, curve_table, defense_tables, threat_tables
from markdown_tables import paragraph
from published_tables import published_sections

from saat.runtime import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "results.md"
ROW_KEYS = (
    *("dataset", "model", "seed", "attack", "budget", "norm", "epsilon", "model_evaluations"),
    *("map", "map_paper", "chance_map", "chance_map_paper", "t_map_clean", "t_map_attacked", "t_map_chance", "flags"),
)
PAPERS_BUDGET = "100 steps"
METRICS_NOTE = """\
MAP@5000 of 1,000 queries over 59,000 items of random 32-bit codes, against a float sort for each query (timed on 100 of
them); the smaller of the ratios with 21 and with 80 labels, both on all cores. At least 100 was wanted, in at most
200 MB."""
ATTACKS_NOTE = """\
Evaluations a second, and time to the MAP at which 100 steps of the published loop end, on the CIFAR-10 model of seed 0
that SAAT hardened without momentum (250 queries) and a random AlexNet with a trained hash layer at 224 px (32 queries),
on a quiet machine. At least 3 and 20 were wanted."""
HARDENING_NOTE = """\
Time of query-side training over that of SAAT for 8 epochs, as the published loop runs it (float32, the inner attack
in training mode, gradients of the weights too) and as ours does, measured in turns in one run; and the former with
the database's images beside, unlabeled. Ours computes in bfloat16 where a processor has it, as this one had; where
it has not, expect another ratio. `saat` showed each image ten times an epoch then, and nine times today. A few
batches were timed, and multiplied by their number."""
INTRODUCTION = """\
# Results

Made by `benchmarks/make_results.py` from the files in `benchmarks/results/`. Clean, attacked and chance MAP stand
together: a model at or under chance is not robust. MAP is tie-aware over the whole ranking; MAP@5000 is the papers'
convention. Figures are means over seeds, with the smallest and the largest in parentheses where there are several. One
attack is an upper bound on robustness; `suite standard` is the worst case of each query over five. `any code` is the
lowest MAP found for codes by greedy bit flips, whether an image can reach them or not: what lies between it and an
attack is the room that a stronger one may have. On Corel5k that is little: more than four fifths of the way are gone.

`hardened` is SAAT with its inner attack in eval mode, on CIFAR-10 with momentum 0.9, on Corel5k without. Times are
those of a machine that had other work.

Some runs are of [earlier code](#runs-of-earlier-code). The figures come from several machines: where one was gone, a
plain model was trained anew with its seed before what was still to be measured, so that rows of a seed need not start
from the same weights.

On Corel5k models start from EfficientNet-Lite0 with ImageNet weights. On CIFAR-10 they start from a ResNet-20 whose
weights were trained on the labels of all 50,000 training images, so they have seen the labels of the database: fine for
comparing defenses, not a fair claim of clean accuracy.
"""
EARLIER = """\
## Runs of earlier code

`empty memory`: the hashing loss began with zeros in its memory, not with the train codes, as SAAT was released and as
it is now; and the model was shown clean images before adversarial ones, now after, as released. `hardened`, and SAAT on
Corel5k, are such runs. With momentum SAAT [gains](#what-each-ingredient-is-worth) by the codes,
without hardly.

In `saat, as released`, `saat, no momentum` and those of an empty memory the column `evaluations` has one pass an image
and epoch more than is needed today: 400 where it would be 360.

`saat, targeted` among [all attacks](#every-attack-at-equal-evaluations) took the objective of the untargeted attack,
mirrored; the preset now has the published one.

The row `query-side` on Corel5k, and `no warmup` in the ablation, were trained within the whole radius from the start,
as if with `--epsilon_warmup 0`.
"""


def paragraphs(text: str) -> str:
    """Return paragraphs in lines of at most 120 characters."""
    return "\n\n".join(map(paragraph, text.strip().split("\n\n"))) + "\n"


def speed_table(name: str, title: str, keys: Sequence[str], note: str) -> list[str]:
    """Return a section of headline figures from one file, if it is there."""
    path = RESULTS / name
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    lines = "\n".join(f"- `{key}`: {result[key]:.3g}{turns(result, key)}" for key in keys if key in result)
    return [f"## {title}\n\n{note}\n\n{lines}\n\nFile: `{name}`.\n"]


def turns(result: dict[str, Any], key: str) -> str:
    """Return the spread of a ratio of attack_speed.json over its turns; of other files nothing."""
    figure, _, setting = key.partition("_ratio")
    found = result.get(setting.removeprefix("_") or "resnet20", {}).get(figure)
    if found is None:
        return ""
    low, high = found["ratio"]["spread"]
    return f", {low:.3g} to {high:.3g} in {found['ratio']['n']} turns"


def defenses_of_protocols(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of bench_defenses.py that the protocols' own files hold: the plain model, and SAAT's."""
    hardened = {"cifar10": "saat, empty memory", "corel5k": "saat, no momentum, empty memory"}
    found = []
    for result in results:
        for model in ("plain", "hardened"):
            rows = {row["attack"]: row for row in result["rows"] if row["model"] == model}
            suite = rows.get("suite standard")
            if suite is None:
                continue
            shared = {key: suite[key] for key in ("dataset", "seed", "clean_map", "chance_map", "flags", "members")}
            maps = {"paper_attack_map": "saat-paper", "hag_map": "hag", "worst_case_map": "suite standard"}
            row = shared | {"defense": hardened[suite["dataset"]] if model == "hardened" else "undefended"}
            row |= {key: rows[attack]["map"] for key, attack in maps.items()}
            costs = ("train_seconds", "train_model_evaluations")
            found.append(row | {cost: result[cost][model] if model == "hardened" else 0 for cost in costs})
    return found


def main() -> None:
    read = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*-seed*.json"))}
    every = [result for name, result in read.items() if "-every-" in name]
    results = [result for name, result in read.items() if "-every-" not in name]
    runs, threats, curve, ablation, certified = (
        [json.loads(path.read_text()) for path in sorted((RESULTS / folder).glob("*.json"))]
        for folder in ("defenses", "threats", "curve", "ablation", "certified")
    )
    defended = [run["row"] for run in runs]
    found = [row | {"budget": PAPERS_BUDGET} for result in results for row in result["rows"]]
    for result in every:
        found += [row | {"budget": f"{result['evaluations_an_image']} evaluations"} for row in result["rows"]]
    rows = sorted(
        ({key: row[key] for key in ROW_KEYS if key in row} for row in found),
        key=lambda row: (row["dataset"], row["model"], row["attack"], row.get("model_evaluations", 0), row["seed"]),
    )
    judged = defenses_of_protocols(results)
    known = {(row["dataset"], row["defense"], row["seed"]) for row in judged}
    defended = [row for row in defended if (row["dataset"], row["defense"], row["seed"]) not in known] + judged
    write_text(RESULTS / "defenses.json", json.dumps({"rows": defended}, indent=1) + "\n")
    write_text(RESULTS / "attacks.json", json.dumps({"rows": rows}, indent=1) + "\n")
    sizes = {result["rows"][0]["dataset"]: result["data"]["sizes"] for result in results}
    parts = [paragraphs(INTRODUCTION), *protocol_tables(results), *equal_table(every, sizes), *defense_tables(defended)]
    parts += [*threat_tables(threats), *ablation_table(ablation), *curve_table(curve), *certified_table(certified)]
    figures = ("speedup", "peak_mb")
    parts += speed_table("metrics.json", "Speed of the metrics", figures, METRICS_NOTE)
    speeds = ("throughput_ratio", "time_to_map_ratio", "throughput_ratio_alexnet", "time_to_map_ratio_alexnet")
    parts += speed_table("attack_speed.json", "Speed of attacks", speeds, ATTACKS_NOTE)
    times = ("time_over_published", "time_over_saat", "unlabeled_time_over_published")
    parts += speed_table("hardening.json", "Time of hardening", times, HARDENING_NOTE)
    parts += [paragraphs(EARLIER), *published_sections()]
    write_text(PAGE, "\n".join(parts))


if __name__ == "__main__":
    main()
