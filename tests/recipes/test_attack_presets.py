"""Every attack by name on a small network, two steps each, and an answer to what does not go together."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from saat.attacks.catalog import GOALS, SEARCHES, NamedGoal, NamedSearch, Traits
from saat.attacks.generative import GENERATORS
from saat.attacks.goals import SemanticGoal
from saat.attacks.papers import PRESETS
from saat.attacks.prototype import fit_prototypes
from saat.cli import COMMANDS, main
from saat.data.catalog import DataOptions
from saat.errors import ArgumentError
from saat.evaluation.report import reproduce
from saat.models.hash_model import HashModel
from saat.parsing import parse
from saat.recipes.attack import AttackConfig, attack
from saat.recipes.attacker import TRAINED, draw_targets
from saat.recipes.subject import Subject, load_subject

pytestmark = pytest.mark.usefixtures("no_pictures")
FEW = ["--data.train_size=40", "--data.query_size=12", "--data.database_size=60"]
ATTACKS = {f"preset {name}": [f"--preset={name}"] for name in PRESETS}
ATTACKS |= {f"search {name}": [f"--search={name}"] for name in SEARCHES}
ATTACKS |= {
    "search sgd": ["--search=sgd", "--step_size=1"],
    "search ngd": ["--search=ngd", "--step_size=1"],
    "search square": ["--search=square", "--steps=4"],
    "search universal": ["--search=universal"],
    "search generator": ["--search=generator", "--goal=prototype", "--targeted=true"],
    "search published-generator": ["--search=published-generator", "--goal=prototype", "--targeted=true"],
    "joined rules": ["--search=di+ti+si-ni"],
    "l2": ["--norm=l2", "--epsilon=0.5", "--search=apgd"],
    "l2 square": ["--norm=l2", "--epsilon=0.5", "--search=square", "--steps=4"],
    "patch": ["--patch=0.1", "--step_size=0.1"],
    "patch apgd": ["--patch=0.1", "--search=apgd"],
    "patch universal": ["--patch=0.1", "--search=universal", "--step_size=0.1"],
    "restarts": ["--restarts=2"],
    "samples of nes": ["--search=nes", "--samples=2"],
    "samples of vmi": ["--search=vmi+ti", "--samples=2"],
}


def run(tiny: Path, out: Path, *more: str) -> dict[str, Any]:
    """Attack, with two steps where no other number is given; return the report."""
    words = ["attack", f"--checkpoint={tiny}", f"--out={out}", "--quiet=true", *FEW, *more]
    if not any(word.startswith("--steps") for word in more):
        words.append("--steps=2")
    assert main(words) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks of THA and ProS-GAN in small: they are tested in test_prototype.py and test_generative.py."""
    monkeypatch.setattr("saat.attacks.catalog.fit_prototypes", partial(fit_prototypes, widths=(64, 16), quiet=True))
    small = replace(GENERATORS["published-generator"], width=8)
    monkeypatch.setattr("saat.recipes.attacker.GENERATORS", {**GENERATORS, "published-generator": small})


def clean_images(tiny: Path) -> torch.Tensor:
    options = DataOptions(train_size=40, query_size=12, database_size=60)
    return load_subject(tiny, None, options, device=torch.device("cpu"), quiet=True).splits.query.images / 255


def test_the_table_names_every_search() -> None:
    assert {f"search {name}" for name in (*SEARCHES, *TRAINED)} <= ATTACKS.keys()


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_runs_within_its_threat_model(name: str, tiny: Path, tmp_path: Path) -> None:
    report = run(tiny, tmp_path, *ATTACKS[name])
    attack = report["attack"]
    saved = load_file(tmp_path / "adversarial.safetensors")
    change = saved["images"] - clean_images(tiny)
    assert float(change.abs().max()) > 0
    assert 0 <= float(saved["images"].min()) <= float(saved["images"].max()) <= 1
    if attack["patch"]:
        changed = (change != 0).any(1).flatten(1).float().mean(1).max().item()
        assert changed <= round(math.sqrt(0.1 * 32 * 32)) ** 2 / 32**2
    elif attack["norm"] == "l2":
        assert float(change.flatten(1).norm(dim=1).max()) <= 0.5 + 1e-5
    else:
        assert float(change.abs().max()) <= attack["epsilon"] + 1e-6
    assert attack["model_evaluations"] > 0
    assert ("t_map_attacked" in report) == attack["targeted"] == ("target_labels" in saved)
    again = parse("attack", COMMANDS["attack"], shlex.split(reproduce(report))[2:])
    same = ("search", "goal", "norm", "patch", "schedule", "samples", "restarts", "seed")
    assert {key: getattr(again, key) for key in same} == {key: attack[key] for key in same}
    assert (*again.pace(), again.epsilon) == pytest.approx((attack["steps"], attack["step_size"], attack["epsilon"]))


def test_a_surrogate_makes_the_images_and_the_model_does_not(tiny: Path, tmp_path: Path) -> None:
    """The same images whatever model is attacked; and one that is its own surrogate is attacked as without."""
    hardened = tmp_path / "hardened"
    words = ["harden", f"--checkpoint={tiny}", f"--out={hardened}", "--fit.epochs=1", "--steps=1", "--quiet=true"]
    assert main(words) == 0
    plain = run(tiny, tmp_path / "plain")
    own = run(tiny, tmp_path / "own", f"--surrogate=[{tiny}]")
    assert own["attacked_map"] == plain["attacked_map"]
    other = run(hardened, tmp_path / "other", f"--surrogate=[{tiny}]")
    images = [load_file(tmp_path / name / "adversarial.safetensors")["images"] for name in ("plain", "own", "other")]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    assert other["attack"]["surrogate"] == [str(tiny)]
    both = run(tiny, tmp_path / "both", f"--surrogate=[{tiny},{hardened}]")
    assert both["attack"]["surrogate"] == [str(tiny), str(hardened)]
    assert not torch.equal(load_file(tmp_path / "both" / "adversarial.safetensors")["images"], images[0])


def test_targets_share_no_label_with_their_query() -> None:
    labels = torch.eye(4)[[0, 1, 2, 3]]
    labels[0, 1] = 1
    targets = draw_targets(labels, torch.eye(4).repeat(20, 1), seed=0)
    assert not bool((labels * targets).any())
    assert targets.sum(1).tolist() == [1] * 4
    everything = torch.ones(1, 4)
    assert draw_targets(everything, torch.eye(4), seed=0).tolist() == [[0] * 4]
    assert not torch.equal(draw_targets(labels, torch.eye(4), seed=1), draw_targets(labels, torch.eye(4), seed=2))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--goal=own-code", "--targeted=true"], "`targeted` needs another `goal` than own-code"),
        (["--goal=anchor"], "`goal` anchor is that of a target, and needs `targeted`"),
        (["--search=generator"], "`search` generator needs `goal` prototype, `targeted`, norm linf, and no `patch`"),
        (["--preset=pros-gan", "--norm=l2"], "`search` generator needs"),
        (["--preset=pros-gan", "--patch=0.1"], "`search` generator needs"),
        (["--preset=pros-gan-published", "--norm=l2"], "`search` published-generator needs"),
        (["--preset=pros-gan", "--surrogate=[x]"], "`search` generator is trained on the attacked model; got a"),
        (["--search=universal", "--surrogate=[x]"], "`search` universal is trained on the attacked model; got a"),
        (["--search=universal", "--targeted=true"], "`search` universal makes one change for all queries"),
        (["--goal=returned-ids"], "`goal` returned-ids sees no gradient, and needs `search`"),
        (["--search=square", "--steps=1"], "`steps` is at least 2; got 1"),
        (["--restarts=0"], "`restarts` is at least 1; got 0"),
        (["--step_size=-1"], "`step_size` is at least 0.0, and finite; got -1"),
        (["--patch=1.5"], "`patch` is a share of the image's area"),
        (["--search=pdg"], "did you mean 'pgd'"),
        (["--goal=centre"], "did you mean 'center'"),
        (["--objective=flip"], "did you mean 'flips'"),
        (
            ["--patch=0.1", "--search=mi"],
            "`patch` needs a search other than mi, ni, si-ni, vmi, di, ti, square; got mi",
        ),
        (["--search=pgd+di"], "`search` joins only mi, ni, si-ni, vmi, di, ti by +, each once; got 'pgd+di'"),
        (["--search=di+ti", "--patch=0.1"], "`patch` needs a search other than mi"),
        (["--search=di+ti", "--restarts=2"], "`restarts` above 1 need `search` pgd or apgd"),
        (["--last=true", "--restarts=2"], "`restarts` above 1 need `search` pgd or apgd, without `last`; got pgd"),
        (["--search=bim", "--restarts=2"], "`search` pgd or apgd, without `last`; got bim"),
        (["--goal=relevant-codes", "--search=apgd"], "`goal` relevant-codes is an attack on the last iterate"),
        (["--goal=relevant-codes", "--restarts=3"], "other than apgd, annealed, square, nes; got 3 restarts"),
        (["--search=adam", "--restarts=2"], "got adam"),
        (["--search=nes", "--samples=0"], "`samples` is at least 1; got 0"),
        (["--search=ni+ti", "--samples=2"], "`samples` are for `search` vmi or nes; got ni+ti"),
        (["--search=ngd"], "`search` ngd steps along the gradient and needs a `step_size`; got none"),
        (["--search=apgd", "--step_size=0.5"], "`search` apgd chooses the length of its steps; got `step_size`"),
        (["--search=fgsm", "--step_size=0.5"], "`search` fgsm chooses the length of its steps; got `step_size`"),
        (["--goal=relevant-codes", "--objective=hag"], "`goal` relevant-codes has an objective of its own; got"),
        (["--search=apgd", "--last=true"], "`last` needs a search other than apgd, annealed, square, nes; got apgd"),
    ],
)
def test_what_does_not_go_together_is_named(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", "--checkpoint=x", "--out=y", *more]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_what_goes_with_a_search_or_a_goal_of_ones_own_is_said_by_its_entry(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path
) -> None:
    own = Traits(gradient=False, step="chosen", everywhere=True)
    monkeypatch.setitem(cast(dict[str, NamedSearch], SEARCHES), "own", NamedSearch(SEARCHES["square"].make, own))
    toward = NamedGoal(lambda o: SemanticGoal(o.bank, make_objective=o.make_objective, targeted=True), aim="toward")
    monkeypatch.setitem(cast(dict[str, NamedGoal], GOALS), "own-goal", toward)
    for refused, message in (
        ({"last": True}, "`last` needs a search other than .*, own; got own"),
        ({"patch": 0.1}, "`patch` needs a search other than .*, own; got own"),
        ({"restarts": 2}, "`restarts` above 1 need `search` pgd or apgd, without `last`; got own"),
        ({"samples": 2}, "`samples` are for `search` vmi or nes; got own"),
        ({"goal": "relevant-codes"}, "an attack on the last iterate, and needs .*, own; got own"),
        ({"goal": "own-goal"}, "`goal` own-goal is that of a target"),
    ):
        with pytest.raises(ArgumentError, match=message):
            AttackConfig(out=tmp_path, search="own", **refused)
    assert AttackConfig(out=tmp_path, search="own", goal="returned-ids").pace() == (100, None)
    config = AttackConfig(out=tmp_path, checkpoint=tiny, search="own", goal="own-goal", targeted=True, steps=3)
    report = attack(replace(config, quiet=True))["attack"]
    assert (report["gradients"], report["vanished_at_start"], report["step_size"]) == (0, 0.0, None)


def test_what_an_entry_need_not_say_is_read_off_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(cast(dict[str, NamedSearch], SEARCHES), "bare", NamedSearch(SEARCHES["apgd"].make))
    monkeypatch.setitem(cast(dict[str, NamedGoal], GOALS), "own-ids", GOALS["returned-ids"])
    for refused, message in (
        ({"search": "bare", "last": True}, "`last` needs a search other than apgd, .*, bare; got bare"),
        ({"search": "bare", "goal": "relevant-codes"}, "on the last iterate, and needs .*, bare; got bare"),
        ({"service": "http://x"}, "`service` .* needs `goal` returned-ids or own-ids; got mainstay"),
    ):
        with pytest.raises(ArgumentError, match=message):
            AttackConfig(out=tmp_path, **refused)
    assert AttackConfig(out=tmp_path, search="bare", goal="relevant-codes", targeted=True).keeps_best


def test_a_joined_search_has_one_name_in_reports() -> None:
    for typed in ("di+ti", "ti+di", "ti+mi+di"):
        assert AttackConfig(out=Path("y"), search=typed).search == "di+ti"
    assert AttackConfig(out=Path("y"), search="ni+si-ni").search == "si-ni"


def test_a_step_is_an_eighth_of_the_radius_unless_given(tiny: Path, tmp_path: Path) -> None:
    given: dict[str, tuple[list[str], tuple[int, float | None]]] = {
        "linf": ([], (2, 1 / 255)),
        "l2": (["--norm=l2", "--epsilon=0.5"], (2, 0.0625)),
        "patch": (["--patch=0.1"], (2, 0.125)),
        "own": (["--norm=l2", "--epsilon=0.5", "--step_size=0.1"], (2, 0.1)),
        "fgsm": (["--search=fgsm"], (1, 8 / 255)),
        "apgd": (["--search=apgd"], (2, None)),
        "paper": (["--preset=paper", "--epsilon=16/255"], (2, 1 / 255)),
        "ngd": (["--preset=dhta-published"], (2, 1.0)),
    }
    for name, (words, (steps, size)) in given.items():
        attack = run(tiny, tmp_path / name, *words)["attack"]
        assert (attack["steps"], attack["step_size"]) == (steps, pytest.approx(size)), name


def test_away_from_relevant_codes_the_last_iterate_counts(tiny: Path, tmp_path: Path) -> None:
    report = run(tiny, tmp_path, "--goal=relevant-codes", "--steps=10")
    assert report["attack"]["last"] is True
    changed = (load_file(tmp_path / "adversarial.safetensors")["images"] != clean_images(tiny)).flatten(1).any(1)
    assert bool(changed.all())


def test_an_attack_without_gradients_is_flagged(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tiny, tmp_path / "sound")["attack"]["vanished_at_start"] == 0.0
    forward = HashModel.forward
    monkeypatch.setattr(HashModel, "forward", lambda self, images: forward(self, (images * 63).round() / 63))
    report = run(tiny, tmp_path / "masked")
    assert report["attack"]["vanished_at_start"] == 1.0
    assert "vanished-gradients" in [flag["name"] for flag in report["flags"]]
    assert report["unreliable"] is True
    assert run(tiny, tmp_path / "blind", "--search=nes")["attack"]["vanished_at_start"] == 0.0  # it asks for none


def test_a_surrogate_that_knows_other_labels_is_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*arguments: Any, **options: Any) -> Subject:
        found = load_subject(*arguments, **options)
        names = tuple(f"animal{number}" for number in range(10))
        return replace(found, splits=replace(found.splits, class_names=names))

    words = ["attack", f"--checkpoint={tiny}", f"--surrogate=[{tiny}]", f"--out={tmp_path}", "--quiet=true", *FEW]
    with monkeypatch.context() as patch:  # the attacked model is loaded by the recipe, surrogates where this is
        patch.setattr("saat.recipes.subject.load_subject", other)
        assert main(words) == 2
    assert "`surrogate` knows the attacked model's 10 labels" in capsys.readouterr().err
