"""Tables of attacks: the papers' attacks and the suite, and every attack at equal evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markdown_tables import markdown, spread

EQUAL_NOTE = """\
MAP, tie-aware. Each attack shows the model an image about as often ({}); a gradient counts as one, and training a
universal change or a generator counts its images. `fgsm` has one step by nature; `vmi-fgsm` and `nes` look 21 and 50
times a step, and have one step where 20 are given. The attacks of the papers are those of the presets, shortened."""


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
        parts.append(
            f"Seeds {seeds}; {sizes}; chance MAP {chance}. Training: {times}, on {machine['cores']} cores that "
            f"other work had a share in. {beyond_the_paper(mine)}\n"
        )
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
        f"On hardened models the suite ends {spread(lower, 1)} % under the SAAT attack (the aim was 15), where the "
        f"lowest MAP of any code found is {spread(lowest, 1)} % under it."
    )


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
