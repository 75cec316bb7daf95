"""Every defense from the command line, on a small network and for a moment."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saat.attacks.gradient import PGD
from saat.attacks.prototype import fit_prototypes
from saat.cli import COMMANDS, main
from saat.defenses.catalog import DEFENSES
from saat.defenses.papers import PRESETS
from saat.defenses.unlabeled import pseudo_labels
from saat.errors import ArgumentError
from saat.models.checkpoint import load_checkpoint, read_card, weights_checksum
from saat.parsing import make_parser
from saat.recipes.harden import HardenConfig, splits_of
from saat.recipes.outcome import encode_subject
from saat.recipes.subject import load_subject

QUICK = ["--fit.epochs=1", "--fit.batch_size=64", "--steps=2", "--quiet=true"]


@pytest.fixture(autouse=True)
def small_prototype_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saat.defenses.catalog.fit_prototypes", partial(fit_prototypes, widths=(8, 8), steps=3))


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]


PASSES = {"trades": 3, "query-side": 1}
"""Of each image beside the steps of its attack, if not 2: attacked in train mode; clean, before the attack or after."""


@pytest.mark.parametrize("name", DEFENSES)
def test_every_defense_writes_a_hardened_checkpoint(name: str, tiny: Path, tmp_path: Path) -> None:
    assert main(["harden", f"--checkpoint={tiny}", f"--out={tmp_path}", f"--defense={name}", *QUICK]) == 0
    card = json.loads((tmp_path / "card.json").read_text())
    assert (card["defense"], card["parent"]) == (name, str(tiny))
    assert card["training"]["defense"] == name
    before, after = (load_file(path / "model.safetensors") for path in (tiny, tmp_path))
    assert before.keys() == after.keys()
    assert not torch.equal(before["hash_layer.weight"], after["hash_layer.weight"])
    assert len(rows(tmp_path)) == 1
    images = card["manifest"]["sizes"]["train"]
    assert card["training"]["model_evaluations"] == images * (2 + PASSES.get(name, 2))


def test_unlabeled_database_images_join_with_pseudo_labels_only(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def remembered(bank, logits):
        given.append((len(bank), len(logits)))
        return pseudo_labels(bank, logits)

    def poisoned(*arguments, **options):  # labels of the database that would show if they were used
        splits = splits_of(*arguments, **options)
        return replace(splits, database=replace(splits.database, labels=torch.ones_like(splits.database.labels)))

    words = ["harden", f"--checkpoint={tiny}", "--defense=query-side", "--unlabeled=true", *QUICK]
    monkeypatch.setattr("saat.recipes.harden.pseudo_labels", remembered)
    assert main([*words, f"--out={tmp_path / 'true'}"]) == 0
    monkeypatch.setattr("saat.recipes.harden.splits_of", poisoned)
    assert main([*words, f"--out={tmp_path / 'poisoned'}"]) == 0
    assert given[0] == given[1]
    assert given[0][0] == 120
    assert 0 < given[0][1] <= 150
    true, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("true", "poisoned"))
    assert true == other
    assert json.loads((tmp_path / "true" / "card.json").read_text())["training"]["unlabeled"] is True


@pytest.mark.parametrize("unlabeled", ["false", "true"])
def test_distillation_hardens_where_no_train_image_has_a_label(
    unlabeled: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def label_free(*arguments, **options):
        splits = splits_of(*arguments, **options)
        return replace(splits, train=replace(splits.train, labels=torch.zeros_like(splits.train.labels)))

    monkeypatch.setattr("saat.recipes.harden.splits_of", label_free)
    words = ["harden", f"--checkpoint={tiny}", f"--out={tmp_path}", "--defense=distill", f"--unlabeled={unlabeled}"]
    assert main([*words, *QUICK]) == 0
    assert rows(tmp_path)[0]["distillation"] > 0.01


def test_query_side_training_with_an_average_resumes_to_the_same_bits(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["harden", f"--checkpoint={tiny}", "--preset=query-side", *QUICK, "--fit.epochs=2"]
    assert main([*words, f"--out={tmp_path / 'whole'}"]) == 0
    saves = []

    def stop_after_one(*arguments):
        save(*arguments)
        saves.append(1)
        raise KeyboardInterrupt

    from saat import training

    save = training._save
    with monkeypatch.context() as patched:
        patched.setattr("saat.training._save", stop_after_one)
        assert main([*words, f"--out={tmp_path / 'stopped'}"]) == 130
    assert len(saves) == len(rows(tmp_path / "stopped")) == 1
    assert main([*words, f"--out={tmp_path / 'stopped'}"]) == 0
    whole, stopped = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_valid_configuration(preset: str) -> None:
    parser = make_parser(preset, "harden", COMMANDS["harden"])
    config = parser.instantiate(parser.parse_args(["--checkpoint=x", "--out=y"]))
    fields = {key: value for key, value in vars(config).items() if key not in ("config", "preset")}
    made = HardenConfig(**fields)
    named = {"paper": "saat", "smoothing": "query-side"}
    assert made.defense == PRESETS[preset].get("defense", "saat") == named.get(preset, preset)
    assert made.fit.epochs == PRESETS[preset]["fit"]["epochs"]


def test_presets_of_papers_attack_in_train_mode_as_released() -> None:
    modes = {name: PRESETS[name].get("attack_mode", "eval") for name in PRESETS}
    assert [name for name in modes if modes[name] == "train"] == ["paper", "cgat", "atrdh"]
    assert PRESETS["paper"]["fit"] == {**PRESETS["saat"]["fit"], "momentum": 0.0}


@pytest.mark.parametrize("carry", ["false", "true"])
def test_in_train_mode_the_steps_of_the_inner_attack_move_batch_statistics(
    carry: str, tiny: Path, tmp_path: Path
) -> None:
    seen = {}
    for mode in ("eval", "train"):
        words = ["harden", f"--checkpoint={tiny}", f"--out={tmp_path / mode}", *QUICK, f"--carry={carry}"]
        assert main([*words, f"--attack_mode={mode}"]) == 0
        weights = load_file(tmp_path / mode / "model.safetensors")
        seen[mode] = next(int(value) for name, value in weights.items() if name.endswith("num_batches_tracked"))
    batches = 2
    assert seen["train"] - seen["eval"] == 2 * batches  # two steps each


def test_the_preset_of_query_side_has_its_own_training() -> None:
    parser = make_parser("query-side", "harden", COMMANDS["harden"])
    made = parser.instantiate(parser.parse_args(["--checkpoint=x", "--out=y"]))
    assert (made.epsilon, made.steps, made.step_size, made.mirror) == (10 / 255, 1, 10 / 255, True)
    assert made.epsilon_warmup == 0.5
    assert (made.fit.epochs, made.fit.batch_size, made.fit.learning_rate) == (40, 128, 0.4)
    assert (made.fit.schedule, made.fit.average) == ("one-cycle", 0.99)


def test_carried_perturbations_start_every_epoch_but_the_first(tiny: Path, tmp_path: Path) -> None:
    words = ["harden", f"--checkpoint={tiny}", *QUICK, "--fit.epochs=2"]
    for carry in ("false", "true"):
        assert main([*words, f"--out={tmp_path / carry}", f"--carry={carry}"]) == 0
    without, carried = (rows(tmp_path / carry) for carry in ("false", "true"))
    assert carried[0]["alignment"] == without[0]["alignment"]
    assert carried[1]["alignment"] != without[1]["alignment"]
    assert read_card(tmp_path / "true").training["carry"] is True
    state = torch.load(tmp_path / "true" / "resume.pt", weights_only=True)["step"]
    assert state["inner.perturbations"].shape == (120, 3, 32, 32)
    assert bool(state["inner.perturbations"].flatten(1).any(1).all())
    grown = (tmp_path / "true" / "resume.pt").stat().st_size - (tmp_path / "false" / "resume.pt").stat().st_size
    assert grown == pytest.approx(120 * (3 * 32 * 32 + 1), rel=0.01)


def test_smoothing_trains_on_noise_of_its_own_strength(tiny: Path, tmp_path: Path) -> None:
    words = ["harden", f"--checkpoint={tiny}", "--preset=smoothing", "--fit.epochs=1", "--quiet=true"]
    given = {"preset": [], "half": ["--robustness=0.5"], "the same": ["--noise=0.125"]}
    for name, more in given.items():
        assert main([*words, f"--out={tmp_path / name}", *more]) == 0
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in given}
    assert weights["half"] == weights["the same"] != weights["preset"]
    assert read_card(tmp_path / "preset").training["noise"] == 0.25


def test_noise_that_cannot_be_gets_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["harden", "--checkpoint=x", "--out=y"]
    assert main([*words, "--noise=-1"]) == 2
    assert "`noise` is at least 0.0; got -1.0" in capsys.readouterr().err
    assert main([*words, "--noise=0.25", "--carry=true"]) == 2
    assert "`carry` has no effect on `noise`, which takes the place of the inner attack" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "--defense=query-side --objective=margin",
        "--preset=query-side --adversarial_weight=2",
        "--defense=cgat --quantization_weight=0.1",
        "--preset=trades --defense=distill",  # whose weight is that of the preset
    ],
)
def test_a_setting_without_effect_gets_an_answer(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["harden", "--checkpoint=x", "--out=y", *words.split()]) == 2
    assert "has no effect on" in capsys.readouterr().err


def test_an_unknown_defense_gets_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["harden", "--checkpoint=x", "--out=y", "--defense=pgd"]) == 2
    assert "`defense` is one of" in capsys.readouterr().err


def test_query_side_hardening_keeps_the_codes_of_the_database(tiny: Path, tmp_path: Path) -> None:
    hard, harder = tmp_path / "hard", tmp_path / "harder"
    for source, out in ((tiny, hard), (hard, harder)):
        assert main(["harden", f"--checkpoint={source}", f"--out={out}", "--defense=query-side", *QUICK]) == 0
    parent, card = read_card(tiny), read_card(hard)
    assert parent.database_model is None
    subjects = [load_subject(path, None, None, device=torch.device("cpu"), quiet=True) for path in (tiny, hard, harder)]
    codes = [encode_subject(subject, quiet=True) for subject in subjects]
    assert weights_checksum(subjects[0].model) == card.database_model == read_card(harder).database_model
    for ours in codes[1:]:
        assert torch.equal(ours.database, codes[0].database)
        assert torch.equal(ours.train, codes[0].train)
        assert not torch.equal(ours.query_logits, codes[0].query_logits)
    assert read_card(hard / "database") == parent == read_card(harder / "database")


def test_a_hardened_model_mirrors_in_use_if_asked(tiny: Path, tmp_path: Path) -> None:
    for mirror in (False, True):
        words = ["harden", f"--checkpoint={tiny}", f"--out={tmp_path / str(mirror)}", f"--mirror={mirror}", *QUICK]
        assert main(words) == 0
    (plain, plain_card), (mirrored, card) = (load_checkpoint(tmp_path / str(mirror)) for mirror in (False, True))
    assert (plain.mirror, plain_card.mirror, mirrored.mirror, card.mirror) == (False, False, True, True)
    assert all(torch.equal(value, mirrored.state_dict()[name]) for name, value in plain.state_dict().items())
    assert card.metrics != plain_card.metrics  # measured as it is used


def test_hardening_on_other_images_writes_down_which(tiny: Path, tmp_path: Path) -> None:
    words = ["harden", f"--checkpoint={tiny}", f"--out={tmp_path}", "--defense=pgd-at", *QUICK]
    assert main([*words, "--data.train_size=60"]) == 0
    before, after = read_card(tiny), read_card(tmp_path)
    assert before.manifest["sizes"] == {"train": 120, "query": 20, "database": 150}
    assert after.manifest["sizes"] == {"train": 60, "query": 20, "database": 150}
    assert after.data == before.data | {"train_size": 60}


def test_hardening_into_the_folder_of_the_model_gets_an_answer(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.parent)
    assert main(["harden", f"--checkpoint={tiny}", f"--out={tiny.name}", *QUICK]) == 2
    assert "`out` is another folder than `checkpoint`" in capsys.readouterr().err


def test_a_database_model_of_another_checkpoint_is_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["harden", f"--checkpoint={tiny}", f"--out={tmp_path}", "--defense=query-side", *QUICK]) == 0
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "database" / "model.safetensors")
    assert main(["evaluate", f"--checkpoint={tmp_path}"]) == 2
    assert "is of another model than the card" in capsys.readouterr().err


def test_robustness_multiplies_the_inner_attack(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    pgd = PGD

    def remembered(threat, **options):
        made.append((threat.epsilon, options["step_size"]))
        return pgd(threat, **options)

    monkeypatch.setattr("saat.recipes.harden.PGD", remembered)
    words = ["harden", f"--checkpoint={tiny}", "--epsilon=8/255", "--step_size=2/255", "--robustness=0.5", *QUICK]
    assert main([*words, f"--out={tmp_path}"]) == 0
    assert made == [(pytest.approx(4 / 255), pytest.approx(1 / 255))]
    with pytest.raises(ArgumentError, match="`robustness` is at least"):
        HardenConfig(checkpoint=tiny, out=tmp_path, robustness=-1.0)
