from __future__ import annotations

import numpy as np
import pytest

from saat.data import scenes
from saat.data.fashion import read_garments
from saat.data.scenes import draw_scene, read_scenes

SPLIT_STARTS = {"train": 0, "database": 2500, "query": 5000}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return the list to which every scene drawn adds its garments."""
    seen: list[np.ndarray] = []
    monkeypatch.setattr(
        scenes, "draw_scene", lambda garments, generator: (seen.append(garments), draw_scene(garments, generator))[1]
    )
    return seen


def test_pools_and_labels():
    items = read_scenes()
    assert {name: len(rows) for name, rows in items.pools.items()} == {"train": 2500, "database": 5000, "query": 500}
    assert set(items.pools["train"]) < set(items.pools["database"])
    assert set(items.labels.sum(1)) == {1, 2, 3}
    assert 1.7 < items.labels.sum(1).mean() < 2.1
    assert items.labels.sum(0).min() > 800  # every class is frequent


@pytest.mark.parametrize("split", SPLIT_STARTS)
def test_labels_are_the_classes_drawn_from_the_split(drawn, split):
    items = read_scenes()
    class_of = {image.tobytes(): row % 10 for row, image in enumerate(read_garments(split))}
    for row in range(SPLIT_STARTS[split], SPLIT_STARTS[split] + 60):
        items.read(row)
        classes = {class_of[garment.tobytes()] for garment in drawn.pop()}  # a KeyError is a garment of another split
        assert set(np.flatnonzero(items.labels[row])) == classes


def test_every_garment_changes_the_canvas_in_a_place_of_its_own():
    garments = read_garments("train")[[0, 1, 2]]
    nothing = draw_scene(garments[:0], np.random.default_rng(7)).astype(int)
    assert nothing.shape == (64, 64, 3)
    changed = [
        np.abs(draw_scene(garments[:count], np.random.default_rng(7)).astype(int) - nothing).max(2) > 8
        for count in (1, 2, 3)
    ]
    areas = [int(mask.sum()) for mask in changed]
    assert areas[0] > 100
    assert areas[1] > areas[0] + 100
    assert areas[2] > areas[1] + 100


def test_a_scene_depends_on_seed_and_row_alone():
    first, again, other = read_scenes(), read_scenes(), read_scenes(seed=1)
    assert np.array_equal(first.read(17), again.read(17))
    assert np.array_equal(first.read(17), first.read(17))
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)
    assert not np.array_equal(first.read(17), first.read(18))
