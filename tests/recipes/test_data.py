from __future__ import annotations

import json

from PIL import Image

from saat.data.catalog import DATASETS, DataOptions
from saat.data.decoding import NO_IMAGE
from saat.recipes.data import DescribeConfig, ListConfig, describe, list_datasets


def test_the_list_shows_every_set(capsys):
    list_datasets(ListConfig())
    printed = capsys.readouterr().out
    assert all(name in printed for name in DATASETS)


def test_describe_prints_what_it_returns(tmp_path, capsys):
    for seed in range(12):
        path = tmp_path / ("cat" if seed % 2 else "dog") / f"{seed}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (seed * 20, 0, 0)).save(path)
    (tmp_path / "cat" / "broken.png").write_bytes(b"hello")
    manifest = describe(DescribeConfig(data=DataOptions(name="folder", root=tmp_path, image_size=8)))
    printed = capsys.readouterr().out
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["damaged"] == [f"cat/broken.png: {NO_IMAGE}"]
    for text in ("train", "query", "database", "cat", "dog", "1 damaged", "cat/broken.png: not an image"):
        assert text in printed
    assert f"a query shares a label with {manifest['relevant_share']:.2%} of the database on average" in printed
    assert "0 queries whose content is in the database" in printed
