"""What a report says of runs: its page, and the same numbers as text."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
from attack_runs import ATTACK, CLASSES, make_run
from pages import Page
from PIL import Image

from saat.errors import ArgumentError, DataError
from saat.evaluation import report
from saat.recipes.report import ReportConfig
from saat.recipes.report import report as make_report


def write(out: Path, *runs: Path) -> tuple[Page, str]:
    page, combined = report.write_report([(run.name, run) for run in runs], out)
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == combined
    return Page(page.read_text(encoding="utf-8")), (out / "report.md").read_text(encoding="utf-8")


def test_a_page_of_two_models_is_whole_and_asks_nothing_of_the_network(tmp_path: Path):
    runs = make_run(tmp_path / "plain"), make_run(tmp_path / "hardened", noise=0.8)
    page, markdown = write(tmp_path / "out", *runs)
    assert page.open == []
    assert page.references
    assert all(reference.startswith(("data:image/png;base64,", "#")) for reference in page.references)
    html = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|@import|url\((?!#)", html)
    combined = json.loads((tmp_path / "out/report.json").read_text())
    assert list(combined) == ["unreliable", "plain", "hardened", "chance_map"]
    assert combined["unreliable"] is False
    for name in ("plain", "hardened"):
        for key in ("clean_map", "attacked_map", "clean_map_paper", "attacked_map_paper", "chance_map_paper"):
            assert f"{combined[name][key]:.3f}" in page.text
            assert f"{combined[name][key]:.3f}" in markdown
    assert f"{combined['chance_map']:.3f}" in page.text
    assert "8/255" in page.text
    assert page.text.count("Query ") == 6
    assert "16 times" in page.text
    assert "✓" in page.text
    assert "✗" in page.text
    assert "Unreliable" not in page.text + markdown
    assert "like-for-like" not in page.text + markdown


def test_what_is_measured_at_rank_and_in_trials_is_drawn_and_written(tmp_path: Path):
    trials = {"map_by_epsilon": {"0.0313725": 0.321, "0.5": 0.123}, "map_by_steps": {"1": 0.432, "20": 0.234}}
    page, markdown = write(tmp_path / "out", make_run(tmp_path / "plain"))
    assert "success rate" in page.text
    assert "trials" not in page.text + markdown
    page, markdown = write(tmp_path / "out", make_run(tmp_path / "tried", attack=ATTACK | {"trials": trials}))
    assert "epsilon, in 1/255" in page.text
    found = json.loads((tmp_path / "tried/report.json").read_text())["clean"]
    rows = {line.split(" | ")[0]: line.rstrip(" |").split(" | ")[1:] for line in markdown.splitlines()}
    assert rows["| at rank"] == list(found["ndcg_at"]) == ["1", "10"]
    ends = found["intervals"]["ndcg_at"]
    assert rows["| nDCG, clean"] == [
        f"{value:.3f} ({ends[rank][0]:.3f} to {ends[rank][1]:.3f})" for rank, value in found["ndcg_at"].items()
    ]
    assert rows["| nDCG, chance"] == [f"{value:.3f}" for value in found["chance"]["ndcg_at"].values()]
    for state in ("clean", "chance"):
        values = (found if state == "clean" else found["chance"])["map_at"].values()
        assert [cell[:5] for cell in rows[f"| MAP, {state}"]] == [f"{value:.3f}" for value in values]
    low, high = found["intervals"]["precision_within_radius_2"]
    within = f"{found['precision_within_radius_2']:.3f}"
    assert rows["| precision"][0] == f"{within} ({low:.3f} to {high:.3f})"
    assert rows["| precision"][2] == f"{found['chance']['precision_within_radius_2']:.3f}"
    assert f"within radius 2precision clean {within} {low:.3f} to {high:.3f}, attacked" in page.text
    assert rows["| epsilon of the trials"] == ["8/255", "128/255"]
    assert [cells for name, cells in rows.items() if name == "| MAP"] == [["0.432", "0.234"]]
    assert "0.321 | 0.123" in markdown


def test_a_mean_stands_with_its_interval_and_a_report_of_an_older_version_without(tmp_path: Path):
    aimed = {"t_map_clean": 0.2, "t_map_attacked": 0.9, "t_map_attacked_interval": [0.81, 0.95], "t_map_chance": 0.3}
    aimed |= {"bit_flip_rate": 0.375, "bit_flip_rate_interval": [0.321, 0.432], "bit_flip_rate_chance": 0.456}
    new = make_run(tmp_path / "new", attack=ATTACK | {"targeted": True}, **aimed)
    page, markdown = write(tmp_path / "out", new)
    content = json.loads((new / "report.json").read_text())
    for state in ("clean", "attacked"):
        for key in ("map", "map_paper"):
            low, high = content[state][f"{key}_interval"]
            assert f"{content[f'{state}_{key}']:.3f} {low:.3f} to {high:.3f}" in page.text
            assert f"{content[f'{state}_{key}']:.3f} ({low:.3f} to {high:.3f})" in markdown
    assert "0.900 0.810 to 0.950" in page.text
    assert "0.375 0.321 to 0.432 of a query's bits; by chance, with the code of another query, 0.456" in page.text
    assert "| 0.375 (0.321 to 0.432) | 0.456 |" in markdown
    assert "| 0.200 | 0.900 (0.810 to 0.950) | 0.300 |" in markdown
    for state in ("clean", "attacked"):
        content[state] = {key: value for key, value in content[state].items() if "interval" not in key}
    old = make_run(tmp_path / "old", clean=content["clean"], attacked=content["attacked"])
    _, markdown = write(tmp_path / "again", old)
    assert "(0." not in markdown.partition("| model |")[2]
    assert f"| {content['clean_map']:.3f} | {content['attacked_map']:.3f} |" in markdown
    assert 'class="interval"' not in (tmp_path / "again/report.html").read_text(encoding="utf-8")


def test_names_with_markup_are_shown_and_not_obeyed(tmp_path: Path):
    flag = {"name": "overlap", "message": "<script>alert(1)</script>"}
    page, markdown = write(tmp_path / "out", make_run(tmp_path / "<i>x", flags=[flag]))
    assert CLASSES[0] in page.text
    assert "<i>x" in page.text
    assert "script" not in page.tags
    html = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "<b>Coat" not in html
    assert "<i>x" not in html
    assert "&lt;b&gt;Coat&lt;/b&gt; &amp;" in html
    assert "<script" not in markdown


def test_a_flag_is_the_first_thing_said(tmp_path: Path):
    flag = {"name": "clean-at-chance", "message": "clean MAP 0.33 is within noise"}
    page, markdown = write(tmp_path / "out", make_run(tmp_path / "plain", flags=[flag]))
    assert page.text.index("Unreliable") < page.text.index("How easily")
    assert "Unreliable" in markdown.splitlines()[0]
    assert "clean MAP 0.33 is within noise" in page.text
    write(tmp_path / "both", make_run(tmp_path / "sound"), tmp_path / "plain")
    assert (tmp_path / "both/report.json").read_text().splitlines()[1] == '  "unreliable": true,'
    with pytest.raises(ArgumentError, match=r"neither chance_map nor unreliable, .*; got 'unreliable'"):
        report.combine_reports([("unreliable", tmp_path / "plain")])


def test_a_report_holds_up_to_six_models(tmp_path: Path):
    runs = [make_run(tmp_path / f"model{number}", noise=0.3 + 0.3 * number) for number in range(7)]
    page, _ = write(tmp_path / "out", *runs[:6])
    assert "of 6 models" in page.text
    with pytest.raises(ArgumentError, match="1 to 6"):
        write(tmp_path / "out", *runs)


def test_examples_are_matched_by_query_and_not_by_place(tmp_path: Path):
    runs = make_run(tmp_path / "a", seed=0), make_run(tmp_path / "b", seed=1)
    first, second = ({e["query"] for e in json.loads((run / "report.json").read_text())["examples"]} for run in runs)
    assert first != second
    page, _ = write(tmp_path / "out", *runs)
    assert {int(row) for row in re.findall(r"Query (\d+):", page.text)} == first | second


def test_unequal_attacks_and_targets_are_told(tmp_path: Path):
    weak = make_run(tmp_path / "weak", attack=ATTACK | {"epsilon": 4 / 255})
    aimed = make_run(
        tmp_path / "aimed",
        t_map_clean=0.123,
        t_map_attacked=0.987,
        t_map_chance=0.456,
        attack=ATTACK | {"targeted": True},
    )
    page, markdown = write(tmp_path / "out", weak, aimed)
    for text in (page.text, markdown):
        assert "like-for-like" in text
        assert "0.123" in text
        assert "0.987" in text
        assert "0.456" in text
    assert "4/255" in page.text


def test_radii_that_differ_are_told_in_the_unit_of_each_model(tmp_path: Path):
    pixels = make_run(tmp_path / "pixels")
    length = make_run(tmp_path / "length", attack=ATTACK | {"norm": "l2", "epsilon": 0.5, "step_size": 0.0625})
    for runs in ((pixels, length), (length, pixels)):
        page, _ = write(tmp_path / "out", *runs)
        assert "pixels 8/255" in page.text
        assert "length 0.5" in page.text
        assert "length 0.0625" in page.text


@pytest.mark.parametrize("content", ['{"attack": {}}', "5", "[]", '{"attack": 5}', '{"attack": {"norm": "l2"}}'])
def test_a_report_of_something_else_is_named(content: str, tmp_path: Path):
    path = tmp_path / "other/report.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(DataError, match=re.escape(f"{path} tells of no attack: ")):
        report.combine_reports([("other", path.parent)])


def test_the_folder_where_one_stands_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(make_run(tmp_path / "here"))
    make_report(ReportConfig(runs=[Path()], out=tmp_path / "out"))
    assert "here" in json.loads((tmp_path / "out/report.json").read_text())


def test_what_similarity_is_not_measured_of_has_a_dash(tmp_path: Path):
    change = {"linf": 0.03, "linf_maximum": 0.0314, "l2": 1.5, "psnr": 33.2, "ssim": None}
    page, markdown = write(tmp_path / "out", make_run(tmp_path / "small", change=change))
    assert "SSIM \N{EN DASH}" in page.text
    assert "SSIM \N{EN DASH}, l2 1.50" in markdown


def test_an_l2_attack_on_a_model_of_the_users_own(tmp_path: Path):
    model = {"checkpoint": None, "backbone": "mine:make", "code_length": 16, "defense": None}
    attack = ATTACK | {"norm": "l2", "epsilon": 0.5, "step_size": 0.1}
    page, markdown = write(tmp_path / "out", make_run(tmp_path / "mine", model=model, attack=attack))
    assert "0.5 in l2" in page.text
    assert "own" in page.text
    assert "saat attack --out runs/again --name mine --model mine:make" in page.text
    assert "saat attack --out runs/again --name mine --model mine:make" in markdown


def test_runs_that_do_not_go_together_are_refused(tmp_path: Path):
    plain = make_run(tmp_path / "plain")
    data = json.loads((plain / "report.json").read_text())["data"]
    other = make_run(tmp_path / "other", data=data | {"checksums": {"train": "t", "query": "q", "database": "x"}})
    with pytest.raises(ArgumentError, match="the database of other and plain differ"):
        report.combine_reports([("plain", plain), ("other", other)])
    cut = make_run(tmp_path / "cut", data=data | {"image_size": 8, "crop_border": 2})
    with pytest.raises(ArgumentError, match="images cut alike; image_size, crop_border of cut and plain"):
        report.combine_reports([("plain", plain), ("cut", cut)])
    with pytest.raises(ArgumentError, match="distinct names"):
        report.combine_reports([("plain", plain), ("plain", plain)])
    with pytest.raises(ArgumentError, match="1 to 6"):
        report.combine_reports([])
    with pytest.raises(ArgumentError, match="other than those of the runs"):
        report.write_report([("plain", plain)], plain)
    with pytest.raises(DataError, match=r"no report\.json"):
        report.combine_reports([("none", tmp_path / "none")])
    (plain / "examples/0_clean.png").unlink()
    with pytest.raises(DataError, match="0_clean"):
        report.write_report([("plain", plain)], tmp_path / "out")
    (plain / "report.json").write_text('{"cut')
    with pytest.raises(DataError, match="damaged"):
        report.combine_reports([("plain", plain)])


def test_photographs_are_made_smaller_for_the_page(tmp_path: Path):
    page, _ = write(tmp_path / "out", make_run(tmp_path / "plain", side=200))
    pictures = [reference.partition(",")[2] for reference in page.references if reference.startswith("data:")]
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as image:
        assert image.size == (192, 192)


def test_a_verdict_says_what_the_numbers_say():
    attack = {"norm": "linf", "epsilon": 8 / 255}

    def told(clean: float, attacked: float) -> str:
        numbers = {"clean_map": clean, "attacked_map": attacked, "chance_map": 0.1, "attack": attack}
        return report.verdict({"plain": numbers})

    assert told(0.9, 0.3).endswith(
        "falls from 0.900 to 0.300 MAP and keeps 25% of its lead over a random ranking (0.100)."
    )
    assert "no better than a random ranking" in told(0.9, 0.05)
    assert "no better than a random ranking" in told(0.9, 0.101)
    assert "even its clean ranking is no better than chance" in told(0.1, 0.05)
    assert "does not fall but goes from 0.500 to 0.600" in told(0.5, 0.6)
