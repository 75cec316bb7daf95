"""Charts for a report, as SVG that takes its text color from the page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# After Okabe and Ito, told apart by color-blind readers. Models never take the two colors that mean right and wrong.
COLORS = ("#8250C4", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
RELEVANT, IRRELEVANT = "#0072B2", "#D55E00"
TEXT = "#7f7f7f"  # replaced by the page's own text color
LINES = {"clean": "-", "attacked": "--"}
AT_RANK = {
    "precision_at": "precision",
    "recall_at": "recall",
    "ndcg_at": "nDCG",
    "map_at": "MAP",
    "success_rate_at": "success rate",
}
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
    """Return precision over recall of each model: clean solid, attacked dashed, chance dotted.

    A band around a line is the 95 % interval of its values; reports of older versions have none.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 4.2), layout="constrained")
        axes = figure.subplots()
        for color, (name, report) in zip(COLORS, models.items(), strict=False):
            for state, line in LINES.items():
                curve = report[state]["precision_recall"]
                axes.plot(curve["recall"], curve["precision"], line, color=color, label=f"{state}: {name}", linewidth=2)
                if "intervals" in curve:
                    _draw_band(axes, dict(zip(curve["recall"], curve["intervals"], strict=True)), color)
        chance = next(iter(models.values()))["clean"]["relevant_share"]  # the precision of a random ranking everywhere
        axes.axhline(chance, color=TEXT, linestyle=":", label="chance")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        figure.legend(loc="outside lower center", ncols=3)
        return _svg(figure)


def rank_chart(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what is measured at rank N, over N, of each model: clean solid, attacked dashed, chance dotted.

    A band around a line is the 95 % interval of its values; reports of older versions have none.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 8.0), layout="constrained")
        panels = figure.subplots(3, 2, sharex=True, sharey=True)
        chance = next(iter(models.values()))["clean"]["chance"]
        for axes, (key, title) in zip(panels.flat, AT_RANK.items(), strict=False):
            for color, (name, report) in zip(COLORS, models.items(), strict=False):
                for state, line in LINES.items():
                    _draw_values(axes, report[state][key], f"o{line}", color=color, label=f"{state}: {name}")
                    if "intervals" in report[state]:
                        _draw_band(axes, report[state]["intervals"][key], color)
            _draw_values(axes, chance[key], ":", color=TEXT, label="chance")
            _mark(axes, [float(rank) for rank in chance[key]])
            axes.set(title=title, ylim=(0, 1.04))
        panels[2, 1].remove()  # of five panels in three rows
        for axes in (panels[1, 1], panels[2, 0]):
            axes.set_xlabel("rank N")
            axes.tick_params(labelbottom=True)
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return _svg(figure)


def trial_charts(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return MAP in the trials of suites, by epsilon and by steps, as a chart for each norm; none without a suite."""
    norms = dict.fromkeys(report["attack"]["norm"] for report in models.values() if "trials" in report["attack"])
    return {norm: _trial_chart(models, norm) for norm in norms}


def _trial_chart(models: Mapping[str, Mapping[str, Any]], norm: str) -> str:
    unit, label = (255, "epsilon, in 1/255") if norm == "linf" else (1, f"epsilon, in {norm}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 3.4), layout="constrained")
        for axes, key, scale in zip(
            figure.subplots(1, 2, sharey=True), ("map_by_epsilon", "map_by_steps"), (unit, 1), strict=True
        ):
            places = set()
            for color, (name, report) in zip(COLORS, models.items(), strict=False):
                if report["attack"]["norm"] == norm and "trials" in report["attack"]:
                    values = report["attack"]["trials"][key]
                    line = f"o{LINES['attacked']}"
                    _draw_values(axes, values, line, unit=scale, color=color, label=f"attacked: {name}")
                    places |= {float(place) * scale for place in values}
            axes.axhline(next(iter(models.values()))["chance_map"], color=TEXT, linestyle=":", label="chance")
            _mark(axes, sorted(places))
        by_epsilon, by_steps = figure.axes
        by_epsilon.set(xlabel=label, ylabel="MAP", ylim=(0, 1.04))
        by_steps.set_xlabel("steps")
        figure.legend(*by_epsilon.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return _svg(figure)


def _draw_values(axes: Axes, values: Mapping[str, float], line: str, *, unit: float = 1, **style: Any) -> None:
    """Draw values by the number that each has as its key in a report, times `unit`."""
    places = [float(key) * unit for key in values]
    axes.plot(places, list(values.values()), line, linewidth=2, markersize=4, clip_on=False, **style)


def _draw_band(axes: Axes, ends: Mapping[Any, Sequence[float]], color: str) -> None:
    """Fill what lies between the ends of intervals, each by the number, or its text in a report, that is its key."""
    low, high = zip(*ends.values(), strict=True)
    axes.fill_between([float(key) for key in ends], low, high, color=color, alpha=0.18, linewidth=0)


def _mark(axes: Axes, places: Sequence[float]) -> None:
    """Make the x axis logarithmic, but linear from 0 to the next place, with these places, ascending, marked alone."""
    if places[0] == 0:
        axes.set_xscale("symlog", base=2, linthresh=places[1], linscale=0.5)
        axes.set_xlim(left=-places[1] / 4)  # its own margin is wider, for nothing
    else:
        axes.set_xscale("log")
    axes.set_xticks(places, labels=[f"{place:,.4g}" for place in places])
    axes.minorticks_off()


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
