"""The queries that a report shows, and what is shown of each."""

import json
from pathlib import Path

import torch
from attack_runs import make_run
from PIL import Image

from saat.evaluation.examples import choose_queries, magnified


def test_queries_are_spread_over_label_sets_and_depend_on_seed_and_labels_only():
    labels = torch.nn.functional.one_hot(torch.arange(60) % 6, 6).to(torch.uint8)
    labels[:6] = 0
    chosen = choose_queries(labels, 8, seed=3)
    assert chosen == choose_queries(labels.clone(), 8, seed=3) != choose_queries(labels, 8, seed=4)
    assert len(set(chosen)) == 8
    assert min(chosen) >= 6
    assert len({row % 6 for row in chosen[:6]}) == 6


def test_examples_hold_the_nearest_items_with_ties_by_row(tmp_path: Path):
    run = make_run(tmp_path / "plain")
    examples = json.loads((run / "report.json").read_text())["examples"]
    for example in examples:
        for key in ("clean_results", "attacked_results"):
            found = [(hit["distance"], hit["item"]) for hit in example[key]]
            assert len(found) == 10
            assert found == sorted(found)
            assert all(hit["relevant"] == (hit["labels"] == example["labels"]) for hit in example[key])
    with Image.open(run / examples[0]["perturbation_image"]) as image:
        assert image.size == (8, 8)
    assert magnified(torch.tensor([-1.0, 0.0, 1 / 64]), 16).tolist() == [0.0, 0.5, 0.75]
