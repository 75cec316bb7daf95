"""Tables and paragraphs for pages of results."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Return the mean, with the range of several values.

    >>> spread([0.25]), spread([0.25, 0.75], 2)
    ('0.2500', '0.50 (0.25 to 0.75)')
    """
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def thousands(values: Sequence[float]) -> str:
    """Return whole thousands, with both ends where several values differ in them.

    >>> thousands([360000, 360400]), thousands([400000, 360000])
    ('360', '360 to 400')
    """
    low, high = (f"{end / 1000:,.0f}" for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int) -> str:
    """Return a Markdown table; columns after the first `text_columns` stand to the right."""
    rule = "|---" * text_columns + "|---:" * (len(columns) - text_columns) + "|"
    return "\n".join(["| " + " | ".join(columns) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


def paragraph(text: str, *, hanging: str = "") -> str:
    """Return a text in lines of at most 120 characters; those after the first begin with `hanging`."""
    return textwrap.fill(text, 120, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)
