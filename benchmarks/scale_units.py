"""How docs/scale.md writes numbers."""

from __future__ import annotations

import math
from typing import Any

SIZES = tuple(10**power for power in range(6, 10))


def short(number: float) -> str:
    """Return a number of bytes in decimal units.

    >>> short(4e6), short(2.16e11)
    ('4 MB', '216 GB')
    """
    for name, unit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number / 1e3:.3g} KB"


def power(number: int) -> str:
    """Return a size for a table.

    >>> power(10**6), power(250_000)
    ('10^6', '250,000')
    """
    exponent = round(math.log10(number))
    return f"10^{exponent}" if 10**exponent == number else f"{number:,}"


def time_of(seconds: float) -> str:
    """Return a time in the unit that one reads best.

    >>> time_of(0.00021), time_of(0.123), time_of(2.5), time_of(960.0), time_of(7200.0), time_of(1e6)
    ('0.21 ms', '123 ms', '2.5 s', '16 min', '2 h', '11.6 days')
    """
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    for name, unit, least in (("days", 86_400, 172_800), ("h", 3600, 3600), ("min", 60, 600)):
        if seconds >= least:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


def threads_of(result: dict[str, Any]) -> str:
    """Return the threads of a benchmark, in words."""
    count = result["settings"]["threads"]
    return "one thread" if count == 1 else f"{count} threads"
