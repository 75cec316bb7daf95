"""Tables for people, on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saat.evaluation.metrics import RetrievalMetrics


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, its texts as they are; columns of numbers stand to the right."""
    table = Table(title=_text(title, "bold"), title_justify="left")
    for place, column in enumerate(columns):
        cells = [row[place] for row in rows if row[place]]
        numbers = all(cell[0].isdigit() or cell[0] == "-" for cell in cells)
        table.add_column(_text(column), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    Console().print(table)


def _text(text: str, style: str = "") -> Text:
    """Return a text as it is: in a `str` brackets are markup, and the name of a file may have them, or odd bytes."""
    return Text(text.encode(errors="backslashreplace").decode(), style)


def print_flags(flags: Sequence[Mapping[str, str]], *, of: str = "") -> None:
    """Print why what follows is unreliable, a line a flag: before any number; `of` names one model of several."""
    for flag in flags:
        print(f"unreliable: {f'{of}: ' if of else ''}{flag['name']}: {flag['message']}")


def print_metrics(measured: Mapping[str, RetrievalMetrics]) -> None:
    """Print the headline metrics: a row a measurement of the same queries, and last that of a random ranking."""
    rows = [
        (
            name,
            f"{metrics.map:.3f}",
            f"{metrics.map_standard_error:.3f}",
            f"{metrics.map_paper:.3f}",
            _precision(metrics.precision_at),
            f"{metrics.distinct_codes:,}",
            f"{metrics.bit_entropy:.2f}",
        )
        for name, metrics in measured.items()
    ]
    first = next(iter(measured.values()))
    chance = f"{first.chance_map:.3f}", "", f"{first.chance_map_paper:.3f}", _precision(first.chance.precision_at)
    columns = ("", "MAP", "± s.e.", "MAP@5000 (papers)", "precision@10", "distinct codes", "bit entropy")
    print_table("Retrieval", columns, [*rows, ("chance", *chance, "", "")])


def _precision(precision_at: Mapping[int, float]) -> str:
    return f"{precision_at[10]:.3f}" if 10 in precision_at else ""  # of fewer items there is none
