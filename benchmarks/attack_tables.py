"""Tables of attacks: the papers' attacks and the suite, and every attack at equal evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from every_attack import SAMPLING_STEPS
from markdown_tables import markdown, paragraph, spread

EQUAL_NOTE = """\
MAP, tie-aware. Each attack shows the model an image as often as the others, or as near as its steps allow; a gradient
counts as one. How often, by `model_evaluations` in `attacks.json`:

{looks}

`fgsm` has one step by nature. `vmi-fgsm` and `nes` take {steps} steps, and look around from each as often as the budget
allows. `universal` and `pros-gan` see a query once; the images of their training are in no row. Attacks from the other
model look at that one only. The attacks of the papers are those of the presets, shortened; `hag, sgd` and `dhta, ngd`
are the searches of their published code."""
TARGETED_NOTE = """\
t-MAP, the MAP against the labels of the targets, which targeted attacks raise; `none` is that of the clean queries. The
table above has their MAP against the queries' own labels."""
SLACK = 2  # looks at the clean image and at the last one


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
                if "any_code_map" in same[0]:
                    table.append([model, "any code", "", spread([row["any_code_map"] for row in same]), "", ""])
        columns = ("model", "attack", "flags", "MAP", "MAP@5000", "model evaluations")
        chance = spread([row["chance_map"] for row in rows if row["dataset"] == dataset][:1])
        seconds = {
            name: spread([result["train_seconds"][name] for result in mine], 0) for name in mine[0]["train_seconds"]
        }
        machine = mine[0]["machine"]
        times = ", ".join(f"{name} {value} s" for name, value in seconds.items())
        seeds = ", ".join(str(result["rows"][0]["seed"]) for result in mine)
        parts.append(f"## {dataset}\n\n{markdown(columns, table, text_columns=3)}\n")
        text = (
            f"Seeds {seeds}; {sizes}; chance MAP {chance}. Training: {times}, on {machine['cores']} cores that "
            f"other work had a share in. {beyond_the_paper(mine)}"
        )
        parts.append(paragraph(text) + "\n")
    return parts


def beyond_the_paper(results: Sequence[dict[str, Any]]) -> str:
    """Return how far below the SAAT attack the suite ends on hardened models, and how far any code found would."""
    lower, lowest = [], []
    for result in results:
        found = {row["attack"]: row for row in result["rows"] if row["model"] == "hardened"}
        if "suite standard" in found:
            paper, suite = found["saat-paper"]["map"], found["suite standard"]
            lower.append(100 * (1 - suite["map"] / paper))
            lowest.append(100 * (1 - suite["any_code_map"] / paper))
    return (
        f"On hardened models the suite ends {spread(lower, 1)} % under the SAAT attack (at least 15 were wanted), "
        f"where the lowest MAP of any code found is {spread(lowest, 1)} % under it."
    )


def equal_table(results: Sequence[dict[str, Any]], sizes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return the section of all attacks at equal evaluations: a row an attack, a column a data set and model.

    Args:
        results: of bench_protocol.py with `--every`.
        sizes: of the splits, by data set.
    """
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
    note = equal_note(rows, dict(sorted(budgets.items())), sizes)
    models = [f"{dataset}, {model}" for dataset, model in pairs]
    equal = markdown(("attack", "within", *models), table, text_columns=2)
    targeted = markdown(("attack", *models), targeted_rows(rows, pairs), text_columns=1)
    return [
        f"## Every attack at equal evaluations\n\n{note}\n\n{equal}\n",
        f"{TARGETED_NOTE}\n\n{targeted}\n",
    ]


def equal_note(
    rows: Sequence[dict[str, Any]], budgets: Mapping[str, int], sizes: Mapping[str, Mapping[str, int]]
) -> str:
    """Return what is equal between the attacks and what is not, counted from their rows."""
    looks = []
    for dataset, budget in budgets.items():
        queries, train = sizes[dataset]["query"], sizes[dataset]["train"]
        counts = {row["attack"]: round(row["model_evaluations"] / queries) for row in rows if row["dataset"] == dataset}
        equal = [count for count in counts.values() if budget <= count <= budget + SLACK]
        others = ", ".join(f"`{name}` {count}" for name, count in counts.items() if count not in equal)
        trained = max(1, budget * queries // train) * train
        text = (
            f"- {dataset}: {min(equal)} to {max(equal)} times, but {others}. Training: "
            f"{trained:,} images, {trained // queries} for each query."
        )
        looks.append(paragraph(text, hanging="  "))
    return EQUAL_NOTE.format(looks="\n".join(looks), steps=SAMPLING_STEPS)


def targeted_rows(rows: Sequence[dict[str, Any]], pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return the rows of t-MAP: that of the clean queries, then a row a targeted attack."""
    aimed = [row for row in rows if "t_map_attacked" in row]
    clean = list({(row["dataset"], row["model"], row["seed"]): row for row in aimed}.values())

    def cells(chosen: Sequence[dict[str, Any]], key: str) -> list[str]:
        values = ([row[key] for row in chosen if (row["dataset"], row["model"]) == pair] for pair in pairs)
        return [spread(each) if each else "" for each in values]

    table = [["none", *cells(clean, "t_map_clean")]]
    for name in dict.fromkeys(row["attack"] for row in aimed):
        table.append([name, *cells([row for row in aimed if row["attack"] == name], "t_map_attacked")])
    return table
