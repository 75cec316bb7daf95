"""Receiver operating characteristics: how well a score tells attacked queries from clean ones."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from saat.errors import ArgumentError
from saat.evaluation.charts import COLORS, STYLE, TEXT

GRID = tuple(step / 100 for step in range(101))  # false-alarm rates of a curve


def area_under_curve(clean: Tensor, attacked: Tensor) -> float:
    """Return the chance that an attacked query has a higher score than a clean one; ties count half.

    Args:
        clean: float (Q,), scores of clean queries.
        attacked: float (R,), scores of attacked ones.

    Returns:
        0.5 for a score that tells nothing, 1 for one that tells all.

    Raises:
        ArgumentError: there is no score.

    >>> area_under_curve(torch.tensor([0.1, 0.5]), torch.tensor([0.5, 0.9]))  # of four pairs 3 and a tie
    0.875
    """
    _check_scores(clean, attacked)
    ordered = clean.sort().values
    below, not_above = (torch.searchsorted(ordered, attacked, right=right).double() for right in (False, True))
    return float((below + not_above).mean() / (2 * len(clean)))


def detection_rates(clean: Tensor, attacked: Tensor, rates: Sequence[float] = GRID) -> list[float]:
    """Return the share of attacked queries that is detected at each false-alarm rate among the clean ones.

    The threshold of a rate is the lowest clean score that no more than this share of the clean scores is above; a
    query is detected above it.

    Args:
        clean: float (Q,), scores of clean queries.
        attacked: float (R,), scores of attacked ones.
        rates: in [0, 1]; at 1 every query is an alarm.

    Raises:
        ArgumentError: there is no score.

    >>> detection_rates(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.25, 0.5]), [0.0, 0.5, 1.0])
    [0.5, 1.0, 1.0]
    """
    _check_scores(clean, attacked)
    ordered, count = clean.sort().values, len(clean)
    found = []
    for rate in rates:
        allowed = int(rate * count + 1e-9)  # clean queries that may be above the threshold
        threshold = ordered[count - 1 - allowed] if allowed < count else -torch.inf
        found.append(float((attacked > threshold).double().mean()))
    return found


def roc_chart(curves: Mapping[str, Sequence[float]]) -> str:
    """Return the curves over `GRID` as an SVG file: detection rate over false-alarm rate; chance dotted.

    Args:
        curves: name -> rates at `GRID`, as from `detection_rates`.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 4.6), layout="constrained")
        axes = figure.subplots()
        for color, (name, rates) in zip(COLORS, curves.items(), strict=False):
            axes.plot(GRID, rates, color=color, label=name, linewidth=2)
        axes.plot((0, 1), (0, 1), color=TEXT, linestyle=":", label="chance")
        axes.set(xlabel="false-alarm rate", ylabel="detection rate", xlim=(0, 1), ylim=(0, 1.02))
        figure.legend(loc="outside lower center", ncols=3)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _check_scores(clean: Tensor, attacked: Tensor) -> None:
    if clean.ndim != 1 or attacked.ndim != 1 or not len(clean) or not len(attacked):
        shapes = f"{tuple(clean.shape)} and {tuple(attacked.shape)}"
        raise ArgumentError(f"`clean` and `attacked` are scores, one at least in each; got {shapes}")
