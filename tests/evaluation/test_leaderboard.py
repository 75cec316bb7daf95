from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pages import Page
from result_cards import make_card

from saat.errors import DataError
from saat.evaluation.leaderboard import find_cards, make_leaderboard, standing, write_leaderboard


def put(path: Path, name: str = "hard", **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make_card(name, **changes)))
    return path


def board_of(folder: Path) -> dict[str, Any]:
    return make_leaderboard(find_cards([folder]))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    (group,) = board_of(folder)["groups"]
    rows: list[dict[str, Any]] = group["rows"]
    return rows


def test_cards_are_found_at_any_depth_and_in_a_flat_folder(tmp_path: Path):
    put(tmp_path / "runs/a/b/result.json", "deep")
    put(tmp_path / "runs/a/other.json", "not looked at")
    put(tmp_path / "flat/one.json", "flat")
    for other in ("metrics", "report", "suite", "attack", "certify", "detect", "plant", "leaderboard", "card"):
        (tmp_path / "flat" / f"{other}.json").write_text("{}")
    found = find_cards([tmp_path / "runs", tmp_path / "flat", tmp_path / "runs/a"])
    assert {card["name"] for card in found.cards} == {"deep", "flat", "not looked at"}
    assert (found.repeated, found.left_out) == (0, {})
    assert {card["name"] for card in find_cards([tmp_path / "runs"]).cards} == {"deep"}


def test_damaged_and_foreign_files_are_left_out_by_name(tmp_path: Path):
    put(tmp_path / "cards/good.json")
    (tmp_path / "cards/cut.json").write_text('{"saat')
    (tmp_path / "cards/foreign.json").write_text("[]")
    put(tmp_path / "cards/sizes.json", image_size=[28, 28])
    (tmp_path / "cards/run").mkdir()
    (tmp_path / "cards/run/result.json").write_text('{"saat": 1}')
    (tmp_path / "cards/folder.json").mkdir()
    (tmp_path / "cards/gone.json").symlink_to(tmp_path / "nowhere")
    found = find_cards([tmp_path / "cards"])
    assert len(found.cards) == 1
    assert set(found.left_out) == {
        f"cards/{name}.json" for name in ("cut", "foreign", "sizes", "run/result", "folder", "gone")
    }
    assert found.left_out["cards/run/result.json"] == "the file is no result card: `saat` is printable text; found 1"
    assert found.left_out["cards/sizes.json"].endswith("at least 0, or null; found [28, 28]")
    page = write_leaderboard(make_leaderboard(found), tmp_path / "out").read_text(encoding="utf-8")
    assert "6 files are" in page
    assert str(tmp_path) not in page


def test_no_card_at_all_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"`cards` are folders with a result\.json .*found none in"):
        find_cards([tmp_path])
    (tmp_path / "cut.json").write_text("{")
    with pytest.raises(DataError, match=r"found none in .*cut\.json: the file is damaged"):
        find_cards([tmp_path])
    with pytest.raises(DataError, match="`cards` is an existing folder; found nothing"):
        find_cards([tmp_path / "none"])


@pytest.mark.parametrize(
    "difference",
    [
        {"query": "q2"},
        {"image_size": 64},
        {"epsilon": 4 / 255},
        {"suite": "standard"},
        {"steps": 100},
        {"members": ("away-from-mainstay",)},
        {"surrogates": ["s1"]},
    ],
)
def test_what_does_not_compare_stands_in_groups_of_its_own(difference: dict[str, Any], tmp_path: Path):
    put(tmp_path / "a.json", "a")
    put(tmp_path / "b.json", "b", **difference)
    put(tmp_path / "c.json", "c")
    names = sorted([row["name"] for row in group["rows"]] for group in board_of(tmp_path)["groups"])
    assert names == [["a", "c"], ["b"]]


def test_rows_are_ranked_by_their_worst_case_and_unreliable_ones_come_last(tmp_path: Path):
    put(tmp_path / "1.json", "second", worst=0.3)
    put(tmp_path / "2.json", "first", worst=0.5, clean=0.6)
    put(tmp_path / "3.json", "masked", worst=0.8, flags=["vanished-gradients", "black-box-wins"])
    put(tmp_path / "4.json", "broken", worst=0.05, clean=0.95)
    put(tmp_path / "5.json", "constant", worst=0.1, clean=0.1, flags=["collapsed-codes"])
    rows = rows_of(tmp_path)
    assert [(row["rank"], row["name"]) for row in rows] == [
        (1, "first"),
        (2, "second"),
        (None, "broken"),
        (None, "masked"),
        (None, "constant"),
    ]
    assert [standing(row) for row in rows] == [
        "",
        "",
        "no better than chance",
        "unreliable: black-box-wins, vanished-gradients",
        "unreliable: collapsed-codes; no better than chance",
    ]
    assert [row["surviving_share"] for row in rows] == [0.8, 0.25, -0.0588, 0.875, None]


def test_a_model_measured_again_is_one_run_and_its_lowest_worst_case_counts(tmp_path: Path):
    put(tmp_path / "1.json", checksum="m1", worst=0.4, seed=0)
    put(tmp_path / "2.json", checksum="m1", worst=0.3, seed=1)
    (row,) = rows_of(tmp_path)
    assert (row["runs"], row["seeds"], row["worst_map"]["mean"]) == (1, [1], 0.3)
    assert row["worst_map_interval"] == [pytest.approx(0.28), pytest.approx(0.32)]
    put(tmp_path / "3.json", checksum="m2", worst=0.5)
    older = json.loads(put(tmp_path / "4.json", worst=0.6).read_text())
    del older["surrogates"]  # and no checksum: a model of its own
    (tmp_path / "4.json").write_text(json.dumps(older))
    (row,) = rows_of(tmp_path)
    assert (row["runs"], row["worst_map"]["min"], row["worst_map"]["max"]) == (3, 0.3, 0.6)
    put(tmp_path / "5.json", checksum="m1", worst=0.45, seed=2, flags=["black-box-wins"])
    (row,) = rows_of(tmp_path)
    assert (row["runs"], row["unreliable_runs"], row["flags"]) == (3, 1, ["black-box-wins"])


def test_surrogates_are_told_under_their_group(tmp_path: Path):
    put(tmp_path / "1.json", surrogates=["s2", "s1"])
    put(tmp_path / "2.json", "other", surrogates=["s1", "s2"])
    board = board_of(tmp_path)
    assert [group["surrogates"] for group in board["groups"]] == [["s1", "s2"]]
    write_leaderboard(board, tmp_path / "out")
    for name in ("leaderboard.html", "leaderboard.md"):
        assert "surrogates s1, s2" in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_a_model_within_rounding_of_chance_has_no_rank(tmp_path: Path):
    put(tmp_path / "a.json", "at chance", clean=0.9, worst=0.103)  # 0.003 / 0.8 of the lead survives: 0 %
    put(tmp_path / "b.json", "above", clean=0.9, worst=0.12)  # 0.02 / 0.8: 2 %
    assert [(row["name"], row["no_better_than_chance"]) for row in rows_of(tmp_path)] == [
        ("above", False),
        ("at chance", True),
    ]


def test_runs_of_one_model_share_a_row_with_their_spread(tmp_path: Path):
    for seed, worst in enumerate((0.2, 0.5, 0.3)):
        put(tmp_path / f"{seed}/result.json", seed=seed, worst=worst, clean=0.8 + worst / 10)
    put(tmp_path / "plain/result.json", worst=0.25, defense=None)  # the same name, but no run of the same model
    several, single = rows_of(tmp_path)
    assert (several["runs"], several["seeds"], several["model"]["defense"]) == (3, [0, 1, 2], "saat")
    assert several["worst_map"] == pytest.approx({"mean": 1 / 3, "min": 0.2, "max": 0.5})
    assert several["clean_map"] == pytest.approx({"mean": 0.8 + 1 / 30, "min": 0.82, "max": 0.85})
    assert several["members"] == pytest.approx({"away-from-mainstay": 1 / 3, "soft-ranking": 1 / 3 + 0.01})
    assert several["surviving_share"] == pytest.approx((1 / 3 - 0.1) / (0.7 + 1 / 30), abs=1e-4)
    assert several["worst_map_interval"] is None
    assert (single["runs"], single["worst_map_interval"]) == (1, [0.23, 0.27])
    page = Page(write_leaderboard(board_of(tmp_path), tmp_path / "out").read_text(encoding="utf-8"))
    assert "0.200 to 0.500 over 3 runs" in page.text
    assert "0.230 to 0.270 (95%)" in page.text


def test_one_unreliable_run_takes_the_rank_of_all(tmp_path: Path):
    put(tmp_path / "0.json", worst=0.5)
    put(tmp_path / "1.json", worst=0.6, seed=1, flags=["unstable-model"])
    put(tmp_path / "2.json", "other", worst=0.2)
    first, last = rows_of(tmp_path)
    assert (first["name"], first["rank"], last["rank"]) == ("other", 1, None)
    assert standing(last) == "unreliable in 1 of 2 runs: unstable-model"


def test_a_measurement_in_two_files_counts_once(tmp_path: Path):
    put(tmp_path / "a/result.json")
    (tmp_path / "copy.json").write_text((tmp_path / "a/result.json").read_text())
    again = make_card() | {"created": "2027-01-01T00:00:00+00:00", "seconds": 9.0}
    (tmp_path / "again.json").write_text(json.dumps(again))
    put(tmp_path / "b.json", seed=1)
    board = board_of(tmp_path)
    assert (board["cards"], board["repeated"]) == (2, 2)
    assert board["groups"][0]["rows"][0]["runs"] == 2


def test_the_pages_are_whole_and_ask_nothing_of_the_network(tmp_path: Path):
    put(tmp_path / "cards/a.json", "plain", worst=0.04)
    put(tmp_path / "cards/b.json", "hard", worst=0.437)
    put(tmp_path / "cards/c.json", "hard", worst=0.437, epsilon=4 / 255)
    (tmp_path / "cards/cut.json").write_text("{")
    board = board_of(tmp_path / "cards")
    out = write_leaderboard(board, tmp_path / "out")
    html, markdown = out.read_text(encoding="utf-8"), (tmp_path / "out/leaderboard.md").read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    assert page.references == ["#left-out"]
    assert not re.search(r"<script|<link|<iframe|@import|url\(|https?:|//", html)
    assert json.loads((tmp_path / "out/leaderboard.json").read_text()) == board
    for text in (page.text, markdown):
        for told in (
            "0.437",
            "0.900",
            "0.100",
            "0.120",
            "42%",
            "epsilon 8/255",
            "epsilon 4/255",
            "no better than chance",
        ):
            assert told in text
        assert "cards/cut.json" in text
        assert "Of 2 models (1 without a rank), hard holds best: it keeps 0.437 of 0.900 MAP, 42% of its lead" in text
        assert "\nhard keeps 0.437" in text
        assert text.index("epsilon 4/255") < text.index("epsilon 8/255")
    tables = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE)
    widths = [{line.count("|") for line in table.splitlines()} for table in tables]
    assert widths == [{8}] * 4  # 7 columns, then as many: a name, two members, four more numbers


def test_names_with_markup_are_shown_and_not_obeyed(tmp_path: Path):
    put(tmp_path / "a.json", "<script>alert(1)</script>|[/]", flags=["<b>"])
    (tmp_path / "<i>.json").write_text('{"saat": "<i>"}')
    page = Page(write_leaderboard(board_of(tmp_path), tmp_path / "out").read_text(encoding="utf-8"))
    markdown = (tmp_path / "out/leaderboard.md").read_text(encoding="utf-8")
    assert "<script>alert(1)</script>|[/]" in page.text
    assert "<i>.json" in page.text
    assert not page.tags & {"script", "b", "i"}
    assert "<script" not in markdown
    assert "\\|[/]" in markdown
    assert "none has a rank" in page.text


def test_a_file_name_that_is_no_text_breaks_nothing(tmp_path: Path):
    put(tmp_path / "a.json")
    (tmp_path / "\udcff.json").write_text("{")
    assert write_leaderboard(board_of(tmp_path), tmp_path / "out").exists()


def test_the_order_of_files_changes_nothing(tmp_path: Path):
    for place, name in enumerate("abc"):
        put(tmp_path / f"x/{place}.json", name)
        put(tmp_path / f"y/{9 - place}.json", name)
    assert board_of(tmp_path / "x") == board_of(tmp_path / "y")
