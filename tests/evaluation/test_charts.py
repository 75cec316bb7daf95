import itertools
import re

import pytest

from saat.evaluation.charts import (
    AT_RANK,
    COLORS,
    IRRELEVANT,
    RELEVANT,
    TEXT,
    distance_chart,
    precision_recall_chart,
    rank_chart,
    trial_charts,
)

FIRST = {key: {"1": 0.9, "10": 0.6, "1000": 0.3} for key in AT_RANK}
STATE = {
    **FIRST,
    "chance": FIRST,
    "precision_recall": {"recall": [0.5, 1.0], "precision": [0.8, 0.4]},
    "relevant_share": 0.4,
    "distance_histogram": {"relevant": [3, 1, 0], "irrelevant": [0, 1, 7]},
}
ATTACK = {"norm": "linf", "epsilon": 8 / 255}
TRIALS = {"map_by_epsilon": {"0.00784314": 0.5, "0.5": 0.1}, "map_by_steps": {"1": 0.6, "20": 0.3}}
REPORT = {"clean": STATE, "attacked": STATE, "chance_map": 0.1, "attack": ATTACK}


@pytest.mark.parametrize("name", ["_leading", "half $x^", "$\\frac$", "模型"])
def test_any_name_of_a_model_is_drawn_as_it_stands(name):
    chart = precision_recall_chart({name: REPORT})
    assert f">clean: {name}<" in chart
    assert f">attacked: {name}<" in chart


def test_a_name_with_markup_is_escaped():
    chart = precision_recall_chart({"<script>": REPORT})
    assert "&lt;script&gt;" in chart
    assert "<script>" not in chart


def test_models_have_their_own_colors_and_never_those_of_right_and_wrong():
    assert len(set(COLORS)) == len(COLORS)
    assert not {RELEVANT, IRRELEVANT} & set(COLORS)
    chart = precision_recall_chart(dict.fromkeys(COLORS, REPORT)).lower()
    assert all(f"stroke: {color.lower()}" in chart for color in COLORS)


def test_charts_take_the_text_color_of_the_page_and_name_their_parts():
    chart = distance_chart(REPORT)
    assert TEXT not in chart
    assert "currentColor" in chart
    for part in ("relevant", "irrelevant", "clean", "attacked", "Hamming distance"):
        assert f">{part}<" in chart


def lines(chart: str, color: str) -> list[tuple[str, list[float]]]:
    """The dashes, and the heights, of each line of a color but the legend's, from the top of the page."""
    panels, _, _ = chart.partition('id="legend_')
    drawn = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: none; ([^"]*stroke: (?i:{color});[^"]*)"', panels)
    return [
        ("dashed" if "dasharray" in style else "solid", [float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)])
        for path, style in drawn
    ]


def test_what_is_measured_at_rank_has_a_panel_each_with_clean_attacked_and_chance():
    fooled = STATE | {key: {"1": 0.0, "10": 0.0, "1000": 0.0} for key in AT_RANK}
    chart = rank_chart({"plain": REPORT | {"attacked": fooled}})
    for text in (*AT_RANK.values(), "rank N", "1", "10", "1,000", "clean: plain", "attacked: plain", "chance"):
        assert f">{text}<" in chart
    found = lines(chart, COLORS[0])
    assert [dash for dash, _ in found] == ["solid", "dashed"] * len(AT_RANK)
    for (_, clean), (_, attacked) in zip(found[::2], found[1::2], strict=True):
        assert clean == sorted(clean)  # the values fall, the page counts from its top
        assert min(attacked) > max(clean)


def test_chance_of_precision_over_recall_is_the_share_of_relevant_items():
    chart = precision_recall_chart({"plain": REPORT})
    [(_, curve), _] = lines(chart, COLORS[0])
    assert dict(lines(chart, "currentColor"))["dashed"] == pytest.approx([curve[-1]] * 2)  # both are 0.4


@pytest.mark.parametrize(("draw", "count"), [(rank_chart, len(AT_RANK)), (precision_recall_chart, 1)])
def test_intervals_are_bands_around_their_lines(draw, count):
    band = {key: {"1": [0.8, 1.0], "10": [0.5, 0.7], "1000": [0.2, 0.4]} for key in AT_RANK}
    curve = STATE["precision_recall"] | {"intervals": [[0.7, 0.9], [0.3, 0.5]]}
    assert "fill-opacity" not in draw({"of an older version": REPORT})
    chart = draw({"plain": REPORT | {"clean": STATE | {"intervals": band, "precision_recall": curve}}})
    shape = r'<path id="(\w+)" d="([^"]+)"/>\s*</defs>\s*<g.*>\s*<use xlink:href="#\1" [^>]*y="(\S+)" style="([^"]+)"'
    bands = [found[1:] for found in re.findall(shape, chart) if "fill-opacity" in found[3]]
    assert len(bands) == count
    for (path, base, style), (_, line) in zip(bands, lines(chart, COLORS[0])[::2], strict=True):
        assert f"fill: {COLORS[0].lower()};" in style
        heights = [float(base) + float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)]
        assert min(heights) < min(line) < max(line) < max(heights)


def test_trials_are_drawn_by_epsilon_and_by_steps_for_those_who_ran_them():
    attacks = {name: ATTACK | {"norm": norm, "trials": TRIALS} for name, norm in (("a", "linf"), ("b", "l2"))}
    models = {"none": REPORT} | {name: REPORT | {"attack": attack} for name, attack in attacks.items()}
    charts = trial_charts(models)
    assert list(charts) == ["linf", "l2"]
    for text in ("2", "127.5", "epsilon, in 1/255", "steps", "20", "attacked: a", "chance"):
        assert f">{text}<" in charts["linf"]
    assert ">0.5<" in charts["l2"]
    assert ">epsilon, in l2<" in charts["l2"]
    for norm, own, other in (("linf", 1, 2), ("l2", 2, 1)):  # a model has one color in all charts
        assert len(lines(charts[norm], COLORS[own])) == 2
        assert not lines(charts[norm], COLORS[other])
        assert ">attacked: none<" not in charts[norm]
    assert trial_charts({"none": REPORT}) == {}


def test_trials_that_begin_at_0_are_drawn_from_there_and_those_of_older_versions_from_the_first():
    def places(values: dict[str, float]) -> list[float]:
        attack = ATTACK | {"trials": TRIALS | {"map_by_epsilon": values}}
        panels, _, _ = trial_charts({"a": REPORT | {"attack": attack}})["linf"].partition('id="legend_')
        path = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: none; [^"]*stroke: {COLORS[0].lower()};', panels)[0]
        return [float(x) for x in re.findall(r"[ML] (\S+) \S+", path)]

    shares = {str(share * 8 / 255): 1 - share / 10 for share in (0, 0.25, 0.5, 1, 2, 4)}
    found = places(shares)
    assert len(found) == 6
    steps = [right - left for left, right in itertools.pairwise(found)]
    assert steps == pytest.approx([steps[0]] * 5, rel=1e-3)
    del shares["0.0"]
    assert len(places(shares)) == 5


def test_a_kind_without_a_pair_draws_an_empty_histogram():
    empty = {"distance_histogram": {"relevant": [0, 0, 0], "irrelevant": [1, 1, 1]}}
    assert distance_chart({"clean": empty, "attacked": empty}).startswith("<svg")
