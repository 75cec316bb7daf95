"""Reports: one page, one JSON and one Markdown file from one or more attack runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from saat.errors import ArgumentError, DataError
from saat.evaluation.charts import distance_chart, precision_recall_chart
from saat.runtime import write_text

Report = dict[str, Any]


def combine_reports(runs: Sequence[tuple[str, Path]]) -> Report:
    """Return the reports of several runs under their names, with `chance_map` beside them.

    Args:
        runs: (name, folder that `saat attack` wrote).

    Raises:
        DataError: a folder has no readable report.
        ArgumentError: the runs ranked other data, so that their numbers cannot stand side by side.
    """
    reports: dict[str, Report] = {}
    for name, folder in runs:
        try:
            reports[name] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"`runs` are folders that saat attack wrote; found no report.json in {folder}") from None
        except ValueError as error:
            raise DataError(f"{folder / 'report.json'} is damaged: {error}") from error
    ranked = {
        name: [report["data"]["checksums"][split] for split in ("query", "database")]
        for name, report in reports.items()
    }
    first = next(iter(ranked))
    for name, checksums in ranked.items():
        if checksums != ranked[first]:
            raise ArgumentError(f"`runs` have the same queries and database; those of {name} and {first} differ")
    combined: Report = dict(reports)
    combined["chance_map"] = reports[first]["chance_map"]
    return combined


def surviving_share(report: Mapping[str, Any]) -> float:
    """Return the share of the gap between chance and clean MAP that survives the attack; below 0, worse than chance.

    >>> surviving_share({"clean_map": 0.9, "attacked_map": 0.3, "chance_map": 0.1})
    0.25
    """
    gap = report["clean_map"] - report["chance_map"]
    return round((report["attacked_map"] - report["chance_map"]) / gap, 4) if gap > 0 else 0.0


def verdict(report: Mapping[str, Any], name: str) -> str:
    """Return what one model's numbers say, in a sentence."""
    clean, attacked, chance = (report[key] for key in ("clean_map", "attacked_map", "chance_map"))
    epsilon = f"{report['attack']['epsilon'] * 255:.3g}/255"
    if attacked <= chance:
        outcome = f"falls to {attacked:.3f}, no better than the {chance:.3f} of a random ranking"
    else:
        outcome = (
            f"falls to {attacked:.3f} and keeps {surviving_share(report):.0%} of its lead over chance ({chance:.3f})"
        )
    return f"Under attack at {epsilon}, the MAP of the {name} model {outcome}; clean it was {clean:.3f}."


def write_report(runs: Sequence[tuple[str, Path]], out: Path) -> Path:
    """Write `report.html` (self-contained), `report.json` and `report.md` to `out`; return the page's path.

    Raises:
        DataError: a run has no readable report.
        ArgumentError: the runs ranked other data.
    """
    combined = combine_reports(runs)
    models = {name: combined[name] for name, _ in runs}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("saat.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = surviving_share
    folders = dict(runs)
    first = next(iter(models.values()))
    values = {
        "models": models,
        "first": first,
        "chance": combined["chance_map"],
        "verdicts": [verdict(report, name) for name, report in models.items()],
        "flags": [(name, flag) for name, report in models.items() for flag in report["flags"]],
        "precision_recall": precision_recall_chart(models),
        "distances": {name: distance_chart(report) for name, report in models.items()},
        "picture": lambda name, image: _data_uri(folders[name] / image),
    }
    write_text(out / "report.html", environment.get_template("report.html").render(values))
    write_text(out / "report.md", environment.from_string(MARKDOWN).render(values))
    write_text(out / "report.json", json.dumps(combined, indent=2) + "\n")
    return out / "report.html"


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


MARKDOWN = """\
{% for name, flag in flags %}
**Unreliable** ({{ name }}): {{ flag.name }}: {{ flag.message }}

{% endfor %}
# Robustness report

{% for verdict in verdicts %}
{{ verdict }}

{% endfor %}
| model | clean MAP | attacked MAP | chance MAP | lead over chance that survives | distinct codes | bit entropy |
|---|---:|---:|---:|---:|---:|---:|
{% for name, report in models.items() %}
| {{ name }} | {{ "%.3f" % report.clean_map }} | {{ "%.3f" % report.attacked_map }} | {{ "%.3f" % chance }} \
| {{ "%.1f %%" % (100 * report|share) }} | {{ report.clean.distinct_codes }} | {{ "%.2f" % report.clean.bit_entropy }} |
{% endfor %}

Attack: {{ first.attack.name }}, goal {{ first.attack.goal }}, objective {{ first.attack.objective }}, \
{{ first.attack.norm }}, epsilon {{ "%.3g" % (first.attack.epsilon * 255) }}/255, {{ first.attack.steps }} steps, \
{{ first.attack.restarts }} restart(s), seed {{ first.attack.seed }}. Data: {{ first.data.name }}, \
{{ first.data.sizes.query }} queries, {{ first.data.sizes.database }} items.
"""
