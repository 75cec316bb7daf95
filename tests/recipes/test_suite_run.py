"""The suite of `saat evaluate`: a worst case that is one, in budget to the bit, whatever happens to the process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parts import replace_part
from safetensors.torch import load_file

from saat.cli import main
from saat.evaluation.metrics import evaluate_retrieval
from saat.evaluation.result_card import check_result_card
from saat.evaluation.suite import SUITES
from saat.hamming import sign_codes
from saat.models.hash_model import HashModel, encode_logits
from saat.recipes.evaluate import EvaluateConfig, suite_options
from saat.recipes.outcome import encode_subject
from saat.recipes.subject import Subject, load_subject
from saat.recipes.suite import run_suite

pytestmark = pytest.mark.usefixtures("no_pictures")


def words(tiny: Path, out: Path, *more: str) -> list[str]:
    quick = ["--suite=fast", "--steps=6", "--batch_size=5", "--quiet=true"]
    return ["evaluate", f"--checkpoint={tiny}", f"--out={out}", *quick, *more]


@pytest.fixture
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer trials, which take longest and are of no matter here."""
    monkeypatch.setattr("saat.evaluation.trials.RADII", ())
    monkeypatch.setattr("saat.evaluation.trials.SWEEP_STEPS", (1, 2))


@pytest.fixture(scope="module")
def subject(tiny: Path) -> Subject:
    return load_subject(tiny, None, None, device=torch.device("cpu"), quiet=True)


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saat.recipes.outcome.write_examples", lambda *_, **__: [])
        assert main(words(tiny, out)) == 0
    assert (out / "page" / "report.html").exists()
    return out


def numbers(out: Path) -> dict[str, Any]:
    """The report without times."""
    report = json.loads((out / "report.json").read_text())
    del report["created"], report["attack"]["seconds"]
    for member in report["attack"]["members"].values():
        del member["seconds"]
    return report


def saved_members(out: Path, suite: str) -> dict[str, torch.Tensor]:
    """The images of each member, batch after batch."""
    return {
        name: torch.cat(
            [load_file(path)["images"] for path in sorted((out / "members").glob(f"{suite}-{name}-*.safetensors"))]
        )
        for name in SUITES[suite]
    }


def test_the_worst_case_is_the_lowest_of_clean_and_every_member_for_every_query(whole: Path, subject: Subject) -> None:
    codes = encode_subject(subject, quiet=True)
    splits = subject.splits

    def measured(query_codes: torch.Tensor) -> torch.Tensor:
        metrics = evaluate_retrieval(query_codes, splits.query.labels, codes.database, splits.database.labels)
        return metrics.average_precision

    saved = load_file(whole / "adversarial.safetensors")
    assert torch.equal(saved["codes"], sign_codes(encode_logits(subject.model, saved["images"], quiet=True)))
    worst, lowest = measured(saved["codes"]), measured(sign_codes(codes.query_logits))
    clean = lowest.clone()
    report = numbers(whole)
    for name, images in saved_members(whole, "fast").items():
        found = measured(sign_codes(encode_logits(subject.model, images, quiet=True)))
        assert bool((worst <= found).all())
        assert report["attack"]["members"][name]["map"] == pytest.approx(found.mean().item())
        lowest = torch.minimum(lowest, found)
    assert torch.equal(worst, lowest)
    assert report["attacked_map"] == pytest.approx(worst.mean().item())
    assert report["clean_map"] == pytest.approx(clean.mean().item())
    assert report["attacked_map"] < min(member["map"] for member in report["attack"]["members"].values()) + 1e-12
    assert report["attack"]["any_code_map"] <= report["attacked_map"] + 1e-9
    assert report["attack"]["trials"]["map_by_steps"].keys() == {"1", "5", "20"}


@pytest.mark.usefixtures("short_trials")
@pytest.mark.parametrize(("epsilon", "levels"), [("8/255", 8), ("2.5/255", 2)])
def test_saved_images_have_whole_gray_levels_within_epsilon(
    epsilon: str, levels: int, whole: Path, tiny: Path, tmp_path: Path, subject: Subject
) -> None:
    out = whole if levels == 8 else tmp_path
    if out is tmp_path:
        assert main(words(tiny, out, f"--epsilon={epsilon}")) == 0
    clean = subject.splits.query.images.int()
    images = load_file(out / "adversarial.safetensors")["images"] * 255.0
    assert torch.allclose(images, images.round(), atol=1e-4)
    changes = [(images.round().int() - clean).abs()]
    changes += [(found.int() - clean).abs() for found in saved_members(out, "fast").values()]
    assert [int(change.max()) for change in changes] == [levels] * 3
    assert numbers(out)["attack"]["max_perturbation"] == pytest.approx(levels / 255, abs=1e-6)


def test_images_of_a_members_file_are_checked_though_none_is_a_worst_case(
    whole: Path, tiny: Path, tmp_path: Path, subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(whole, tmp_path / "copy")
    file = out / "members" / "fast-away-from-mainstay-00000.safetensors"
    content = load_file(file)
    clean = subject.splits.query.images[: len(content["images"])]
    content["images"][0, 0, 0, 0] = clean[0, 0, 0, 0] ^ 128
    replace_part(file, content)
    assert main(words(tiny, out)) == 2
    assert "saved images of away-from-mainstay leave the threat model" in capsys.readouterr().err


@pytest.mark.usefixtures("short_trials")
def test_l2_changes_are_within_epsilon(tiny: Path, tmp_path: Path, subject: Subject) -> None:
    assert main(words(tiny, tmp_path, "--norm=l2", "--epsilon=1.0", "--suite=standard", "--steps=2")) == 0
    clean = subject.splits.query.images.float() / 255
    for images in saved_members(tmp_path, "standard").values():
        assert float((images / 255 - clean).flatten(1).norm(dim=1).max()) <= 1.0 + 1e-6


@pytest.mark.usefixtures("short_trials")
@pytest.mark.parametrize("suite", ["paper", "full"])
def test_every_member_of_the_larger_suites_runs(suite: str, tiny: Path, tmp_path: Path, subject: Subject) -> None:
    surrogate = [f"--surrogate=[{tiny}]"] if suite == "full" else []
    assert main(words(tiny, tmp_path, f"--suite={suite}", "--steps=2", "--batch_size=20", *surrogate)) == 0
    report, card = numbers(tmp_path), json.loads((tmp_path / "result.json").read_text())
    members = report["attack"]["members"]
    assert tuple(members) == tuple(card["members"]) == SUITES[suite]
    assert check_result_card(card) == card
    assert report["attacked_map"] <= min(member["map"] for member in members.values())
    assert report["attacked_map"] < report["clean_map"]
    clean = subject.splits.query.images.int()
    for name, images in saved_members(tmp_path, suite).items():
        assert 0 < int((images.int() - clean).abs().max()) <= 8, name
        assert members[name]["model_evaluations"] >= len(clean)


@pytest.mark.usefixtures("short_trials")
def test_both_files_of_a_run_have_the_same_flags(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = HashModel.forward
    noise = lambda images: 0.05 * torch.randn_like(images)  # noqa: E731
    monkeypatch.setattr(HashModel, "forward", lambda self, images: forward(self, images + noise(images)))
    assert main(words(tiny, tmp_path, "--steps=2", "--corruptions")) == 0
    report, metrics = (json.loads((tmp_path / name).read_text()) for name in ("report.json", "metrics.json"))
    assert "unstable-model" in [flag["name"] for flag in report["flags"]]
    assert metrics["unreliable"] is report["unreliable"] is True
    assert metrics["flags"] == report["flags"]
    assert metrics["map"] == report["clean_map"]
    assert metrics["corruptions"]


@pytest.mark.usefixtures("short_trials")
def test_a_budget_that_8_bits_cut_is_flagged(whole: Path, tiny: Path, tmp_path: Path) -> None:
    assert main(words(tiny, tmp_path, "--epsilon=1.99/255", "--data.query_size=60")) == 0
    report = numbers(tmp_path)
    assert "lost-to-rounding" in [flag["name"] for flag in report["flags"]]
    assert all(found["map_before_rounding"] < found["map"] for found in report["attack"]["members"].values())
    assert "lost-to-rounding" not in [flag["name"] for flag in numbers(whole)["flags"]]


def test_a_killed_run_goes_on_to_the_same_numbers(
    whole: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "saat", *words(tiny, tmp_path)]
    process = subprocess.Popen(command, env=os.environ)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "members").glob("*.safetensors"))) < 2:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "report.json").exists()
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "members").glob("*.safetensors")}
    assert 2 <= len(there) < 8
    assert main(words(tiny, tmp_path)) == 0
    assert all((tmp_path / "members" / name).stat().st_mtime_ns == moment for name, moment in there.items())
    assert numbers(tmp_path) == numbers(whole)
    assert len({(out / "adversarial.safetensors").read_bytes() for out in (tmp_path, whole)}) == 1
    monkeypatch.setattr("saat.recipes.suite.worst_codes", None)  # over many items it takes long, and is kept too
    assert main(words(tiny, tmp_path)) == 0


def test_another_run_in_the_same_folder_is_refused_before_anything_is_written(
    whole: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    other = ["--epsilon=4/255", "--seed=1", "--data.train_size=100", "--data.query_size=20", "--data.database_size=90"]
    for word, found in (*((word, "") for word in other[:2]), (other[2:], "checksums: ")):
        assert main(words(tiny, whole, *([word] if isinstance(word, str) else word))) == 2
        printed = capsys.readouterr().err
        assert "`out` is a new folder or that of the same run" in printed
        assert found in printed
        assert "Traceback" not in printed
    assert main(words(tiny, whole, "--epsilon=4/255")) == 2
    assert f"epsilon: {8 / 255} there, {4 / 255} now" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("short_trials")
def test_queries_without_a_label_stay_clean_and_shift_no_other(tiny: Path, tmp_path: Path) -> None:
    subject = load_subject(tiny, None, None, device=torch.device("cpu"), quiet=True)
    query = subject.splits.query
    query.labels[[0, 7]] = 0
    codes = encode_subject(subject, quiet=True)
    config = EvaluateConfig(checkpoint=tiny, out=tmp_path, suite="fast", steps=4, batch_size=5, quiet=True)
    options = suite_options(config, subject, torch.device("cpu"))
    assert options is not None
    result = run_suite(options, subject, codes, torch.device("cpu"))
    labeled = (query.labels > 0).any(1)
    assert torch.equal(result.images[~labeled], query.images[~labeled])
    assert bool((result.images[labeled] != query.images[labeled]).flatten(1).any(1).any())
    assert torch.equal(result.codes, sign_codes(encode_logits(subject.model, result.images, quiet=True)))
    worst, clean = (
        evaluate_retrieval(found, query.labels, codes.database, subject.splits.database.labels).average_precision
        for found in (result.codes, sign_codes(codes.query_logits))
    )
    assert bool((worst <= clean).all())
    for member in result.members.values():
        assert bool((worst <= member.metrics.average_precision).all())
    assert all(values.shape == (18,) for values in result.trials.steps.values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--suite=fast"], "`suite` needs `out`"),
        (["--suite=fsat", "--out=y"], "did you mean 'fast'"),
        (["--suite=fast", "--out=y", "--epsilon=8"], "did you mean 8/255?"),
        (["--suite=fast", "--out=y", "--steps=0"], "`steps` is at least 1; got 0"),
        (["--suite=fast", "--out=y", "--batch_size=0"], "`batch_size` is at least 1; got 0"),
        (["--suite=fast", "--out=y", "--norm=l1"], "`norm` is one of l2, linf; got 'l1'"),
        (["--suite=fast", "--out=y", "--surrogate=[z]"], "`surrogate` is for `suite` full"),
    ],
)
def test_mistakes_get_an_answer(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--checkpoint=x", *more]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_corruptions_are_measured_beside_clean_queries(tiny: Path, tmp_path: Path) -> None:
    words = ["evaluate", f"--checkpoint={tiny}", "--corruptions=true", f"--out={tmp_path}", "--quiet=true"]
    assert main(words) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["corruptions"]) == [
        f"{name} {level}" for name in ("noise", "blur", "jpeg") for level in (1, 3, 5)
    ]
    assert all(found["chance_map"] == metrics["chance_map"] for found in metrics["corruptions"].values())
    assert len({found["map"] for found in [metrics, *metrics["corruptions"].values()]}) > 5


def test_another_model_of_the_same_weights_is_another_run(
    whole: Path, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def renamed(*arguments: Any, **options: Any) -> Subject:
        found = load_subject(*arguments, **options)
        return replace(found, about=found.about | {"backbone": "own:masked"})

    monkeypatch.setattr("saat.recipes.evaluate.load_subject", renamed)
    assert main(words(tiny, whole)) == 2
    assert "model: 'resnet8' there, 'own:masked' now" in capsys.readouterr().err


def test_a_suite_in_linf_needs_a_gray_level(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tiny, tmp_path, "--epsilon=0.5/255")) == 2
    assert "`epsilon` in linf is at least 1/255 here" in capsys.readouterr().err


@pytest.mark.usefixtures("short_trials")
def test_images_cut_otherwise_are_another_run(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tiny, tmp_path, "--steps=2")) == 0
    assert main(words(tiny, tmp_path, "--steps=2", "--data.crop_border=4")) == 2
    assert "crop_border: 0 there, 4 now" in capsys.readouterr().err
