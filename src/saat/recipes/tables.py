"""Tables for people, on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from saat.evaluation.metrics import RetrievalMetrics


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns of numbers stand to the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        numbers = all(row[place][:1].isdigit() or row[place][:1] == "-" for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_flags(flags: Sequence[Mapping[str, str]]) -> None:
    """Print why what follows is unreliable, a line a flag: before any number."""
    for flag in flags:
        print(f"unreliable: {flag['name']}: {flag['message']}")


def print_metrics(measured: Mapping[str, RetrievalMetrics]) -> None:
    """Print the headline metrics, a row a measurement."""
    print_table(
        "Retrieval",
        (
            "",
            "MAP",
            "± s.e.",
            "chance",
            "MAP@5000 (papers)",
            "its chance",
            "precision@10",
            "distinct codes",
            "bit entropy",
        ),
        [
            (
                name,
                f"{metrics.map:.3f}",
                f"{metrics.map_standard_error:.3f}",
                f"{metrics.chance_map:.3f}",
                f"{metrics.map_paper:.3f}",
                f"{metrics.chance_map_paper:.3f}",
                f"{metrics.precision_at.get(10, float('nan')):.3f}",
                f"{metrics.distinct_codes:,}",
                f"{metrics.bit_entropy:.2f}",
            )
            for name, metrics in measured.items()
        ],
    )
