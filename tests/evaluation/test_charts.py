import pytest

from saat.evaluation.charts import COLORS, IRRELEVANT, RELEVANT, TEXT, distance_chart, precision_recall_chart

STATE = {
    "precision_recall": {"recall": [0.5, 1.0], "precision": [0.8, 0.4]},
    "distance_histogram": {"relevant": [3, 1, 0], "irrelevant": [0, 1, 7]},
}
REPORT = {"clean": STATE, "attacked": STATE, "chance_map": 0.1}


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


def test_a_kind_without_a_pair_draws_an_empty_histogram():
    empty = {"distance_histogram": {"relevant": [0, 0, 0], "irrelevant": [1, 1, 1]}}
    assert distance_chart({"clean": empty, "attacked": empty}).startswith("<svg")
