"""`saat search` in a folder, on real images and a small trained network."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saat.cli import main
from saat.errors import ArgumentError
from saat.index.catalog import INDEXES
from saat.recipes.search import SearchConfig, search
from saat.recipes.sheet import write_sheet

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


def test_json_is_printed_though_quiet_and_has_null_for_what_is_not_finite(
    tiny: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photos / "plain.png"
    columns = {"image": [image.read_bytes()], "price": [math.nan], "sizes": [[1.0, -math.inf]], "at": [{"x": math.inf}]}
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    assert main(["index", "build", str(tiny), str(tmp_path / "set.parquet"), f"--out={tmp_path / 'index'}"]) == 0
    capsys.readouterr()
    words = ["search", str(tmp_path / "index"), str(image), "--quiet"]
    assert main([*words, "--format=json"]) == 0

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    (hit,) = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert (hit["price"], hit["sizes"], hit["at"]) == (None, [1.0, None], {"x": None})
    assert main(words) == 0
    assert capsys.readouterr().out == ""


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
    with pytest.raises(ArgumentError, match=r"`out` is a PNG file, whose name ends in .png; got .*sheet.jpg"):
        SearchConfig(index=built, image=image, format="sheet", out=tmp_path / "sheet.jpg")


def test_a_sheet_writes_the_letters_of_names(built: Path, photos: Path, tmp_path: Path) -> None:
    """Letters that a font lacks are all one box, so that these would look alike."""
    looks = []
    for letters in ("üï", "жд"):
        image = tmp_path / letters / "a.png"
        image.parent.mkdir()
        shutil.copy(photos / "plain.png", image)
        hit = {"distance": 1, "label": letters, "path": str(image)}
        write_sheet(tmp_path / "sheet.png", image.read_bytes(), [hit])
        with Image.open(tmp_path / "sheet.png") as picture:
            looks.append(np.asarray(picture))
    assert (looks[0] != looks[1]).any()


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


@pytest.mark.parametrize("backend", [None, "flat", "multi-index"])
def test_a_radius_gives_all_items_within_it_and_their_number(
    backend: str | None, built: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The nearest of all, cut where the distance is above the radius, are what there is to find."""
    image = photos / "Bag" / "more" / "08.png"
    everything = search(SearchConfig(index=built, image=image, k=COUNT + 1, quiet=True))
    radius = everything[COUNT // 2]["distance"]
    wanted = [hit for hit in everything if hit["distance"] <= radius]
    assert 3 < len(wanted) < len(everything)
    config = SearchConfig(index=built, image=image, radius=radius, backend=backend, format="json")
    capsys.readouterr()
    assert search(config) == wanted
    printed = capsys.readouterr()
    assert json.loads(printed.out) == wanted
    assert printed.err == f"{len(wanted)} of {COUNT + 1} items within {radius} bits\n"
    assert search(replace(config, k=3)) == wanted[:3]
    err = capsys.readouterr().err
    assert err == f"{len(wanted)} of {COUNT + 1} items within {radius} bits; the nearest 3 follow, -k gives more\n"


def test_a_radius_goes_with_a_condition_a_table_and_a_sheet(
    built: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", str(built), str(photos / "plain.png"), "--radius", "32"]
    capsys.readouterr()
    assert main([*words, "--where", "label == 'Coat'"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "4 of 4 items within 32 bits\n"
    assert printed.out.count("│ Coat ") == 4
    assert main([*words, "--where", "label == 'Fish'"]) == 0
    assert "0 of 0 items" in (printed := capsys.readouterr()).err
    assert f"no item of {built} is found" in printed.out
    assert main([*words, "-k", "7", "--format", "sheet", "--out", str(tmp_path / "sheet.png")]) == 0
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (12 + 6 * 172, 12 + 2 * 208)  # the query and 7 results


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "faiss"}, "`radius` is for `backend` flat or multi-index; got 'faiss'"),
        ({"index": "milvus://host/photos"}, "`radius` is for the folder of an index"),
        ({"radius": -1}, "`radius` is at least 0; got -1"),
        ({"k": 0}, "`k` is at least 1; got 0"),
    ],
)
def test_a_radius_that_cannot_be_searched_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        SearchConfig(**{"index": "index", "image": Path("a.jpg"), "radius": 2} | options)


def test_a_table_shows_names_as_they_are(
    built: Path, tiny: Path, photos: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets are no markup. A name that is no text is shown by its bytes; an index, which keeps text, refuses it."""
    monkeypatch.setenv("COLUMNS", "500")
    folder, image = tmp_path / "[red]" / "[", photos / "Bag" / "more" / "08.png"
    folder.mkdir(parents=True)
    shutil.copy(image, folder / "x].png")
    assert main(["index", "build", str(tiny), str(tmp_path), f"--out={tmp_path / 'index'}", "--quiet"]) == 0
    assert main(["search", str(tmp_path / "index"), str(image)]) == 0
    assert "[red]/[/x].png" in capsys.readouterr().out
    if sys.platform == "linux":
        strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
        shutil.copy(image, strange)
        assert main(["search", str(built), str(strange)]) == 0
        assert "\\udcff.png" in capsys.readouterr().out
        assert main(["index", "build", str(tiny), str(tmp_path), f"--out={tmp_path / 'other'}"]) == 2
        assert "`images` have names in UTF-8, as an index keeps them; found" in capsys.readouterr().err
