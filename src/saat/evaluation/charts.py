"""Charts for a report, as SVG that takes its text color from the page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# After Okabe and Ito, told apart by color-blind readers. Models never take the two colors that mean right and wrong.
COLORS = ("#8250C4", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
RELEVANT, IRRELEVANT = "#0072B2", "#D55E00"
TEXT = "#7f7f7f"  # replaced by the page's own text color
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a model's name is a dollar sign
    "svg.hashsalt": "saat",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def precision_recall_chart(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return precision over recall of each model: clean solid, attacked dashed, chance dotted."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 4.2), layout="constrained")
        axes = figure.subplots()
        for color, (name, report) in zip(COLORS, models.items(), strict=False):
            for state, line in (("clean", "-"), ("attacked", "--")):
                curve = report[state]["precision_recall"]
                axes.plot(curve["recall"], curve["precision"], line, color=color, label=f"{state}: {name}", linewidth=2)
        chance = next(iter(models.values()))["chance_map"]
        axes.axhline(chance, color=TEXT, linestyle=":", label="chance")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        figure.legend(loc="outside lower center", ncols=3)
        return _svg(figure)


def distance_chart(report: Mapping[str, Any]) -> str:
    """Return the shares of query-to-item distances, to relevant and irrelevant items, before and after the attack."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 2.8), layout="constrained")
        for axes, state in zip(figure.subplots(1, 2, sharey=True), ("clean", "attacked"), strict=True):
            _draw_distances(axes, report[state]["distance_histogram"], state)
        figure.axes[0].set_ylabel("share of pairs")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return _svg(figure)


def _draw_distances(axes: Axes, histogram: Mapping[str, Any], state: str) -> None:
    for color, hatch, kind in ((RELEVANT, "", "relevant"), (IRRELEVANT, "///", "irrelevant")):
        total = max(sum(histogram[kind]), 1)
        shares = [count / total for count in histogram[kind]]
        bars = axes.bar(range(len(shares)), shares, width=1.0, color=color, alpha=0.55, hatch=hatch, label=kind)
        for bar in bars:
            bar.set(edgecolor="white", linewidth=0)  # the color of the hatching: told apart without color, too
    axes.set(title=state, xlabel="Hamming distance", xlim=(-0.5, len(histogram["relevant"]) - 0.5))


def _svg(figure: Figure) -> str:
    content = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's browser draws the text, with its own fonts
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    return svg[svg.index("<svg") :].replace(TEXT, "currentColor")
