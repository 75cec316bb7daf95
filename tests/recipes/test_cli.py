"""The command line on real images: the whole story in small, flags, and models of ones own."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from saat.cli import main
from saat.data.fashion import read_fashion
from saat.parsing import load_yaml
from saat.recipes.attack import print_attack

SMALL = [
    "--data.train_size=160",
    "--data.query_size=40",
    "--data.database_size=300",
    "--backbone=resnet8",
    "--loss=csq",
    "--fit.epochs=2",
    "--quiet=true",
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain")
    assert main(["train", f"--out={out}", *SMALL]) == 0
    return out


def own_model() -> nn.Module:
    """A model of the user's own: 16 logits from 32 x 32 images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16))


def constant_model() -> nn.Module:
    """One code for all images."""
    model = own_model()
    with torch.no_grad():
        model[1].weight.zero_()
    return model


def drawing_model() -> nn.Module:
    """Another code at every look."""
    return nn.Sequential(Noise(), own_model())


class Noise(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + 0.05 * torch.randn_like(images)


def test_train_writes_a_checkpoint_with_everything_to_rebuild_it(plain: Path) -> None:
    card = json.loads((plain / "card.json").read_text())
    assert (card["backbone"], card["code_length"], card["loss"]) == ("resnet8", 32, "csq")
    assert card["manifest"]["sizes"] == {"train": 160, "query": 40, "database": 300}
    assert card["manifest"]["overlap"] == 0
    assert {"saat", "python", "torch"} <= card["versions"].keys()
    assert len((plain / "train.jsonl").read_text().splitlines()) == 2


def test_attack_harden_attack_report(plain: Path, tmp_path: Path) -> None:
    attacked, hardened, again = (tmp_path / name for name in ("attacked", "hardened", "again"))
    quick = ["--steps=5", "--quiet=true"]
    assert main(["attack", f"--checkpoint={plain}", f"--out={attacked}", "--epsilon=8/255", *quick]) == 0
    harden = ["harden", f"--checkpoint={plain}", f"--out={hardened}", "--fit.epochs=1", "--steps=2", "--quiet=true"]
    assert main(harden) == 0
    assert main(["attack", f"--checkpoint={hardened}", f"--out={again}", "--preset=paper", *quick]) == 0
    assert main(["report", f"--runs=[{attacked},{again}]", "--names=[plain,hardened]", f"--out={tmp_path / 'r'}"]) == 0

    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["plain"]["attacked_map"] < report["plain"]["clean_map"]
    assert 0 < report["chance_map"] < 0.2
    assert report["hardened"]["attack"]["objective"] == "weighted"  # the preset's
    assert report["hardened"]["attack"]["steps"] == 5  # given beside the preset, so it wins
    assert report["hardened"]["model"]["parent"] == str(plain)
    saved = load_file(attacked / "adversarial.safetensors")
    clean = torch.stack([torch.from_numpy(read_fashion().read(10_000)).permute(2, 0, 1)])
    assert saved["images"].shape == (40, *clean.shape[1:])
    assert saved["codes"].shape == (40, 32)
    assert report["plain"]["attack"]["max_perturbation"] <= 8 / 255 + 1e-6


def test_the_command_of_a_report_gives_the_same_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data.name=fashion-scenes", "--data.train_size=60", "--data.query_size=20", "--data.database_size=80"]
    options = ["--steps=3", "--epsilon=4/255", "--seed=1", "--data.split_seed=null", "--data.image_size=32"]
    assert main(["attack", f"--model={__name__}:own_model", "--out=first", *data, *options, "--quiet=true"]) == 0
    first = json.loads(Path("first/report.json").read_text())
    command = next(line for line in Path("first/page/report.md").read_text().splitlines() if line.startswith("saat "))
    assert main([*shlex.split(command)[1:], "--quiet=true"]) == 0
    second = json.loads(Path("runs/again/report.json").read_text())
    assert first["data"]["options"] == {
        **{"name": "fashion-scenes", "train_size": 60, "query_size": 20, "database_size": 80, "split_seed": None},
        "image_size": 32,
    }
    assert [second[key] for key in ("data", "attacked_map")] == [first[key] for key in ("data", "attacked_map")]


def test_some_data_options_beside_a_checkpoint_leave_the_others_as_its_card_says(plain: Path, tmp_path: Path) -> None:
    words = ["evaluate", f"--checkpoint={plain}", f"--out={tmp_path}", "--quiet=true"]
    assert main([*words, "--data.query_size=30"]) == 0
    assert_sizes(tmp_path, queries=30, database=300)  # of the card; the set has more
    assert main([*words, "--data.name=fashion", "--data.query_size=20", "--data.database_size=70"]) == 0
    assert_sizes(tmp_path, queries=20, database=70)


@pytest.mark.parametrize("form", ["in a file", "whole", "checkpoint in a file", "null before"])
def test_some_data_options_in_any_form_leave_the_others_as_the_card_says(
    form: str, plain: Path, tmp_path: Path
) -> None:
    checkpoint, data = f"checkpoint: {plain}\n", "data: {query_size: 30}\n"
    (tmp_path / "all.yaml").write_text(checkpoint + data)
    (tmp_path / "checkpoint.yaml").write_text(checkpoint)
    (tmp_path / "null.yaml").write_text(f"{checkpoint}data: null\n")
    words = {
        "null before": [f"--config={tmp_path / 'null.yaml'}", "--data.query_size=30"],
        "in a file": [f"--config={tmp_path / 'all.yaml'}"],
        "whole": [f"--checkpoint={plain}", '--data={"query_size": 30}'],
        "checkpoint in a file": ["--data.query_size=30", f"--config={tmp_path / 'checkpoint.yaml'}"],
    }
    assert main(["evaluate", *words[form], f"--out={tmp_path}", "--quiet=true"]) == 0
    assert_sizes(tmp_path, queries=30, database=300)


def test_a_preset_in_a_file_is_taken_and_what_stands_beside_it_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "harden.yaml"
    file.write_text("preset: query-side\nsteps: 3\nfit: {epochs: 2}\n")
    printed = []
    for config in (file, tmp_path / "printed.yaml"):  # what is printed is a file that gives the same
        with pytest.raises(SystemExit):
            main(["harden", "--checkpoint=x", "--out=y", f"--config={config}", "--print_config"])
        printed.append(capsys.readouterr().out)
        (tmp_path / "printed.yaml").write_text(printed[-1])
    options = load_yaml(printed[0])
    assert (options["preset"], options["defense"], options["mirror"]) == ("query-side", "query-side", True)
    assert (options["steps"], options["fit"]["epochs"], options["fit"]["batch_size"]) == (3, 2, 128)
    assert printed[1] == printed[0]


def assert_sizes(folder: Path, **sizes: int) -> None:
    found = json.loads((folder / "metrics.json").read_text())
    assert {name: found[name] for name in sizes} == sizes


def test_targeted_attack_raises_t_map(plain: Path, tmp_path: Path) -> None:
    words = ["attack", f"--checkpoint={plain}", f"--out={tmp_path}", "--targeted=true", "--steps=20", "--quiet=true"]
    assert main(words) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["t_map_attacked"] > report["t_map_clean"]
    assert 0 < report["t_map_chance"] < 1
    toward, targets = report["toward_target"], load_file(tmp_path / "adversarial.safetensors")["target_labels"]
    assert (toward["map"], toward["chance_map"]) == (report["t_map_attacked"], report["t_map_chance"])
    assert toward["queries"] == int(targets.any(1).sum())
    assert toward["success_rate_at"]["1"] == pytest.approx(toward["precision_at"]["1"])  # of one label each
    assert toward["chance"]["success_rate_at"]["1"] < toward["success_rate_at"]["1"] < toward["success_rate_at"]["10"]
    for rank, (low, high) in toward["intervals"]["success_rate_at"].items():
        assert low <= toward["success_rate_at"][rank] <= high
    for name in ("t_map_clean", "t_map_attacked", "bit_flip_rate"):
        low, high = report[f"{name}_interval"]
        assert 0 <= low < report[name] < high <= 1


def test_the_table_of_an_attack_has_flipped_bits_with_chance(capsys: pytest.CaptureFixture[str]) -> None:
    maps = {"clean_map": 0.912, "attacked_map": 0.321, "chance_map": 0.123}
    flips = {"bit_flip_rate": 0.375, "bit_flip_rate_chance": 0.456}
    for attack, told in (({}, 0), ({"service": "http://there", "returned_share": 0.25}, 1)):
        print_attack({"flags": [], "name": "a", "attack": attack} | maps | flips, Path("page"))
        printed = capsys.readouterr().out
        (row,) = (line for line in printed.splitlines() if "0.912" in line)
        assert re.findall(r"0\.\d+", row) == ["0.912", "0.321", "0.123", "0.375", "0.456"]
        assert printed.count("http://there still returns 25% of its results") == told


def test_no_item_for_a_target_gets_an_answer(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    none = lambda labels, *_, **__: torch.zeros_like(labels)  # noqa: E731
    monkeypatch.setattr("saat.recipes.attack.draw_targets", none)
    assert main(["attack", f"--checkpoint={plain}", f"--out={tmp_path}", "--targeted=true", "--quiet=true"]) == 2
    assert "needs items without any label of a query, as targets; got none" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["attack", "evaluate", "detect", "plant"])
def test_an_out_that_is_a_file_gets_an_answer(
    command: str, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    more = ["--label=Trouser"] if command == "plant" else []
    words = [command, f"--checkpoint={plain}", f"--out={tmp_path / 'file'}", "--quiet=true", *more]
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert "is no folder" in printed
    assert "Traceback" not in printed


def test_evaluate_a_model_of_ones_own(tmp_path: Path) -> None:
    data = ["--data.train_size=50", "--data.query_size=20", "--data.database_size=100"]
    out = tmp_path / "measured"
    words = ["evaluate", f"--model={__name__}:own_model", f"--out={out}", "--quiet=true", *data]
    assert main(words) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["code_length"] == 16
    assert metrics["map"] > metrics["chance_map"]


@pytest.mark.parametrize(
    ("model", "command", "flag"),
    [
        ("constant_model", ["evaluate"], "collapsed-codes"),
        ("drawing_model", ["evaluate"], "unstable-model"),
        ("constant_model", ["attack", "--steps=1"], "collapsed-codes"),
        ("constant_model", ["evaluate", "--suite=fast", "--steps=1"], "collapsed-codes"),
    ],
)
def test_the_first_line_says_what_makes_the_numbers_unreliable(
    model: str, command: list[str], flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.train_size=50", "--data.query_size=20", "--data.database_size=100"]
    assert main([*command, f"--model={__name__}:{model}", f"--out={tmp_path}", *data]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"unreliable: {flag}: ")
    file = tmp_path / ("metrics.json" if command == ["evaluate"] else "report.json")
    found = json.loads(file.read_text())
    assert flag in [each["name"] for each in found["flags"]]
    for path in (file, *tmp_path.glob("result.json")):
        assert list(json.loads(path.read_text()))[:2] == ["unreliable", "flags"]
        assert path.read_text().splitlines()[1] == '  "unreliable": true,'


def test_a_report_says_first_which_of_its_runs_are_unreliable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.train_size=50", "--data.query_size=20", "--data.database_size=100"]
    for model in ("own_model", "constant_model"):
        words = ["attack", f"--model={__name__}:{model}", f"--out={tmp_path / model}", "--steps=1", "--quiet", *data]
        assert main(words) == 0
    runs = [str(tmp_path / model) for model in ("own_model", "constant_model")]
    assert main(["report", *runs, "--names", "sound", "constant", "--out", str(tmp_path / "report")]) == 0
    *flags, last = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "report" / "report.json").read_text())["constant"]["flags"]
    assert flags == [f"unreliable: constant: {flag['name']}: {flag['message']}" for flag in found]
    assert "collapsed-codes" in flags[0]
    assert last.startswith("report: ")


def test_a_sound_model_is_not_marked(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", f"--checkpoint={plain}", f"--out={tmp_path}"]) == 0
    assert "unreliable" not in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["unreliable"], metrics["flags"]) == (False, [])


def test_a_model_beside_the_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    lines = ("from torch import nn", "def make():", "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8))")
    Path("my_hashing_model.py").write_text("\n".join(lines))
    data = ["--data.train_size=20", "--data.query_size=10", "--data.database_size=50"]
    assert main(["evaluate", "--model=my_hashing_model:make", "--quiet=true", *data]) == 0


def test_config_file_then_overrides(tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text("backbone: resnet8\nloss: csq\ndata: {train_size: 40, query_size: 10, database_size: 60}\n")
    words = ["train", f"--config={config}", f"--out={tmp_path / 'run'}", "--fit.epochs=1", "--code_length=48"]
    assert main([*words, "--quiet=true"]) == 0
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert (card["backbone"], card["code_length"]) == ("resnet8", 48)


def test_describe_names_damaged_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fashion = read_fashion()
    for row in range(24):
        path = tmp_path / f"class{row % 2}" / f"{row:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(fashion.read(row)).save(path)
    broken = tmp_path / "class0" / "00.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    words = ["data", "describe", "--data.name=folder", f"--data.root={tmp_path}", "--data.image_size=32"]
    assert main([*words, "--quiet=true"]) == 0
    printed = capsys.readouterr().out
    assert "1 damaged images left out" in printed
    assert "class0/00.jpg" in printed
