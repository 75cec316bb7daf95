"""One page from one or more attack runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saat.errors import ArgumentError
from saat.evaluation.report import write_report
from saat.recipes.tables import print_flags


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write report.html, report.json and report.md from 1 to 6 runs of `saat attack` or `saat evaluate --suite`.

    Args:
        runs: folders that these wrote, on the same queries and database.
        names: what the page calls them; their folder names when left out.
        out: folder of the report.
    """

    runs: list[Path]
    out: Path
    names: list[str] | None = None


def report(config: ReportConfig) -> Path:
    """Write the report, print the flags of its runs, and return the path of its page."""
    names = config.names or [path.resolve().name for path in config.runs]
    if not config.runs or len(names) != len(config.runs) or len(set(names)) != len(names):
        raise ArgumentError(f"`names` has one distinct name a run; got {names} for {len(config.runs)} runs")
    page, combined = write_report(list(zip(names, config.runs, strict=True)), config.out)
    for name in names:
        print_flags(combined[name]["flags"], of=name)
    print(f"report: {page}")
    return page
