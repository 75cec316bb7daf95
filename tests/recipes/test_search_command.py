"""`saat search` in a folder, on real images and a small trained network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saat.cli import main
from saat.errors import ArgumentError
from saat.index.catalog import INDEXES
from saat.recipes.search import SearchConfig, search

COUNT = 40  # garments in folders, of the fixture `photos`


@pytest.mark.parametrize("backend", INDEXES)
def test_search_finds_the_image_itself(backend: str, built: Path, photos: Path) -> None:
    image = photos / "Bag" / "more" / "08.png"
    hits = search(SearchConfig(index=built, image=image, k=50, backend=backend, quiet=True))
    zero = [hit["path"] for hit in hits if hit["distance"] == 0]
    assert str(image) in zero
    pairs = [(hit["distance"], hit["id"]) for hit in hits]
    assert pairs == sorted(pairs)
    assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
    if INDEXES[backend].exact:
        assert len(hits) == COUNT + 1
        assert pairs == [
            (hit["distance"], hit["id"])
            for hit in search(SearchConfig(index=built, image=image, k=COUNT + 1, backend="flat", quiet=True))
        ]


def test_where_searches_among_the_items_it_names(built: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    image = photos / "Bag" / "more" / "08.png"
    words = ["search", f"--index={built}", f"--image={image}", "--k=3", "--format=json"]
    assert main([*words, "--where=label == 'Coat' or label == 'Dress'"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert len(hits) == 3
    assert {hit["label"] for hit in hits} <= {"Coat", "Dress"}
    assert main([*words, "--where=label == 'Fish'"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main([*words, "--where=lable == 'Coat'"]) == 2
    assert "did you mean 'label'" in capsys.readouterr().err


def test_a_sheet_shows_query_and_results(built: Path, photos: Path, tmp_path: Path) -> None:
    """Of 7 results, with the query 8 tiles, 6 stand in the first row; the tile of the query is the image itself."""
    sheet = tmp_path / "sheet.png"
    image = photos / "Bag" / "more" / "08.png"
    search(SearchConfig(index=built, image=image, k=7, format="sheet", out=sheet, quiet=True))
    with Image.open(sheet) as picture:
        assert picture.size == (12 + 6 * 172, 12 + 2 * 208)
        tile = np.asarray(picture.crop((12, 12, 172, 172)))
    with Image.open(image) as picture:
        wanted = np.asarray(picture.resize((160, 160), Image.Resampling.LANCZOS))
    assert np.abs(tile.astype(int) - wanted).max() <= 1
    with pytest.raises(ArgumentError, match="`out` is the PNG file"):
        SearchConfig(index=built, image=image, format="sheet")


def test_an_approximate_search_says_its_recall(built: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", f"--index={built}", f"--image={photos / 'plain.png'}", "--format=json"]
    assert main([*words, "--backend=hnsw"]) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)) == 10
    assert "hnsw is approximate: it found 1.000 of the nearest" in printed.err
    assert main([*words, "--backend=multi-index"]) == 0
    assert "approximate" not in capsys.readouterr().err


def test_a_table_is_printed(built: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", f"--index={built}", f"--image={photos / 'plain.png'}", "--k=2"]) == 0
    assert "distance" in capsys.readouterr().out
