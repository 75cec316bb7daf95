"""Write docs/results.md from the JSON files in benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saat.runtime import write_text

HERE = Path(__file__).parent
COLUMNS = (
    *("model", "attack", "clean MAP", "attacked MAP", "chance"),
    *("clean MAP@5000", "attacked MAP@5000", "model evaluations", "flags"),
)
PAGE = HERE.parent / "docs" / "results.md"
INTRODUCTION = """\
# Results

Made by `benchmarks/make_results.py` from the files in `benchmarks/results/`, a seed each. Clean, attacked and chance
MAP stand together: a model at or under chance is not robust. MAP is tie-aware over the whole ranking; MAP@5000 is the
papers' convention. One attack is an upper bound on robustness.

The published functions, on the CIFAR-10 protocol here with one seed on CPU, gave: clean MAP@5000 0.833; 0.0002 under
their PGD-100 mainstay attack, 0.0014 under HAG; after SAAT clean 0.325, attacked 0.184 (chance 0.10).

The CIFAR ResNet weights that the models start from were trained on the labels of all 50,000 CIFAR-10 training images,
so they have seen the labels of the database: fine for comparing defenses, not a fair claim of clean accuracy.
"""


def table(result: dict[str, Any]) -> str:
    """Return the rows of one result file as a Markdown table."""
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * (len(COLUMNS) - 3) + "---|",
    ]
    for row in result["rows"]:
        figures = [f"{row[key]:.4f}" for key in ("clean_map", "map", "chance_map", "clean_map_paper", "map_paper")]
        cells = [
            row["model"],
            row["attack"],
            *figures,
            f"{row['model_evaluations']:,}",
            ", ".join(row["flags"]) or "none",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parts = [INTRODUCTION]
    for path in sorted((HERE / "results").glob("*.json")):
        result = json.loads(path.read_text())
        row, machine, versions = result["rows"][0], result["machine"], result["versions"]
        sizes = ", ".join(f"{size:,} {name}" for name, size in result["data"]["sizes"].items())
        seconds = ", ".join(f"{name} {value:.0f} s" for name, value in result["train_seconds"].items())
        parts.append(f"## {row['dataset']}, seed {row['seed']}\n\n{table(result)}\n")
        where = f"{machine['cores']} cores, torch {versions['torch']}, saat {versions['saat']}"
        parts.append(f"{sizes}. Training: {seconds}, on {where}. File: `{path.name}`.\n")
    write_text(PAGE, "\n".join(parts))


if __name__ == "__main__":
    main()
