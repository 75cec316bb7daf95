import itertools
import json

import pytest
import torch

from saat.errors import ArgumentError
from saat.evaluation.code_statistics import bit_entropies, chance_bit_flip_rate, count_distinct
from saat.evaluation.metrics import bit_flip_rate, evaluate_retrieval, standard_error
from saat.hamming import sign_codes


def random_set(rows: int, seed: int, code_length: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = sign_codes(torch.randn(rows, code_length, generator=generator))
    return codes, torch.nn.functional.one_hot(torch.arange(rows) % 4, 4).to(torch.uint8)


def test_all_numbers_of_a_random_ranking_are_near_chance():
    metrics = evaluate_retrieval(*random_set(40, 0), *random_set(2000, 1), k_paper=500)
    assert metrics.relevant_share == 0.25
    assert metrics.map == pytest.approx(metrics.chance_map, abs=0.02)
    assert metrics.map_paper == pytest.approx(0.25, abs=0.05)
    assert list(metrics.precision_at) == [1, 10, 100, 1000]
    assert metrics.precision_at[1000] == pytest.approx(0.25, abs=0.02)
    for name in ("precision_at", "recall_at", "ndcg_at", "map_at", "success_rate_at"):
        values, chance = getattr(metrics, name), getattr(metrics.chance, name)
        assert list(values) == list(chance) == [1, 10, 100, 1000]
        assert list(values.values()) == pytest.approx(list(chance.values()), abs=0.25 if name != "recall_at" else 0.02)
    assert metrics.chance.precision_at == {1: 0.25, 10: 0.25, 100: 0.25, 1000: 0.25}
    assert metrics.chance.recall_at == {1: 0.0005, 10: 0.005, 100: 0.05, 1000: 0.5}
    assert metrics.chance.ndcg_at[1] == 0.25
    assert metrics.chance.success_rate_at[1] == 0.75
    assert metrics.chance.precision_within_radius_2 == 0.25
    assert metrics.map_interval[0] < metrics.map < metrics.map_interval[1]
    assert metrics.map_interval[1] - metrics.map_interval[0] == pytest.approx(
        3.92 * metrics.map_standard_error, rel=0.1
    )
    assert metrics.precision_recall.precision[-1] == pytest.approx(0.25, abs=0.02)
    assert metrics.bit_entropy == pytest.approx(1.0, abs=0.01)
    assert 0 < metrics.bit_entropy_minimum <= metrics.bit_entropy
    assert metrics.average_precision.shape == metrics.chance_average_precision.shape == (40,)
    assert metrics.map == pytest.approx(metrics.average_precision.mean().item())


def test_every_interval_by_hand():
    # One query of four finds its item first; the others find it second, far away. Of four draws that one is drawn 0
    # times in 32 % of the cases, 3 times or more in 5.1 % and 4 times in 0.4 %: means end at shares of 0 and 3/4.
    near, far = torch.ones(1, 8, dtype=torch.int8), -torch.ones(3, 8, dtype=torch.int8)
    labels = torch.tensor([[1, 0]])
    metrics = evaluate_retrieval(
        torch.cat([near, far]), labels.expand(4, 2), torch.cat([near, far[:1]]), torch.eye(2), k_paper=2
    )
    assert (metrics.map, metrics.map_interval) == (0.625, (0.5, 0.875))  # of average precisions 1, 1/2, 1/2, 1/2
    assert (metrics.map_paper, metrics.map_paper_interval) == (0.625, (0.5, 0.875))
    for name in ("precision_at", "recall_at", "ndcg_at", "map_at"):
        assert (getattr(metrics, name), getattr(metrics.intervals, name)) == ({1: 0.25}, {1: (0.0, 0.75)}), name
    assert (metrics.success_rate_at, metrics.intervals.success_rate_at) == ({1: 0.75}, {1: (0.25, 1.0)})
    assert metrics.intervals.precision_within_radius_2 == (0.0, 0.75)
    curve = metrics.precision_recall  # precision 1 at every recall where the item is first; else 1/2 at its end
    assert (curve.precision[-1], curve.intervals[-1]) == (0.625, (0.5, 0.875))


def test_intervals_hold_the_means_and_are_the_same_again():
    sets = *random_set(40, 0), *random_set(2000, 1)
    metrics, again = evaluate_retrieval(*sets), evaluate_retrieval(*sets)
    assert metrics.map_paper_interval[0] < metrics.map_paper < metrics.map_paper_interval[1]
    intervals = metrics.intervals.flat()
    assert len(intervals) == 5 * 4 + 1
    curve = metrics.precision_recall
    assert all(low < value < high for value, (low, high) in zip(curve.precision, curve.intervals, strict=True))
    for name, mean in vars(metrics.chance).items():  # the names of what has an interval
        measured, ends = getattr(metrics, name), getattr(metrics.intervals, name)
        pairs = [(measured, ends)] if isinstance(mean, float) else [(measured[rank], ends[rank]) for rank in mean]
        assert all(low <= value <= high for value, (low, high) in pairs), name
    assert (metrics.map_interval, metrics.map_paper_interval) == (again.map_interval, again.map_paper_interval)
    assert metrics.intervals == again.intervals
    assert metrics.precision_recall == again.precision_recall


def test_queries_that_are_all_alike_have_intervals_of_no_width():
    codes, labels = random_set(1, 0)
    metrics = evaluate_retrieval(codes.expand(7, -1), labels.expand(7, -1), *random_set(100, 1))
    assert metrics.map_interval == pytest.approx((metrics.map, metrics.map), abs=1e-15)
    assert metrics.intervals.flat() == [(low, low) for low, _ in metrics.intervals.flat()]
    assert metrics.intervals.ndcg_at == {rank: (value, value) for rank, value in metrics.ndcg_at.items()}


def test_the_histogram_holds_every_pair_once():
    metrics = evaluate_retrieval(*random_set(8, 0), *random_set(100, 1))
    assert len(metrics.distance_histogram.relevant) == len(metrics.distance_histogram.irrelevant) == 17
    assert sum(metrics.distance_histogram.relevant) == 8 * 25
    assert sum(metrics.distance_histogram.irrelevant) == 8 * 75


def test_queries_without_a_label_are_left_out_and_counted():
    codes, labels = random_set(8, 0)
    database = random_set(100, 1)
    labels[[2, 5]] = 0
    metrics = evaluate_retrieval(codes, labels, *database)
    kept = [0, 1, 3, 4, 6, 7]
    assert metrics.queries_without_label == 2
    assert metrics.queries == 6
    assert metrics.map == evaluate_retrieval(codes[kept], labels[kept], *database).map


def test_json_is_whole_small_and_finite():
    metrics = evaluate_retrieval(*random_set(8, 0), *random_set(100, 1))
    text = json.dumps(metrics.to_json(), allow_nan=False)
    values = json.loads(text)
    assert values["map"] == metrics.map
    assert values["precision_at"] == {str(n): value for n, value in metrics.precision_at.items()}
    assert values["chance"]["ndcg_at"] == {str(n): value for n, value in metrics.chance.ndcg_at.items()}
    assert values["success_rate_at"] == {str(n): value for n, value in metrics.success_rate_at.items()}
    assert values["map_interval"] == list(metrics.map_interval)
    assert values["map_paper_interval"] == list(metrics.map_paper_interval)
    assert values["intervals"]["ndcg_at"] == {str(n): list(ends) for n, ends in metrics.intervals.ndcg_at.items()}
    assert list(values["intervals"]) == list(values["chance"])
    assert values["precision_recall"]["recall"][-1] == 1.0
    assert values["precision_recall"]["intervals"][-1] == list(metrics.precision_recall.intervals[-1])
    assert values["distance_histogram"]["relevant"] == list(metrics.distance_histogram.relevant)
    assert "average_precision" not in values
    assert len(text) < 4000


def test_collapsed_codes_show_in_every_number():
    codes, labels = random_set(8, 0)
    database_codes, database_labels = random_set(100, 1)
    metrics = evaluate_retrieval(
        torch.ones_like(codes), labels, torch.ones_like(database_codes), database_labels, k_paper=100
    )
    assert metrics.map == metrics.chance_map
    assert set(metrics.precision_recall.precision) == {metrics.relevant_share} == {0.25}
    for name in vars(metrics.chance):
        assert getattr(metrics, name) == getattr(metrics.chance, name)
    assert metrics.distinct_codes == metrics.distinct_query_codes == 1
    assert metrics.bit_entropy == metrics.bit_entropy_minimum == 0.0


def test_entropy_of_a_quarter_is_known():
    # H(1/4) = 1/4 log2 4 + 3/4 log2 4/3 = 0.811278...
    codes = torch.tensor([[1], [-1], [-1], [-1]], dtype=torch.int8)
    assert bit_entropies(codes).item() == pytest.approx(0.8112781244591328)


def test_distinct_codes_of_any_code_length():
    codes = torch.tensor([[1] * 11, [1] * 10 + [-1], [1] * 11], dtype=torch.int8)
    assert count_distinct(codes) == 2


def test_flipped_bits_are_counted_query_by_query():
    clean = torch.ones(3, 8, dtype=torch.int8)
    attacked = clean.clone()
    attacked[1, :2] = -1
    attacked[2] = -1
    assert bit_flip_rate(clean, attacked).tolist() == [0.0, 0.25, 1.0]
    with pytest.raises(ArgumentError, match=r"have the same shape; got \(3, 8\) and \(2, 8\)"):
        bit_flip_rate(clean, attacked[:2])


def test_chance_of_flipped_bits_is_the_mean_over_all_pairs_of_queries():
    codes = torch.randint(0, 2, (9, 16), generator=torch.Generator().manual_seed(0)).to(torch.int8) * 2 - 1
    pairs = [bit_flip_rate(codes[a : a + 1], codes[b : b + 1]).item() for a, b in itertools.combinations(range(9), 2)]
    assert chance_bit_flip_rate(codes) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert chance_bit_flip_rate(codes[:1]) == chance_bit_flip_rate(codes[:1].expand(4, -1)) == 0.0


def test_standard_error_of_one_value_is_zero():
    assert standard_error(torch.tensor([0.3])) == 0.0


def test_nothing_to_measure_is_an_error():
    codes, labels = random_set(4, 0)
    with pytest.raises(ArgumentError, match="got 0 such queries and 4 items"):
        evaluate_retrieval(codes, torch.zeros_like(labels), codes, labels)
    with pytest.raises(ArgumentError, match="`query_labels` has shape"):
        evaluate_retrieval(codes, labels[0], codes, labels)
